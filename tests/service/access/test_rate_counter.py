"""The counter in shared memory behaves as the memory of `limits`, and no process can break it for the others."""

import asyncio
import multiprocessing
import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits.aio.storage import MemoryStorage

from service.server.supervisor import CAN_SHARE
from tests.programs import PATIENCE_S

pytestmark = pytest.mark.skipif(not CAN_SHARE, reason="this system has no memory for several processes to count in")
if CAN_SHARE:
    from service.access.rate_counter import RateCounter

KEYS = st.sampled_from(["ann", "bob", ""])
WORKERS, TIMES = 4, 300


def tally() -> "RateCounter":
    """Return an empty counter."""
    return RateCounter(os.memfd_create("test"))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("incr"), KEYS, st.integers(1, 10**9)),
            st.tuples(st.sampled_from(["get", "clear"]), KEYS, st.just(0)),
        ),
        max_size=20,
    )
)
def test_it_counts_as_the_librarys_own_memory_does(orders: list[tuple[str, str, int]]) -> None:
    """After any calls, the count and expiry of each key equal those of MemoryStorage."""

    async def follow() -> None:
        mine, theirs = tally(), MemoryStorage()
        for name, key, amount in orders:
            for store in (mine, theirs):
                await (store.incr(key, 60, amount) if name == "incr" else getattr(store, name)(key))
            assert await mine.get(key) == await theirs.get(key)
            assert await mine.get_expiry(key) == pytest.approx(await theirs.get_expiry(key), abs=1)

    asyncio.run(follow())


def test_a_count_ends() -> None:
    """When its count has expired, a key starts at 0 again."""

    async def follow() -> None:
        store = tally()
        assert await store.incr("ann", 0, 5) == 5
        await asyncio.sleep(0.01)
        assert await store.get("ann") == 0
        assert await store.incr("ann", 60, 2) == 2
        assert await store.reset() == 1
        assert await store.get("ann") == 0

    asyncio.run(follow())


def test_what_is_given_back_is_never_more_than_was_taken() -> None:
    """A count does not go below 0, even if it expired in between."""
    assert asyncio.run(tally().incr("ann", 60, -5)) == 0


def test_nothing_is_lost_between_processes() -> None:
    """Processes that count at the same time arrive at the sum."""
    store, context = tally(), multiprocessing.get_context("fork")

    def count() -> None:
        async def many() -> None:
            for _ in range(TIMES):
                await store.incr("ann", 60, 1)

        asyncio.run(many())

    workers = [context.Process(target=count) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE_S)
        assert worker.exitcode == 0
    assert asyncio.run(store.get("ann")) == WORKERS * TIMES


def test_one_that_dies_while_it_counts_stops_nobody() -> None:
    """The lock of a killed process is released."""
    store, context = tally(), multiprocessing.get_context("fork")
    asyncio.run(store.incr("ann", 60, 3))
    holds, tells = context.Pipe(duplex=False)

    def hold() -> None:
        with store._held():
            tells.send(True)
            signal.pause()

    holder = context.Process(target=hold)
    holder.start()
    assert holds.poll(PATIENCE_S)
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join(PATIENCE_S)
    assert asyncio.run(store.incr("ann", 60, 1)) == 4
