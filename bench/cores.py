"""How best to use several cores: threads, processes, or ONNX Runtime's own pool.

First single steps: the same number of streams on one core, by the graphs on ONNX Runtime's pool over two cores, divided
between two threads of one process, and divided between two processes. Then the service: one process, whose engine and
event loop share two cores, beside two processes behind one port.
"""

import statistics
import threading
import time
from collections.abc import Callable

from bench.engine.boundaries import arrange
from bench.engine.compare import Case, stepping
from bench.engine.processes import engines
from bench.engine.replay import Array, Replay, Serving
from bench.http.load import Plan, run
from bench.http.server import Served, serving
from bench.http.throughput import ENDLESS, Model, settings
from bench.machine import cores, pinned
from bench.options import Options
from export.bundle.folder import Bundle
from service.engine.runners.onnx import MAX_ROWS

ONE_CORE = "one engine, one core"
POOL = "one engine, ONNX Runtime's pool of two"
THREADS = "two engines, two threads of one process"
PROCESSES = "two engines, two processes"
ONE_PROCESS = "one process"
TWO_PROCESSES = "two processes behind one port"
REPEATS = 3


def steps(case: Case, batch: int, options: Options) -> dict[str, float]:
    """Return items per second of each way to step `batch` streams, medians of interleaved rounds, wall time."""
    inputs = arrange(case.inputs, batch, options.items)
    here = cores()[:2]
    ways: dict[str, Callable[[], float]] = {ONE_CORE: _alone(Serving(case.bundle, inputs), here[0])}
    if len(here) > 1:
        ways[POOL] = _rate(Replay(stepping(case.bundle, batch), inputs, threads=2, most_rows=MAX_ROWS))
    if len(here) == 1 or batch == 1:
        return _medians(ways, options.rounds)
    half = inputs[:, : batch // 2].copy()
    ways[THREADS] = _threads(case.bundle, half, here)
    with engines(case.bundle.path, half, here) as pair:
        ways[PROCESSES] = lambda: pair.rate(range(2))
        return _medians(ways, options.rounds)


def served(model: Model, options: Options) -> dict[str, dict[str, float]]:
    """Return items per second over HTTP for each number of streams, by way, medians of `rounds` loads in turns."""
    found: dict[str, dict[str, list[float]]] = {
        str(streams): {ONE_PROCESS: [], TWO_PROCESSES: []} for streams in options.streams
    }
    here = cores()
    environment = settings(options)
    with (
        serving(model.bundles, here[:2], **environment) as single,
        serving(model.bundles, here[:2], processes=2, **environment) as double,
    ):
        for _ in range(min(3, options.rounds)):
            for streams in options.streams:
                for name, server in ((ONE_PROCESS, single), (TWO_PROCESSES, double)):
                    found[str(streams)][name].append(_load(model, server, streams, options))
    return {
        streams: {name: round(statistics.median(rates)) for name, rates in ways.items()}
        for streams, ways in found.items()
    }


def _load(model: Model, server: Served, streams: int, options: Options) -> float:
    """Return the items per second that a client takes from a server."""
    body = model.body(ENDLESS)
    core = cores()[-1]
    plan = Plan(server.url, model.path, body, streams, seconds=options.load_s, warm_s=options.warm_s, core=core)
    return run(plan).items_per_s


def _medians(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Let all ways take turns and return the median rate of each, the first round left out."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            rates[name].append(way())
    return {name: round(statistics.median(found[1:])) for name, found in rates.items()}


def _alone(replay: Serving, core: int) -> Callable[[], float]:
    """Return a function that measures the rate on one core."""
    measure = _rate(replay)

    def way() -> float:
        with pinned(core):
            return measure()

    return way


def _rate(replay: Replay | Serving) -> Callable[[], float]:
    """Return a function that measures items per second over REPEATS turns."""

    def way() -> float:
        began = time.perf_counter()
        items = sum(replay() for _ in range(REPEATS))
        return items / (time.perf_counter() - began)

    return way


def _threads(bundle: Bundle, inputs: Array, here: list[int]) -> Callable[[], float]:
    """Return a function that measures several engines in threads of this process, one per core, added up."""
    replays = [Serving(bundle, inputs) for _ in here]

    def way() -> float:
        gate = threading.Barrier(len(here))
        rates = [0.0] * len(here)

        def work(number: int) -> None:
            with pinned(here[number]):
                measure = _rate(replays[number])
                gate.wait()
                rates[number] = measure()

        workers = [threading.Thread(target=work, args=(number,)) for number in range(len(here))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(rates)

    return way
