"""Rate limits: each key has a budget of network steps per window of time.

The steps are counted in memory, or in a Redis that replicas share. A request is charged before it runs, for the most
steps it may take: its prompt and everything it may write. A request that is then refused gets its steps back. When the
store cannot be reached, requests are served without counting: the engine's queue is bounded anyway, and a rate limit is
no reason to be unavailable.
"""

import time
from math import ceil
from typing import Any

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import RateLimitError

_log = structlog.get_logger(__name__)

STORE_TIMEOUT_S = 1.0


class RateLimits:
    """Charges requests to the step budget of their key.

    Args:
        limit: steps per window, such as "1000000/minute"; None counts nothing.
        store: URL of the place to count in: memory:// or an address of Redis. It may hold a password.
        memory: file descriptor of the memory that the processes of this service share, if there are several; a store
            of memory:// then counts there.
    """

    def __init__(self, limit: str | None, store: str = "memory://", memory: int | None = None) -> None:
        self._limit: Any = None
        self._pool: Any = None
        if limit is None:
            return
        # These libraries are imported only where a limit is set.
        import limits
        from limits.aio.strategies import FixedWindowRateLimiter
        from limits.errors import StorageError
        from limits.storage import storage_from_string

        if store.startswith("memory") and memory is not None:
            from service.access.rate_counter import RateCounter

            storage: Any = RateCounter(memory)
        elif store.startswith("memory"):
            storage = storage_from_string("async+memory://", wrap_exceptions=True)
        else:
            from redis.asyncio import ConnectionPool

            patience = {"socket_timeout": STORE_TIMEOUT_S, "socket_connect_timeout": STORE_TIMEOUT_S}
            self._pool = ConnectionPool.from_url(store, **patience)
            options: dict[str, Any] = {"implementation": "redispy", "connection_pool": self._pool}
            storage = storage_from_string("async+redis://", wrap_exceptions=True, key_prefix="copyist", **options)
        self._limit = limits.parse(limit)
        self._window: Any = FixedWindowRateLimiter(storage)
        self._unreachable: type[Exception] = StorageError

    async def charge(self, request: Request, steps: int) -> None:
        """Charge a request's steps to its key, and note the charge on the request's state.

        Raises:
            RateLimitError: the key has fewer steps left, or the request costs more than the whole budget.
        """
        if self._limit is None:
            return
        tenant, amount = request.state.tenant, self._limit.amount
        if steps > amount:
            raise RateLimitError(f"A request may cost {amount} steps at most, this one may take {steps}.", 0)
        try:
            is_allowed = await self._window.test(self._limit, tenant, cost=steps)
            if is_allowed:
                await self._window.hit(self._limit, tenant, cost=steps)
            reset_at, left = await self._window.get_window_stats(self._limit, tenant)
        except self._unreachable as error:
            _log.warning("rates are not counted", reason=type(error.__cause__ or error).__name__)
            return
        reset_s = max(0, ceil(reset_at - time.time())) + 1  # stores round to whole seconds
        request.state.rate = Charge(self, tenant, steps if is_allowed else 0, left, reset_s)
        if not is_allowed:
            raise RateLimitError(f"{left} steps are left for now, this request may take {steps}.", reset_s)

    async def give_back(self, tenant: str, steps: int) -> None:
        """Add the steps of a refused request back to the budget of its key."""
        try:
            await self._window.hit(self._limit, tenant, cost=-steps)
        except self._unreachable:
            _log.warning("steps were not given back", steps=steps)

    async def close(self) -> None:
        """Close the connections to the store."""
        if self._pool:
            await self._pool.aclose()

    def headers(self, left: int, reset_s: int) -> list[tuple[bytes, bytes]]:
        """Return the headers with the budget and the steps left (IETF draft "RateLimit header fields for HTTP")."""
        quota, window_s = self._limit.amount, self._limit.get_expiry()
        return [
            (b"ratelimit-policy", b'"steps";q=%d;w=%d' % (quota, window_s)),
            (b"ratelimit", b'"steps";r=%d;t=%d' % (left, reset_s)),
        ]


class Charge:
    """The charge of one request, kept on the request's state until the response starts.

    Args:
        rates: the limits that made the charge.
        tenant: name of the key that was charged.
        steps: number of steps that were charged.
        left: steps that the key has left after the charge.
        reset_s: seconds until the whole budget is available again.
    """

    def __init__(self, rates: RateLimits, tenant: str, steps: int, left: int, reset_s: int) -> None:
        self._rates = rates
        self._tenant = tenant
        self._steps = steps
        self._left = left
        self._reset_s = reset_s

    async def settle(self, status: int) -> list[tuple[bytes, bytes]]:
        """Give the steps back if the request failed, and return the headers for its response."""
        if status >= 400 and self._steps:
            await self._rates.give_back(self._tenant, self._steps)
            self._left += self._steps
        return self._rates.headers(self._left, self._reset_s)


class RateHeaders:
    """ASGI middleware that adds the RateLimit headers to the response of every charged request.

    Args:
        app: the next ASGI application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the headers to its response."""

        async def send_with_headers(message: Message) -> None:
            charge: Charge | None = scope.get("state", {}).get("rate")
            if charge and message["type"] == "http.response.start":
                headers = [*message["headers"], *await charge.settle(message["status"])]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_with_headers)
