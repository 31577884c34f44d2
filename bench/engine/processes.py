"""Run several engines, each in a process and on a core of its own, to see how much they slow each other down."""

import multiprocessing
import statistics
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from bench.engine.replay import Array, Serving
from bench.machine import pinned
from export.bundle import folder as bundles

REPEATS = 3


@dataclass(frozen=True)
class Engines:
    """Some processes that wait to be started.

    Attributes:
        pipes: to the processes, one per core.
    """

    pipes: list[Connection]

    def rate(self, chosen: Collection[int]) -> float:
        """Return the items per second of the chosen engines, run at the same time and added up."""
        for number in chosen:
            self.pipes[number].send(True)
        return float(sum(self.pipes[number].recv() for number in chosen))

    def gain(self, rounds: int) -> tuple[float, float, float]:
        """Return the items per second of one engine, those of all, and the median over rounds of their ratio.

        The figure for one is the mean over all of them run alone, since cores of one machine need not be alike.
        """
        everyone = range(len(self.pipes))
        alone, together = [], []
        for _ in range(rounds + 1):
            alone.append(statistics.mean(self.rate([number]) for number in everyone))
            together.append(self.rate(everyone))
        ratios = [many / one for one, many in zip(alone[1:], together[1:], strict=True)]
        return statistics.median(alone[1:]), statistics.median(together[1:]), statistics.median(ratios)


@contextmanager
def engines(bundle: Path, inputs: Array, cores: list[int]) -> Iterator[Engines]:
    """Run one engine of a bundle per core for as long as the block."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for core in cores:
            mine, theirs = context.Pipe()
            process = context.Process(target=_work, args=(bundle, inputs, core, theirs), daemon=True)
            process.start()
            theirs.close()
            pipes.append(mine)
            processes.append(process)
        yield Engines(pipes)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join()


def _work(bundle: Path, inputs: Array, core: int, pipe: Connection) -> None:
    """Step through the recording each time a message comes, and send back the items per second."""
    with pinned(core):
        replay = Serving(bundles.load(bundle), inputs)
        replay(2)
        while True:
            try:
                pipe.recv()
            except EOFError:
                return
            began = time.perf_counter()
            items = sum(replay() for _ in range(REPEATS))
            pipe.send(items / (time.perf_counter() - began))
