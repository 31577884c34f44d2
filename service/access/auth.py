"""Who may ask: every path but a few needs a key, as soon as there are keys at all."""

from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from service.access.keys import Keys
from service.errors import AuthenticationError, refuse

STREAM_PATH = "/v1/streams/"


class Guard:
    """ASGI middleware that lets in requests with a known key and says whose they are.

    The name of the key is left as `tenant` on the request's state ("" without a key) and in its log line. Paths are
    compared as they are routed, and what is not known to be open is guarded, paths that do not exist included.

    Args:
        app: what follows.
        keys: that are let in; with none everyone is.
        open_paths: what needs no key; besides, a stream needs none whose sealed token is in its path.
    """

    def __init__(self, app: ASGIApp, keys: Keys, open_paths: Collection[str]) -> None:
        self._app, self._keys, self._open_paths = app, keys, frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 401."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"] if self._keys else []
        tenant = self._tenant(given)
        if self._keys and not tenant and not self._is_open(scope):
            await refuse(AuthenticationError(is_wrong=bool(given)), scope, send)
            return
        scope.setdefault("state", {})["tenant"] = tenant
        if tenant:
            bind_contextvars(key=tenant)
        await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        """Whether a request needs no key. A browser's EventSource can send none: its token, sealed here, is its key."""
        path: str = scope["path"]
        is_stream = scope["method"] == "GET" and path.startswith(STREAM_PATH) and len(path) > len(STREAM_PATH)
        return is_stream or path in self._open_paths

    def _tenant(self, given: list[bytes]) -> str:
        """Whose key the one Authorization header has; "" for none that is known."""
        if len(given) != 1:
            return ""
        scheme, _, key = given[0].partition(b" ")
        return (self._keys.whose(key.strip()) or "") if scheme.lower() == b"bearer" else ""
