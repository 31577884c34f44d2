from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.errors import CopyistError, EngineFailureError, InvalidRequestError, error_body, response_of

_log = structlog.get_logger(__name__)


def install(app: FastAPI) -> None:
    """Make an application answer every error with the error object."""
    app.add_exception_handler(CopyistError, _on_copyist_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unforeseen)


def describe_problem(problem: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return (message, param) for one of pydantic's findings, without a word of the input.

    Args:
        problem: an entry of `ValidationError.errors()`.
    """
    place = list(problem["loc"][1:])  # the first says whether it was body or query
    kind = problem["type"]
    if kind == "json_invalid":
        return "The body is not valid JSON.", None
    param = _param(place)
    if param is None:
        return "The body must be a JSON object.", None
    if kind == "missing":
        return f"{param} is required.", param
    if kind == "extra_forbidden":
        return f"{param} is not a field of this request, or not one that is supported.", param
    reason = str(problem["msg"]).removeprefix("Value error, ")
    return f"{param}: {reason[:1].lower()}{reason[1:]}.", param


def _param(place: list[Any]) -> str | None:
    """Name a field as prompt or stop[1]; the part a client made up is shortened and made printable."""
    if not place or not isinstance(place[0], str):
        return None
    name = "".join(character if character.isprintable() else "?" for character in place[0][:64])
    return name + "".join(f"[{part}]" for part in place[1:] if isinstance(part, int))


async def _on_copyist_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, CopyistError)
    return response_of(error)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    message, param = describe_problem(error.errors()[0])
    return response_of(InvalidRequestError(message, param))


async def _on_http_exception(_: Request, error: Exception) -> Response:
    """Routing's own refusals (404, 405) and FastAPI's (400) in our shape."""
    assert isinstance(error, HTTPException)
    body = error_body(str(error.detail), "invalid_request_error", None, None)
    return Response(body, error.status_code, error.headers, "application/json")


async def _on_unforeseen(_: Request, error: Exception) -> Response:
    """A fault of ours: the log gets everything, the client only that it happened."""
    _log.error("unforeseen", exc_info=error)
    return response_of(EngineFailureError("The service failed to answer this request."))
