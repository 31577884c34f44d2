"""The errors that clients can see, each with its HTTP status, and the JSON object that carries them.

    CopyistError
    ├── InvalidRequestError     400  a field is missing, malformed or beyond its limit; `param` names it
    │   └── InvalidTokenError   400  a state or stream token cannot be used here; `code` says why
    ├── AuthenticationError     401  the request has no valid key
    ├── ModelNotFoundError      404  there is no model of that name, or it cannot do this
    ├── StreamNotFoundError     404  the URL is not that of a stream, or no longer; `code` says why
    ├── HeadersTimeoutError     408  the headers did not arrive in time
    ├── BodyTimeoutError        408  the body did not arrive in time
    ├── BodyTooLargeError       413  the body is larger than the limit
    ├── MediaTypeError          415  the Content-Type is not JSON
    ├── HeadersTooLargeError    431  the headers are larger than the limit
    ├── EngineFailureError      500  a step of the network failed
    └── OverloadedError              the client may try again after `retry_after_s`
        ├── QueueFullError      429  the queue is full
        ├── RateLimitError      429  the key has used up its steps
        ├── ConnectionsError    503  too many connections are open
        ├── ShuttingDownError   503  the service is stopping
        └── NotReadyError       503  the engine makes no progress

The body is OpenAI's error object and always has its four keys: message, type, param, code. Messages name fields and
limits. They never repeat what a client sent, and never show internals.
"""

from typing import ClassVar

import orjson
from starlette.responses import Response
from starlette.types import Message, Scope, Send
from structlog.contextvars import bind_contextvars


class CopyistError(Exception):
    """Base of all errors that a client may see.

    Args:
        message: one sentence for the client.
        param: the request field at fault, if any.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    @property
    def headers(self) -> dict[str, str]:
        """Response headers of this error."""
        return {}

    @property
    def body(self) -> bytes:
        """The error as OpenAI's JSON object."""
        return error_body(self.message, self.type, self.param, self.code)


class InvalidRequestError(CopyistError):
    """A field of the request is invalid."""

    status = 400
    type = "invalid_request_error"


class InvalidTokenError(InvalidRequestError):
    """A state or stream token of the request cannot be used.

    Args:
        why: one word; the code is `invalid_token_` followed by it.
        message: one sentence for the client.
        param: the request field that held the token.
    """

    def __init__(self, why: str, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.code = f"invalid_token_{why}"


class AuthenticationError(CopyistError):
    """The request has no API key, or not a valid one.

    Args:
        is_wrong: whether the request has a key.
    """

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"

    def __init__(self, *, is_wrong: bool) -> None:
        super().__init__(
            "The API key is not known here."
            if is_wrong
            else "An API key is needed; send it as Authorization: Bearer KEY."
        )
        self._is_wrong = is_wrong

    @property
    def headers(self) -> dict[str, str]:
        """The challenge that a 401 must carry."""
        return {"www-authenticate": 'Bearer realm="copyist"' + ', error="invalid_token"' * self._is_wrong}


class ModelNotFoundError(CopyistError):
    """There is no model of the requested name, or it cannot do what was requested."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class StreamNotFoundError(CopyistError):
    """The URL is not that of a stream, or the stream has expired, or its key is no longer valid.

    Args:
        message: one sentence for the client.
        code: code of the error of the token in the URL, if it has one.
    """

    status = 404
    type = "invalid_request_error"

    def __init__(self, message: str, code: str | None) -> None:
        super().__init__(message, "token")
        self.code = code


class HeadersTimeoutError(CopyistError):
    """The request's headers did not arrive within their time limit."""

    status = 408
    type = "invalid_request_error"
    code = "headers_timeout"


class BodyTimeoutError(CopyistError):
    """The request's body did not arrive within its time limit."""

    status = 408
    type = "invalid_request_error"
    code = "body_timeout"


class BodyTooLargeError(CopyistError):
    """The request's body is too large, by its declared or its counted length."""

    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class MediaTypeError(CopyistError):
    """The request's Content-Type is not JSON."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class HeadersTooLargeError(CopyistError):
    """The request's target and headers are too large, or there are too many headers."""

    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"


class EngineFailureError(CopyistError):
    """A step of the network failed and ended this request; requests outside that step continue."""

    code = "engine_failure"

    @property
    def headers(self) -> dict[str, str]:
        """Asks clients not to retry automatically: the same request would most likely fail at the same step."""
        return {"x-should-retry": "false"}


class OverloadedError(CopyistError):
    """Base of errors after which trying again later may help.

    Args:
        message: one sentence for the client.
        retry_after_s: seconds until the client should try again.
    """

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After, the standard header, and x-should-retry, which OpenAI's clients look at first."""
        return {"retry-after": str(self.retry_after_s), "x-should-retry": "true"}


class QueueFullError(OverloadedError):
    """The queue is full."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class RateLimitError(OverloadedError):
    """The key has used up its steps for now, or the request costs more steps than a key may ever have.

    Args:
        message: one sentence for the client.
        retry_after_s: seconds until the client should try again; 0 if trying again never helps.
    """

    status = 429
    type = "rate_limit_error"
    code = "rate_limited"

    @property
    def headers(self) -> dict[str, str]:
        """When to try again, if it can help."""
        return super().headers if self.retry_after_s else {"x-should-retry": "false"}


class ConnectionsError(OverloadedError):
    """Too many connections are open."""

    status = 503
    type = "unavailable_error"
    code = "too_many_connections"


class ShuttingDownError(OverloadedError):
    """The service is stopping: it finishes running requests and accepts no new ones."""

    status = 503
    type = "unavailable_error"
    code = "shutting_down"


class NotReadyError(OverloadedError):
    """The service is not ready for requests."""

    status = 503
    type = "unavailable_error"
    code = "not_ready"


def error_body(message: str, kind: str, param: str | None, code: str | None) -> bytes:
    """Return OpenAI's error object as JSON. All four keys are always present."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def response_of(error: CopyistError) -> Response:
    """Return the response for an error, and record its code for the log and the metrics."""
    bind_contextvars(error=error.code or error.type)
    return Response(error.body, error.status, error.headers, "application/json")


async def refuse(error: CopyistError, scope: Scope, send: Send) -> None:
    """Answer with an error and close the connection, as the rest of the body may not have been read."""
    response = response_of(error)
    response.headers["connection"] = "close"
    await response(scope, _nothing, send)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
