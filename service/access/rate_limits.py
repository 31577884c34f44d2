"""How much each key may ask for: steps of the network in a while, counted in memory or in a Redis that replicas share.

A request costs the steps it may take, prompt and all it may write, and is charged before it runs. One that is refused
after that gets its steps back. When the store cannot be reached requests are served uncounted: the engine's queue is
bounded by itself, and a limit is no reason to be down.
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
    """The steps that each key has left.

    Args:
        limit: steps that each key may take in a while, such as 1000000/minute; None counts nothing.
        store: where they are counted: memory://, or the address of a Redis.
        tally: file descriptor of memory to count in together with other processes, if there are any.
    """

    def __init__(self, limit: str | None, store: str, tally: int | None = None) -> None:
        self._limit: Any = None
        self._pool: Any = None
        if limit is None:
            return
        import limits
        from limits.aio.strategies import FixedWindowRateLimiter
        from limits.errors import StorageError
        from limits.storage import storage_from_string

        if store.startswith("memory") and tally is not None:
            from service.access.rate_counter import RateCounter

            storage: Any = RateCounter(tally)
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
        """Take the steps of a request off what its key has left.

        Raises:
            RateLimitError: there are not as many left; says when there will be.
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
        reset_s = max(0, ceil(reset_at - time.time())) + 1  # stores round
        request.state.rate = Charge(self, tenant, steps if is_allowed else 0, left, reset_s)
        if not is_allowed:
            raise RateLimitError(f"{left} steps are left for now, this request may take {steps}.", reset_s)

    async def give_back(self, tenant: str, steps: int) -> None:
        """Return the steps of a request that was refused."""
        try:
            await self._window.hit(self._limit, tenant, cost=-steps)
        except self._unreachable:
            _log.warning("steps were not given back", steps=steps)

    async def close(self) -> None:
        """Part from the store."""
        if self._pool:
            await self._pool.aclose()

    def headers(self, left: int, reset_s: int) -> list[tuple[bytes, bytes]]:
        """Return the headers that say what there is and what is left (IETF draft, RateLimit header fields)."""
        quota, window_s = self._limit.amount, self._limit.get_expiry()
        return [
            (b"ratelimit-policy", b'"steps";q=%d;w=%d' % (quota, window_s)),
            (b"ratelimit", b'"steps";r=%d;t=%d' % (left, reset_s)),
        ]


class Charge:
    """What a request was charged, left on its state for the response.

    Args:
        rates: that charged it.
        tenant: whose steps they are.
        steps: that were taken.
        left: steps after that.
        reset_s: seconds until all are there again.
    """

    def __init__(self, rates: RateLimits, tenant: str, steps: int, left: int, reset_s: int) -> None:
        self._rates, self._tenant, self._steps, self._left, self._reset_s = rates, tenant, steps, left, reset_s

    async def settle(self, status: int) -> list[tuple[bytes, bytes]]:
        """Give back the steps of a request that got no reply, and return the headers that say what is left."""
        if status >= 400 and self._steps:
            await self._rates.give_back(self._tenant, self._steps)
            self._left += self._steps
        return self._rates.headers(self._left, self._reset_s)


class RateHeaders:
    """ASGI middleware that tells what is left on every response to a request that was charged.

    Args:
        app: what follows.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add the headers to its response."""

        async def telling(message: Message) -> None:
            charge: Charge | None = scope.get("state", {}).get("rate")
            if charge and message["type"] == "http.response.start":
                headers = [*message["headers"], *await charge.settle(message["status"])]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, telling)
