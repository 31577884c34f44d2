"""docs/api.md: its routes are those of /openapi.json, field by field, and its examples work."""

import json
from typing import Any

import pytest

from tests.docs.blocks import Block, Shell, blocks
from tests.docs.reference import MARK, render
from tests.service.live_server import ROOT, Server

PAGE = ROOT / "docs" / "api.md"
EXAMPLES = [block for block in blocks(PAGE) if block.language == "bash"]

pytestmark = pytest.mark.xdist_group("service")


@pytest.fixture(scope="module")
def description(shipped_server: Server) -> dict[str, Any]:
    """What the service says of itself, under its defaults."""
    found: dict[str, Any] = shipped_server.client.get("/openapi.json").json()
    return found


def test_the_page_is_what_the_service_says(description: dict[str, Any], renew_golden: bool) -> None:
    """Every route, field, default, limit and status below the mark is that of the description."""
    written, mark, routes = PAGE.read_text(encoding="utf-8").partition(MARK)
    assert mark
    if renew_golden:
        PAGE.write_text(written + mark + "\n" + render(description), encoding="utf-8")
        return
    assert routes.strip() == render(description).strip(), "renew the page: pytest tests/docs --renew-golden"


def test_a_change_of_the_service_would_be_noticed(description: dict[str, Any]) -> None:
    """A field more, another limit, another default or another word changes the page."""
    page = render(description)
    schemas = description["components"]["schemas"]
    for field, change in (
        ("max_tokens", {"description": "Another word."}),
        ("max_tokens", {"default": 17}),
        ("temperature", {"anyOf": [{"type": "number", "maximum": 3}]}),
        ("another", {"type": "string"}),
    ):
        request = schemas["CompletionRequest"]
        fields = {**request["properties"], field: {**request["properties"].get(field, {}), **change}}
        changed = {**schemas, "CompletionRequest": {**request, "properties": fields}}
        assert render({**description, "components": {"schemas": changed}}) != page


def test_every_route_has_its_place(description: dict[str, Any]) -> None:
    """Each path of the description is a heading of the page."""
    headings = {line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("## `")}
    assert headings == {
        f"## `{method.upper()} {path}`" for path, operations in description["paths"].items() for method in operations
    }


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_an_example_works(block: Block, shell: Shell) -> None:
    """The command succeeds as it stands and something comes back; a stream comes to its end."""
    reply = shell.run(block.text)
    assert reply
    if '"stream": true' in block.text:
        assert reply.endswith("data: [DONE]\n\n")
        assert all("error" not in json.loads(event[6:]) for event in reply.split("\n\n")[:-2] if event[:6] == "data: ")


def test_the_error_of_the_page_is_the_services(shipped_server: Server) -> None:
    """What the page shows as an error is what a client gets."""
    shown = next(json.loads(block.text) for block in blocks(PAGE) if block.language == "json")
    body = {"model": "prose", "prompt": "x", "max_tokens": 4097}
    assert shipped_server.post("/v1/completions", **body).json() == shown
