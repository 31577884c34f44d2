"""Limits on the size, arrival time and type of request bodies, checked before anything parses them."""

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
    """ASGI middleware that reads the whole body, counts its bytes, and passes it on in one piece.

    Args:
        app: the next ASGI application.
        paths: paths that take a body, by POST. Bodies of other requests are not read here.
        max_bytes: the largest body. A declared length can only be a reason to refuse; the bytes are counted anyway.
        timeout_s: time within which the whole body must arrive.
    """

    def __init__(self, app: ASGIApp, paths: Collection[str], max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._paths = frozenset(paths)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

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
        """Refuse a declared length that is too large, and a type that is not JSON."""
        headers = {name: value for name, value in scope["headers"] if name in (b"content-length", b"content-type")}
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            raise self._too_large()
        if not _is_json(headers.get(b"content-type", b"")):
            raise MediaTypeError("The body must be JSON; send Content-Type: application/json.")

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the body, or None if the client disconnected before it was complete."""
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
    """Return the body if it is UTF-8, as JSON must be. Python's parser would also take UTF-16 and lone surrogates.

    Raises:
        InvalidRequestError: it is not UTF-8.
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
    """Whether a Content-Type is application/json or ends with +json."""
    headers = Headers()
    headers["content-type"] = content_type.decode("latin-1").replace("\r", " ").replace("\n", " ")
    kind = headers.get_content_type()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body first, and then whatever really comes, such as a disconnect."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
