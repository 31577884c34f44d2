"""docs/operating.md lists every setting, every refusal and every metric as they are; --renew-golden writes it anew."""

import re
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.errors import CopyistError, OverloadedError
from service.settings import Settings
from tests.service.live_server import ROOT, Server

PAGE = ROOT / "docs" / "operating.md"


def table(head: str, rows: Seq[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    names = head.split("|")
    return "\n".join("| " + " | ".join(row) + " |" for row in (names, ["---"] * len(names), *rows))


def check(name: str, expected: str, renew: bool) -> None:
    """Hold a part of the page, between its marks, to what it should say."""
    text = PAGE.read_text()
    part = re.compile(rf"(?<=<!-- {name} -->\n)(.*?\n)?(?=<!-- /{name} -->)", re.DOTALL)
    found = part.search(text)
    assert found
    if renew:
        PAGE.write_text(text[: found.start()] + expected + "\n" + text[found.end() :])
    else:
        assert found[0].rstrip() == expected, "run the tests of this file with --renew-golden"


def allowed(field: dict[str, Any]) -> str:
    """What a setting may be, from its schema."""
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    kind = kinds[0]
    if "enum" in kind:
        return ", ".join(f"`{each}`" for each in kind["enum"])
    if kind["type"] == "boolean":
        return "`true` or `false`"
    lowest = kind.get("minimum", f"above {kind['exclusiveMinimum']:g}" if "exclusiveMinimum" in kind else None)
    if lowest is not None:
        low = lowest if isinstance(lowest, str) else number(lowest)
        return f"{low} to {number(kind['maximum'])}"
    return (
        "a list"
        if kind["type"] == "array"
        else {"path": "a folder", "file-path": "a file"}.get(kind.get("format", ""), "text")
    )


def number(value: float) -> str:
    """A number as people write it; whether a whole one is an int or a float differs between versions of pydantic."""
    return f"{int(value) if value == int(value) else value:,}"


def default(name: str) -> str:
    """What a setting is when nobody sets it."""
    value = getattr(Settings(), name)
    if name == "bundles":
        return "the shipped ones"
    if value in (None, ()):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    return f"{value:,}" if isinstance(value, (int, float)) and name != "port" else f"`{value}`"


def test_settings_are_listed(renew_golden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting with its default, what it may be, and what it is for."""
    schema = Settings.model_json_schema()["properties"]
    for name in schema:
        monkeypatch.delenv(f"COPYIST_{name.upper()}", raising=False)
    rows = [
        (f"`COPYIST_{name.upper()}`", default(name), allowed(field), field["description"].rstrip("."))
        for name, field in schema.items()
    ]
    check("settings", table("variable|default|may be|what it is", rows), renew_golden)


def errors(kind: type[CopyistError] = CopyistError) -> Iterator[type[CopyistError]]:
    """Every error that a client may see."""
    for each in kind.__subclasses__():
        if each is not OverloadedError:
            yield each
        yield from errors(each)


def test_answers_are_listed(renew_golden: bool) -> None:
    """Every error with its status, type, code and when it is told."""
    rows = sorted(
        (
            str(each.status),
            f"`{each.code}`" if each.code else "",
            f"`{each.type}`",
            str(each.__doc__).split("\n")[0].rstrip("."),
        )
        for each in errors()
    )
    assert len({row[1] for row in rows if row[1]}) >= 12
    check("answers", table("status|code|type|when", rows), renew_golden)


def test_metrics_are_listed(server: Server, renew_golden: bool) -> None:
    """Every metric of ours with its type, labels and what it is."""
    server.complete(model="nobody")
    server.events("/v1/completions", model="small-text", prompt="a", max_tokens=3)
    server.draw(max_points=2)
    rows = []
    for family in text_string_to_metric_families(server.client.get("/metrics").text):
        if family.name.startswith("copyist_"):
            labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
            suffix = "_total" if family.type == "counter" else ""
            listed = ", ".join(f"`{label}`" for label in labels)
            rows.append((f"`{family.name}{suffix}`", family.type, listed, family.documentation.rstrip(".")))
    check("metrics", table("metric|type|labels|what it is", sorted(rows)), renew_golden)
