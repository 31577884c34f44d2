"""What a request may weigh and how long it may take to arrive, decided before anything parses it."""

import asyncio
from collections.abc import Collection
from email.message import Message as Headers

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    CopyistError,
    InvalidRequestError,
    MediaTypeError,
    refuse,
)


class BodyLimit:
    """ASGI middleware that reads the whole body, counted as it comes, and hands it on in one piece.

    Args:
        app: what follows.
        paths: that take a body, by POST; one that comes with another request is nobody's.
        max_bytes: the largest body; a declared length is believed only when it is too large.
        timeout_s: time for the whole body, however slowly its pieces drip in.
    """

    def __init__(self, app: ASGIApp, paths: Collection[str], max_bytes: int, timeout_s: float) -> None:
        self._app, self._paths, self._max_bytes, self._timeout_s = app, frozenset(paths), max_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 400, 408, 413 or 415."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        try:
            self._check_headers(scope)
            async with asyncio.timeout(self._timeout_s):
                body = await self._read(receive)
        except TimeoutError:
            await refuse(BodyTimeoutError(f"The body did not arrive within {self._timeout_s:g} seconds."), scope, send)
        except CopyistError as error:
            await refuse(error, scope, send)
        else:
            if body is not None:
                await self._app(scope, _replay(body, receive), send)

    def _check_headers(self, scope: Scope) -> None:
        headers = {name: value for name, value in scope["headers"] if name in (b"content-length", b"content-type")}
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            raise self._too_large()
        if not _is_json(headers.get(b"content-type", b"")):
            raise MediaTypeError("The body must be JSON; send Content-Type: application/json.")

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the body, or None if the client left before it was complete."""
        pieces, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > self._max_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return _text(b"".join(pieces))

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"The body may have {self._max_bytes} bytes at most.")


def _text(body: bytes) -> bytes:
    """Return a body that is UTF-8, as JSON is; Python's own reader would guess at others, and let half characters in.

    Raises:
        InvalidRequestError: it is something else.
    """
    is_text = b"\0" not in body
    try:
        body.decode()
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        raise InvalidRequestError("The body is not UTF-8.")
    return body


def _is_json(content_type: bytes) -> bool:
    """Whether a Content-Type is application/json or says +json."""
    headers = Headers()
    headers["content-type"] = content_type.decode("latin-1").replace("\r", " ").replace("\n", " ")
    kind = headers.get_content_type()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body first and then what really comes: the client's leaving."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
