"""What the OpenAPI description says beyond the types: errors, examples of events, limits, and what is served."""

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.access.auth import STREAM_PATH
from service.api.schemas.completions import SYMBOL_FORMAT, configured_limits
from service.api.schemas.fields import ErrorReply
from service.api.schemas.handwriting import ink_limits
from service.handwriting.copybook import writer as copybook
from service.registry.registry import ModelRegistry
from service.registry.served import TextModel
from service.settings import Settings

ABOUT = """Copyist writes text and handwriting with a Hierarchical Multiscale LSTM and returns, for every step, where
the network places segment boundaries.

`z` of a layer is 1 where it found a boundary; an operation is `U` (UPDATE), `C` (COPY: not computed) or `F` (FLUSH).
Columns have one entry per character or point. The same request with the same `seed` gets the same reply, alone or under
load. Every error is OpenAI's error object with the keys message, type, param and code."""

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "A field is missing, odd or beyond its limit; `param` names it."},
    404: {"model": ErrorReply, "description": "There is no such model."},
    408: {"model": ErrorReply, "description": "The body did not arrive in time."},
    413: {"model": ErrorReply, "description": "The body is too large."},
    415: {"model": ErrorReply, "description": "The body is not JSON."},
    429: {"model": ErrorReply, "description": "As many requests wait as may; see Retry-After."},
    500: {"model": ErrorReply, "description": "A step of the engine failed."},
    503: {"model": ErrorReply, "description": "The service is shutting down or stuck; see Retry-After."},
}

_TEXT_REQUESTS = ("CompletionRequest", "TokenizeRequest", "DetokenizeRequest", "SegmentRequest")


def _events(*examples: str) -> dict[str, Any]:
    """Document a stream by what it looks like."""
    text = "".join(f"data: {example}\n\n" for example in (*examples, "[DONE]"))
    return {"text/event-stream": {"example": text}}


COMPLETION_EVENTS = _events(
    '{"id":"cmpl-1","object":"text_completion","created":1790000000,"model":"prose","system_fingerprint":"copyist",'
    '"choices":[{"index":0,"text":"an","logprobs":null,"finish_reason":null,"z":[[0,1],[0,0]],"op":["UU","CU","CC"]}]}',
    '{"id":"cmpl-1","object":"text_completion","created":1790000000,"model":"prose","system_fingerprint":"copyist",'
    '"choices":[{"index":0,"text":"d","logprobs":null,"finish_reason":"length","z":[[0],[0]],"op":["F","C","C"]}],'
    '"seed":1}',
)
HANDWRITING_EVENTS = _events(
    '{"object":"handwriting.chunk","model":"ink-free","system_fingerprint":"copyist","start":0,"x":[0.0,0.32],'
    '"y":[0.0,-0.11],"t":[0.0,0.015],"pen":[0,1],"line":[0,0],"z":[[0,1],[0,0]],"op":["UU","CU","CC"],'
    '"segment":[[0,0],[0,0]],"finish_reason":null}',
    '{"object":"handwriting.chunk","model":"ink-free","system_fingerprint":"copyist","start":2,"x":[1.88],"y":[0.08],'
    '"t":[0.21],"pen":[0],"line":[0],"z":[[0],[0]],"op":["F","C","C"],"segment":[[1],[0]],"finish_reason":"length",'
    '"seed":1,"pages":[{"left":-4.0,"top":-4.11,"width":9.88,"height":8.19}],'
    '"usage":{"points":3,"strokes":2,"steps":3,"layer_updates":[3,1,0],'
    '"operations":{"U":[3,1,0],"C":[0,2,3],"F":[0,0,0]},"work_spared":0.7}}',
)


def describe(app: FastAPI, settings: Settings, registry: ModelRegistry) -> dict[str, Any]:
    """Return the OpenAPI description of an application under these settings and with these bundles."""
    description = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = description["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path in description["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # FastAPI promises it, but ours are 400
    for name, fields in {**configured_limits(settings), **ink_limits(settings)}.items():
        for field, limits in fields.items():
            schema = schemas[name]["properties"][field]
            # What may be null already is a choice of schemas, and the limits belong to the first of them.
            (schema if limits.keys() & schema.keys() or "anyOf" not in schema else schema["anyOf"][0]).update(limits)
    for name in [name for name in schemas if name.endswith("Request")] + ["StreamOptions"]:
        _allow_null(schemas[name])
    _name_bundles(description, registry)
    sizes = [model.codec.size for model in registry if isinstance(model, TextModel)]
    if sizes:
        _bound_symbols(schemas, max(sizes) - 1)
    return description


def _name(example: dict[str, Any] | None, served: list[str]) -> None:
    """Let an example ask for a bundle that is served, if there is one."""
    if example and served and example.get("model", served[0]) not in served:
        example["model"] = served[0]


def _bound_symbols(schema: Any, last: int) -> None:
    """Say of each id of a symbol, however deep, how large it may be."""
    if isinstance(schema, list):
        for each in schema:
            _bound_symbols(each, last)
    elif isinstance(schema, dict):
        if schema.get("format") == SYMBOL_FORMAT:
            schema["maximum"] = last
        for each in schema.values():
            _bound_symbols(each, last)


def _name_bundles(description: dict[str, Any], registry: ModelRegistry) -> None:
    """Name bundles that are served, and no others, wherever an example of one is given."""
    schemas, kinds = description["components"]["schemas"], {True: list[str](), False: [copybook.NAME]}
    for model in registry:
        kinds[isinstance(model, TextModel)].append(model.name)
    for name in _TEXT_REQUESTS:
        schema = schemas[name]
        schema["properties"]["model"]["examples"] = kinds[True]
        for example in schema.get("examples", ()):
            _name(example, kinds[True])
    schemas["SegmentRequest"]["properties"]["model"]["examples"] = kinds[True] + kinds[False][1:]
    for example in schemas["StreamRequest"]["examples"]:
        _name(example.get("completion"), kinds[True])
    schemas["HandwritingRequest"]["properties"]["model"]["examples"] = kinds[False]
    for path in description["paths"].values():
        for operation in path.values():
            for given in operation.get("parameters", ()):
                if given["name"] in {"name", "model"}:
                    given["schema"]["examples"] = kinds[True] + kinds[False] * (given["name"] == "name")


def _allow_null(schema: dict[str, Any]) -> None:
    """Say that null may stand for any field that may be left out."""
    for name, field in schema["properties"].items():
        if name not in schema.get("required", ()):
            notes = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **notes}


def describe_keys(description: dict[str, Any], open_paths: Collection[str]) -> None:
    """Say in an OpenAPI description that keys are needed, and where not."""
    description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    description["components"]["schemas"].setdefault("ErrorReply", ErrorReply.model_json_schema())
    refusal = {
        "description": "There is no key with the request, or not one that is known.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorReply"}}},
    }
    for path, operations in description["paths"].items():
        for operation in operations.values():
            if path not in open_paths and not path.startswith(STREAM_PATH):
                operation["security"] = [{"key": []}]
                operation["responses"]["401"] = refusal
