"""The engine: one thread that steps all bundles, and the only bridge between that thread and asyncio.

Orders (submit, cancel, end all, stop) go to the thread through a queue. Deltas come back through another one, with at
most one pending wake-up of the event loop, however many streams have news. While it runs neither side waits for the
other: asyncio puts an order and goes on, and the thread publishes deltas and takes the next step. A reader that has not
taken its last delta gets no further one but the last. Its sequence keeps the items meanwhile, at most as many as the
request allows.
"""

import asyncio
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import structlog

from service.engine.executor import Executor
from service.engine.sequences.base import Delta, End, Reason, Sequence
from service.engine.streams import Stream
from service.errors import QueueFullError, ShuttingDownError

_log = structlog.get_logger(__name__)

MAX_FAILURES = 3  # failed steps of a model in a row after which the engine is not ready
CROWD = 64  # rows from which on the flush interval grows
NICENESS = 10  # of the engine's thread


@dataclass(frozen=True)
class FlushPolicy:
    """When the items of a sequence are published: the first at once, later ones on either bound, the rest at the end.

    Attributes:
        items: publish once there are this many.
        interval_s: publish this many seconds after the last time. More than CROWD rows stretch the interval, so that
            the number of events a second stays bounded.
    """

    items: int = 32
    interval_s: float = 0.015

    def interval_among(self, rows: int) -> float:
        """Return the interval in seconds when so many rows run."""
        return self.interval_s * max(1.0, rows / CROWD)


@dataclass
class Gauges:
    """Counters that the engine's thread writes and others read.

    Attributes:
        steps: rounds of the loop in which at least one bundle was stepped.
        row_steps: rows stepped, summed over all steps, and prefilled inputs.
        finished: sequences that ended, cancelled and failed ones included.
        cancelled: sequences that ended because their client left.
        cancel_steps_max: the most rounds that passed between an order to cancel and the row being free.
        failures: steps that raised an exception.
        published: deltas that were handed to streams.
        busy_s: seconds spent in steps of networks.
    """

    steps: int = 0
    row_steps: int = 0
    finished: int = 0
    cancelled: int = 0
    cancel_steps_max: int = 0
    failures: int = 0
    published: int = 0
    busy_s: float = 0.0


class Engine:
    """Runs executors on a thread of its own.

    Args:
        executors: one per bundle.
        policy: when items are published.
        max_waiting: sequences of one executor that may wait beyond those that run.
        stall_s: seconds without a step, although there is work, after which the engine counts as stuck.
        clock: returns monotonic seconds.

    Attributes:
        gauges: counters of the thread.
        on_end: called on the event loop with every stream that ends and with its end; must not raise.
    """

    def __init__(
        self,
        executors: Seq[Executor[Any]],
        policy: FlushPolicy,
        max_waiting: int,
        stall_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gauges = Gauges()
        self.on_end: Callable[[Stream, End], None] = lambda *_: None
        self._executors = tuple(executors)
        self._policy = policy
        self._max_waiting = max_waiting
        self._stall_s = stall_s
        self._clock = clock
        self._orders: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._published: deque[tuple[Stream, Delta]] = deque()
        self._wake_is_pending = False
        self._streams: dict[Sequence, Stream] = {}
        self._open: dict[Executor[Any], int] = dict.fromkeys(self._executors, 0)
        # Moving average of the seconds between admission and end, for Retry-After.
        self._service_s: dict[Executor[Any], float] = dict.fromkeys(self._executors, 0.1)
        self._progress_at = clock()
        self._is_draining = False
        self._counting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # Methods for the event loop's thread.

    def start(self) -> None:
        """Start the thread; deltas are delivered on the event loop that runs now."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End all sequences and the thread, and return when the thread is gone."""
        self._is_draining = True
        if self._thread.is_alive():
            self._orders.put(("stop", None))
            self._thread.join()

    def drain(self) -> None:
        """Refuse new sequences from now on."""
        self._is_draining = True

    def end_all(self) -> None:
        """End all sequences, running or waiting, with the reason `shutdown`."""
        self._orders.put(("end_all", None))

    def submit(self, executor: Executor[Any], sequence: Sequence, followers: int = 0) -> Stream:
        """Hand a sequence to its executor.

        Args:
            executor: the executor of its bundle.
            sequence: the sequence to run.
            followers: how many more sequences the caller submits right after it; there must be room for them too.

        Raises:
            QueueFullError: the queue of this executor has no room for them all.
            ShuttingDownError: the engine drains or has stopped.
        """
        if self._is_draining or not self._thread.is_alive():
            raise ShuttingDownError("The service is shutting down and takes no new requests.")
        if self._open[executor] + followers >= executor.runner.capacity + self._max_waiting:
            raise QueueFullError(
                f"{self._max_waiting} requests are already waiting for this model, which is the limit.",
                self._retry_after_s(executor),
            )
        if not self.num_open:
            self._progress_at = self._clock()
        self._open[executor] += 1
        stream = Stream(self.cancel, executor, sequence)
        sequence.times.submitted = self._clock()
        self._orders.put(("submit", stream))
        return stream

    def cancel(self, stream: Stream) -> None:
        """Order the end of a sequence; its stream gets the end like any other."""
        with self._counting:
            stream.sequence.cancelled_at_step = self.gauges.steps
            self._orders.put(("cancel", stream))

    @property
    def num_open(self) -> int:
        """Number of sequences that were submitted and whose end has not been delivered yet."""
        return sum(self._open.values())

    @property
    def num_running(self) -> int:
        """Number of sequences that own a row."""
        return sum(len(executor.scheduler.rows) for executor in self._executors)

    @property
    def num_waiting(self) -> int:
        """Number of sequences that wait for a row."""
        return self.num_open - self.num_running

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return for each executor, by name, how many of its sequences run and how many wait."""
        running = {executor: len(executor.scheduler.rows) for executor in self._executors}
        return {executor.name: (count, max(0, self._open[executor] - count)) for executor, count in running.items()}

    @property
    def is_alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive()

    @property
    def unready_reason(self) -> str | None:
        """Why no requests should be sent here now, as one sentence, or None when the engine is ready."""
        if self._is_draining:
            return "The service is shutting down."
        if not self._thread.is_alive():
            return "The engine has stopped."
        if self.num_open and self._clock() - self._progress_at > self._stall_s:
            return f"The engine has work but took no step for {self._stall_s:g} seconds."
        if any(executor.num_failures >= MAX_FAILURES for executor in self._executors):
            return f"The last {MAX_FAILURES} steps of a model failed."
        return None

    def _retry_after_s(self, executor: Executor[Any]) -> int:
        """Return the seconds after which a place in the queue should be free, from how long requests took lately."""
        return min(60, 1 + int(self._service_s[executor] / executor.runner.capacity))

    def _deliver(self) -> None:
        """Give streams the deltas that the thread has published; runs on the event loop."""
        self._wake_is_pending = False
        while self._published:
            stream, delta = self._published.popleft()
            if delta.end:
                self._open[stream.executor] -= 1
                times = delta.end.times
                if times.admitted is not None and times.finished is not None:
                    took = times.finished - times.admitted
                    self._service_s[stream.executor] += 0.1 * (took - self._service_s[stream.executor])
                self.on_end(stream, delta.end)
            stream.put(delta)

    # Methods that run on the engine's thread.

    def _run(self) -> None:
        """Carry out orders, step and publish until the order to stop; every stream gets an end, whatever happens."""
        _lower_priority()
        try:
            while self._carry_out_orders():
                for executor in self._executors:
                    if executor.has_work:
                        self._step(executor)
                with self._counting:
                    self.gauges.steps += 1
                self._wake()
        except Exception:  # noqa: BLE001 - this thread must not end without a log line
            _log.exception("the engine stops")
        finally:
            self._end_all("shutdown")

    def _step(self, executor: Executor[Any]) -> None:
        """Run one step of an executor and publish what is due."""
        began = self._clock()
        executor.admit(began)
        try:
            stepped = executor.step()
        except Exception:  # noqa: BLE001 - whatever a step raises ends its rows and nothing else
            _log.exception("step failed", model=executor.name, rows=len(executor.scheduler.rows))
            executor.num_failures += 1
            self.gauges.failures += 1
            self._publish_ended(executor, executor.end_all("error", waiting=False))
            return
        # Count the step.
        now = self._progress_at = self._clock()
        self.gauges.busy_s += now - began
        self.gauges.row_steps += len(stepped) + executor.num_prefilled
        # Publish the items of running sequences that are due, then the ends.
        ended = [sequence for sequence in stepped if sequence.reason]
        again = now + self._policy.interval_among(len(stepped))
        for sequence in stepped:
            is_late = now >= sequence.due_at
            if (is_late or sequence.num_items >= self._policy.items) and self._is_due(sequence, is_late=is_late):
                sequence.times.first = sequence.times.first or now
                sequence.due_at = again
                self._publish(sequence)
        self._publish_ended(executor, ended)

    def _is_due(self, sequence: Sequence, *, is_late: bool) -> bool:
        """Whether to publish the items of a running sequence, given whether its interval has passed."""
        if sequence.reason or sequence.whole or not self._streams[sequence].wants_more:
            return False
        return sequence.num_new >= (1 if is_late else self._policy.items)

    def _publish_ended(self, executor: Executor[Any], ended: Seq[Sequence]) -> None:
        """Free what ended sequences occupy, and publish their ends."""
        now = self._clock()
        for sequence in ended:
            sequence.times.finished = now
            sequence.times.first = sequence.times.first or (now if sequence.num_new else None)
            self.gauges.finished += 1
            if sequence.cancelled_at_step is not None and sequence.reason == "cancelled":
                self.gauges.cancelled += 1
                lag = self.gauges.steps - sequence.cancelled_at_step
                self.gauges.cancel_steps_max = max(self.gauges.cancel_steps_max, lag)
            # Counted before it is removed: a thread that sees the row free sees the reason in the gauges too.
            executor.remove(sequence)
            self._publish(sequence)
            del self._streams[sequence]

    def _end_all(self, reason: Reason) -> None:
        """End all sequences, running or waiting."""
        for executor in self._executors:
            self._publish_ended(executor, executor.end_all(reason, waiting=True))
        self._wake()

    def _publish(self, sequence: Sequence) -> None:
        """Queue the next delta of a sequence for its stream."""
        stream = self._streams[sequence]
        stream.wants_more = False
        self.gauges.published += 1
        self._published.append((stream, sequence.take()))

    def _wake(self) -> None:
        """Have the event loop deliver what was published, unless it is about to."""
        if self._published and not self._wake_is_pending and self._loop and not self._loop.is_closed():
            self._wake_is_pending = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _carry_out_orders(self) -> bool:
        """Carry out all orders, waiting for one if there is nothing to step; return False after the order to stop."""
        while not self._orders.empty() or not any(executor.has_work for executor in self._executors):
            order, stream = self._orders.get()
            if order == "stop":
                return False
            if order == "submit":
                self._streams[stream.sequence] = stream
                stream.executor.scheduler.add(stream.sequence)
            elif order == "cancel" and stream.sequence in self._streams:
                stream.sequence.finish("cancelled")
                self._publish_ended(stream.executor, [stream.sequence])
            elif order == "end_all":
                self._end_all("shutdown")
            self._wake()
        return True


def _lower_priority() -> None:
    """Let the threads that talk to clients go first where cores are short: they need little time, but at once."""
    if sys.platform == "linux":  # only there a priority belongs to a thread and not to the process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
