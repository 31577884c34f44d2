"""Authentication: once API keys are configured, every path needs one, except a few open ones."""

from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from service.access.keys import Keys
from service.errors import AuthenticationError, refuse

STREAM_PATH = "/v1/streams/"


class Guard:
    """ASGI middleware that rejects requests without a valid API key.

    The name of the key is stored as `tenant` on the request's state ("" without a key) and added to the log line. Every
    path that is not open needs a key, even one that does not exist.

    Args:
        app: the next ASGI application.
        keys: the valid keys; if there are none, every request passes.
        open_paths: paths that need no key. The URL of a stream needs none either, as it contains a sealed token.
    """

    def __init__(self, app: ASGIApp, keys: Keys, open_paths: Collection[str]) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = frozenset(open_paths)

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
        """Whether a request needs no key. A browser's EventSource cannot send one: a stream's token takes its place."""
        path: str = scope["path"]
        is_stream = scope["method"] == "GET" and path.startswith(STREAM_PATH) and len(path) > len(STREAM_PATH)
        return is_stream or path in self._open_paths

    def _tenant(self, given: list[bytes]) -> str:
        """Return the name of the key in the only Authorization header, or "" if there is no valid one."""
        if len(given) != 1:
            return ""
        scheme, _, key = given[0].partition(b" ")
        return (self._keys.whose(key.strip()) or "") if scheme.lower() == b"bearer" else ""
