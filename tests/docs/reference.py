"""Renders an OpenAPI description as the routes of docs/api.md: fields, limits, replies, and requests to copy."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

MARK = "<!-- From here on made from /openapi.json: pytest tests/docs --renew-golden -->"
BASE = "http://127.0.0.1:8000"
LONG = 2**62
KNOWN_PATHS = {"{name}": "prose", "{model}": "prose"}  # what stands for a part of a path in an example
TITLES = {"application/json": "Reply", "text/event-stream": "Reply to a request with `stream`"}


def render(description: Schema) -> str:
    """Return everything below the mark."""
    lines: list[str] = []
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            lines += _operation(method.upper(), path, operation, description)
    return "\n".join(lines) + "\n"


def _operation(method: str, path: str, operation: Schema, description: Schema) -> list[str]:
    """One route."""
    lines = ["", f"## `{method} {path}`", "", *_paragraphs(operation.get("summary", ""), operation.get("description"))]
    lines += _parameters(operation, description)
    request = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if request:
        schema = _resolved(request, description)
        lines += ["", "| field | type | default | |", "|---|---|---|---|"]
        lines += [_row(name, field, description, with_default=True) for name, field in _fields(schema, description)]
        examples = schema.get("examples", [])
        lines += [line for example in examples for line in _example(path, example)]
    elif method == "GET" and not _open_parts(path):
        lines += _example(path, None)
    return lines + _replies(operation["responses"], description)


def _paragraphs(summary: str, text: str | None) -> list[str]:
    body = " ".join((text or "").split())
    return [f"**{summary}.** {body}".rstrip()]


def _parameters(operation: Schema, description: Schema) -> list[str]:
    """What goes into the path, the query and the headers."""
    rows = [
        f"| `{given['name']}` ({given['in']}) | {_type(given.get('schema', {}), description)} "
        f"| {_cell(given.get('description') or given.get('schema', {}).get('description', ''))} |"
        for given in operation.get("parameters", [])
    ]
    return ["", "| parameter | type | |", "|---|---|---|", *rows] if rows else []


def _example(path: str, body: Any) -> list[str]:
    """A command to copy; -N where the answer is a stream."""
    for part, name in KNOWN_PATHS.items():
        path = path.replace(part, name)
    if body is None:
        return ["", "```bash", f"curl -s {BASE}{path}", "```"]
    flag = "-sN" if isinstance(body, dict) and body.get("stream") else "-s"
    words = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
    return [
        "", "```bash", f"curl {flag} {BASE}{path} -H 'content-type: application/json' \\", f"  -d '{words}'", "```",
    ]  # fmt: skip


def _open_parts(path: str) -> bool:
    """Whether a path has a part that no example can know."""
    for part in KNOWN_PATHS:
        path = path.replace(part, "")
    return "{" in path


def _replies(responses: Schema, description: Schema) -> list[str]:
    """The fields of what comes back when all is well, and the statuses there are."""
    lines: list[str] = []
    for kind, content in responses.get("200", {}).get("content", {}).items():
        example = content.get("example")
        if kind == "application/json" and content.get("schema"):
            for way in _ways(content["schema"]):
                schema = _resolved(way, description)
                about = f": {schema['description']}" if len(_ways(content["schema"])) > 1 else ":"
                lines += ["", f"{TITLES[kind]} (`{kind}`){about}", "", "| field | type | |", "|---|---|---|"]
                lines += [_row(name, field, description) for name, field in _fields(schema, description)]
        elif isinstance(example, str):
            title = TITLES.get(kind, "Reply")
            lines += ["", f"{title} (`{kind}`):", "", "```text", *example.strip().splitlines(), "```"]
        else:
            lines += ["", f"Or `{kind}`."]
    statuses = [f"- {status}: {answer['description']}" for status, answer in responses.items() if status != "200"]
    return [*lines, "", "Statuses:", "", *statuses] if statuses else lines


def _fields(schema: Schema, description: Schema, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Schema]]:
    """Yield every field with its full name: `stream_options.include_usage`, `choices[].text`."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        yield prefix + name, {**field, "is_required": name in required}
        inner, brackets = _inner(field, description)
        if inner and depth < 3:
            yield from _fields(inner, description, f"{prefix}{name}{brackets}.", depth + 1)


def _inner(field: Schema, description: Schema) -> tuple[Schema | None, str]:
    """The object that a field holds, or that its list holds, if it is one."""
    for way in _ways(field):
        found = _resolved(way, description)
        if found.get("title", "").endswith("Request"):
            continue  # it has a place of its own
        if found.get("properties"):
            return found, ""
        items = _resolved(found.get("items") or {}, description)
        if items.get("properties"):
            return items, "[]"
    return None, ""


def _row(name: str, field: Schema, description: Schema, *, with_default: bool = False) -> str:
    cells = [f"`{name}`", _type(field, description)]
    if with_default:
        cells.append("required" if field["is_required"] else _default(field))
    return f"| {' | '.join(cells)} | {_cell(field.get('description', ''))} |"


def _default(field: Schema) -> str:
    value = field.get("default")
    return "" if value is None or isinstance(value, dict) else f"`{json.dumps(value, ensure_ascii=False)}`"


def _type(field: Schema, description: Schema) -> str:
    """A type in words, with its limits."""
    words = [_one_type(_resolved(way, description), description) for way in _ways(field)]
    return " or ".join(dict.fromkeys(word for word in words if word)) or "anything"


def _ways(field: Schema) -> list[Schema]:
    """What a field may be, null aside: that means absent."""
    ways = field.get("anyOf") or field.get("oneOf")
    if not ways:
        return [] if field.get("type") == "null" else [field]
    return [inner for way in ways for inner in _ways(way)]


def _one_type(schema: Schema, description: Schema) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("format", schema.get("type", ""))
    low, high = schema.get("minimum"), schema.get("maximum")
    if kind in ("integer", "number"):
        is_long = kind == "integer" and high is not None and high > LONG
        return "integer of 64 bits" if is_long else f"{kind}{_range(low, high)}"
    if kind == "string":
        return f"string{_range(schema.get('minLength'), schema.get('maxLength'), ' characters')}"
    if kind == "array":
        inner = _type(schema.get("items", {}), description)
        inner = f"({inner})" if "," in inner or " or " in inner else inner
        return f"list{_range(schema.get('minItems'), schema.get('maxItems'))} of {inner}"
    if "anyOf" in schema:
        return _type(schema, description)
    return str(kind).replace("-", " ")


def _range(low: float | None, high: float | None, unit: str = "") -> str:
    if low is None and high is None:
        return ""
    if low is None:
        return f", at most {high:.8g}{unit}"
    if high is None:
        return f", at least {low:.8g}{unit}"
    return f", {low:.8g} to {high:.8g}{unit}"


def _resolved(schema: Schema, description: Schema) -> Schema:
    """Follow a reference within the description."""
    if "$ref" not in schema:
        return schema
    found: Schema = description["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
