"""What can go wrong, each with its HTTP status, and the one shape in which clients see it.

    CopyistError
    ├── InvalidRequestError     400  a field is missing, odd or beyond its limit; `param` names it
    │   └── InvalidTokenError   400  a state or stream token cannot be used here; `code` says why
    ├── AuthenticationError     401  there is no key, or not one that is known
    ├── ModelNotFoundError      404  no bundle of that name is served, or none that does what was asked for
    ├── StreamNotFoundError     404  there is no stream at that URL, or no longer; `code` says why
    ├── HeadersTimeoutError     408  the head did not arrive in time
    ├── BodyTimeoutError        408  the body did not arrive in time
    ├── BodyTooLargeError       413  the body is larger than the limit
    ├── MediaTypeError          415  the body is not JSON by its own account
    ├── HeadersTooLargeError    431  the request's head is larger than the limit
    ├── EngineFailureError      500  a step failed; the request cannot be continued
    └── OverloadedError              try again after `retry_after_s`
        ├── QueueFullError      429  as many requests wait as may
        ├── RateLimitError      429  a key has used up its steps
        ├── ConnectionsError    503  as many connections are open as may
        ├── ShuttingDownError   503  the service is about to stop
        └── NotReadyError       503  the engine does not move

The body is OpenAI's error object and always has its four keys: message, type, param, code. Messages name fields and
limits; they never repeat what a client sent, and never tell what is inside.
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
        param: the request field it is about, if any.
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
        """Headers that go with the status."""
        return {}

    @property
    def body(self) -> bytes:
        """OpenAI's error object as JSON."""
        return error_body(self.message, self.type, self.param, self.code)


class InvalidRequestError(CopyistError):
    """A field of the request cannot be honoured as it is."""

    status = 400
    type = "invalid_request_error"


class InvalidTokenError(InvalidRequestError):
    """A token, sealed by a service like this one or not, cannot be used for what it was sent with.

    Args:
        why: one word; the code is `invalid_token_` and this.
        message: one sentence for the client.
        param: the request field it came in.
    """

    def __init__(self, why: str, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.code = f"invalid_token_{why}"


class AuthenticationError(CopyistError):
    """The request has no key, or not one that is let in.

    Args:
        is_wrong: whether it has one.
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
        """The challenge that belongs to a 401."""
        return {"www-authenticate": 'Bearer realm="copyist"' + ', error="invalid_token"' * self._is_wrong}


class ModelNotFoundError(CopyistError):
    """No bundle of the name asked for is served, or it does not do what was asked for."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class StreamNotFoundError(CopyistError):
    """The URL is not that of a stream, or no longer, or its key is not let in any more.

    Args:
        message: one sentence for the client.
        code: that of the token's error.
    """

    status = 404
    type = "invalid_request_error"

    def __init__(self, message: str, code: str | None) -> None:
        super().__init__(message, "token")
        self.code = code


class HeadersTimeoutError(CopyistError):
    """The request's head did not arrive within the time set for it."""

    status = 408
    type = "invalid_request_error"
    code = "headers_timeout"


class BodyTimeoutError(CopyistError):
    """The request's body did not arrive within the time set for it."""

    status = 408
    type = "invalid_request_error"
    code = "body_timeout"


class BodyTooLargeError(CopyistError):
    """The request's body exceeds the limit, by its declared or by its counted length."""

    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class MediaTypeError(CopyistError):
    """The request's Content-Type is not JSON."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class HeadersTooLargeError(CopyistError):
    """The request's target and headers exceed the limit, by their bytes or by their number."""

    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"


class EngineFailureError(CopyistError):
    """A step of the engine failed, so this request cannot go on; others are not touched by it."""

    code = "engine_failure"

    @property
    def headers(self) -> dict[str, str]:
        """Asks clients not to repeat it by themselves: the same request would most likely fail at the same step."""
        return {"x-should-retry": "false"}


class OverloadedError(CopyistError):
    """Base of refusals that pass with time.

    Args:
        message: one sentence for the client.
        retry_after_s: when to try again.
    """

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After, which every client obeys, and what OpenAI's clients ask first."""
        return {"retry-after": str(self.retry_after_s), "x-should-retry": "true"}


class QueueFullError(OverloadedError):
    """As many requests as may wait do so already."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class RateLimitError(OverloadedError):
    """A key has used up its steps for now, or asks for more than it may have at once.

    Args:
        message: one sentence for the client.
        retry_after_s: when to try again; 0 says that trying again never helps.
    """

    status = 429
    type = "rate_limit_error"
    code = "rate_limited"

    @property
    def headers(self) -> dict[str, str]:
        """When to try again, if that can help."""
        return super().headers if self.retry_after_s else {"x-should-retry": "false"}


class ConnectionsError(OverloadedError):
    """As many connections are open as may."""

    status = 503
    type = "unavailable_error"
    code = "too_many_connections"


class ShuttingDownError(OverloadedError):
    """The service finishes what it has and takes nothing new."""

    status = 503
    type = "unavailable_error"
    code = "shutting_down"


class NotReadyError(OverloadedError):
    """Nothing should be sent here now."""

    status = 503
    type = "unavailable_error"
    code = "not_ready"


def error_body(message: str, kind: str, param: str | None, code: str | None) -> bytes:
    """Return OpenAI's error object as JSON, with all four keys."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def response_of(error: CopyistError) -> Response:
    """Return the response that carries an error, and note its code for the log and the metrics."""
    bind_contextvars(error=error.code or error.type)
    return Response(error.body, error.status, error.headers, "application/json")


async def refuse(error: CopyistError, scope: Scope, send: Send) -> None:
    """Answer with an error and hang up: the rest of the body, if there is one, is nobody's."""
    response = response_of(error)
    response.headers["connection"] = "close"
    await response(scope, _nothing, send)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
