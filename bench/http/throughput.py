"""The whole service over HTTP, a real server and a client beside it: throughput, time to first item, gaps, memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.http.load import Findings, Plan, run
from bench.http.server import Served, serving
from bench.machine import cores
from bench.options import Options

ENDLESS = 1_000_000
PROMPT = "It was "
SPARE_ROWS = 8
MEMORY_STREAMS, MEMORY_SHORT, MEMORY_LONG = 16, 500, 4_000


@dataclass(frozen=True)
class Model:
    """The bundle that requests are for.

    Attributes:
        bundles: the folder it is in.
        name: of the bundle.
        kind: text or ink.
    """

    bundles: Path
    name: str
    kind: str

    @property
    def path(self) -> str:
        """The endpoint."""
        return "/v1/completions" if self.kind == "text" else "/v1/handwriting"

    def body(self, items: int) -> dict[str, Any]:
        """Return a streamed request for this many characters with boundaries, or points."""
        body: dict[str, Any] = {"model": self.name, "stream": True}
        if self.kind == "text":
            return body | {"prompt": PROMPT, "max_tokens": items, "boundaries": True}
        return body | {"max_points": items}


def settings(options: Options) -> dict[str, int]:
    """Return the settings of a measured server: room for all streams and probes, and no limit to their length."""
    rows = max(*options.streams, options.http_streams, MEMORY_STREAMS) + SPARE_ROWS
    return {"rows": rows, "max_tokens": ENDLESS, "max_points": ENDLESS}


def measure(model: Model, options: Options) -> dict[str, Any]:
    """Return the figures of a server for each number of streams, with and without probes beside them, and its memory.

    The server has a process for each of two cores, as it has by default; the client takes a little of the second one.
    """
    here = cores()
    with serving(model.bundles, here[:2], processes=len(here[:2]), **settings(options)) as server:
        figures: dict[str, Any] = {"memory": _memory_by_length(model, server, here[-1])}
        figures["idle"] = _shown(_probe(model, server, 0, options, here[-1]))
        first_peak = server.peak_mb()
        for streams in options.streams:
            figures[str(streams)] = _shown(_load(model, server, streams, options, here[-1]))
            figures[f"{streams}_probed"] = _shown(_probe(model, server, streams, options, here[-1]))
        grown = server.peak_mb() - first_peak
        figures["memory"] |= {
            "peak_mb": round(server.peak_mb(), 1),
            "kb_per_stream": round(1024 * grown / max(options.streams), 1),
        }
    return figures


def _load(model: Model, server: Served, streams: int, options: Options, core: int) -> Findings:
    """Hold streams open for a while and return what came."""
    return run(
        Plan(
            server.url,
            model.path,
            model.body(ENDLESS),
            streams,
            seconds=options.load_s,
            warm_s=options.warm_s,
            pids=server.pids,
            core=core,
        )
    )


def _probe(model: Model, server: Served, streams: int, options: Options, core: int) -> Findings:
    """Time the first items of short requests, beside streams or on an idle server."""
    return run(
        Plan(
            server.url,
            model.path,
            model.body(ENDLESS),
            streams,
            seconds=options.load_s,
            warm_s=options.warm_s if streams else 0.0,
            probe=model.body(1),
            probes=options.probes,
            pids=server.pids,
            core=core,
        )
    )


def _memory_by_length(model: Model, server: Served, core: int) -> dict[str, float]:
    """Return the memory per item: how much more streams take when they are eight times as long."""
    run(Plan(server.url, model.path, model.body(MEMORY_SHORT), MEMORY_STREAMS, core=core))
    before = server.peak_mb()
    run(Plan(server.url, model.path, model.body(MEMORY_LONG), MEMORY_STREAMS, core=core))
    grown = 2**20 * (server.peak_mb() - before)
    return {"bytes_per_item": round(grown / (MEMORY_STREAMS * (MEMORY_LONG - MEMORY_SHORT)), 1)}


def _shown(findings: Findings) -> dict[str, float | None]:
    """Return findings, rounded, as JSON has them."""
    return {
        name: None if value is None else round(value, 0 if name == "items_per_s" else 2)
        for name, value in vars(findings).items()
    }
