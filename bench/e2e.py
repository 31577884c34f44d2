"""The whole service over HTTP, a real server and a client beside it: throughput, first characters, gaps, memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load import Findings, Plan, run
from bench.machine import cores
from bench.options import Options
from bench.served import Served, serving

ENDLESS = 1_000_000
PROMPT = "It was "
SPARE_ROWS = 8
MEMORY_STREAMS, MEMORY_SHORT, MEMORY_LONG = 16, 500, 4_000


@dataclass(frozen=True)
class Model:
    """Whom to ask.

    Attributes:
        bundles: folder it is in.
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
        """A streamed request for so many characters with boundaries, or points."""
        body: dict[str, Any] = {"model": self.name, "stream": True}
        if self.kind == "text":
            return body | {"prompt": PROMPT, "max_tokens": items, "boundaries": True}
        return body | {"max_points": items}


def settings(options: Options) -> dict[str, int]:
    """What a server that is measured is told: room for all streams and a probe beside them, and no end to them."""
    rows = max(*options.streams, options.http_streams, MEMORY_STREAMS) + SPARE_ROWS
    return {"rows": rows, "max_tokens": ENDLESS, "max_points": ENDLESS}


def measure(model: Model, options: Options) -> dict[str, Any]:
    """Return what a server does for each number of streams, alone and with a request beside them, and its memory.

    The server has a process for each of two cores, as it has by default; the client takes a little of the second.
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
    """Hold streams open for a while."""
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
    """Time first characters, beside streams or on an idle server."""
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
    """How much more memory streams take when they are eight times as long."""
    run(Plan(server.url, model.path, model.body(MEMORY_SHORT), MEMORY_STREAMS, core=core))
    before = server.peak_mb()
    run(Plan(server.url, model.path, model.body(MEMORY_LONG), MEMORY_STREAMS, core=core))
    grown = 2**20 * (server.peak_mb() - before)
    return {"bytes_per_item": round(grown / (MEMORY_STREAMS * (MEMORY_LONG - MEMORY_SHORT)), 1)}


def _shown(findings: Findings) -> dict[str, float | None]:
    """Findings, rounded for people and for JSON."""
    return {
        name: None if value is None else round(value, 0 if name == "items_per_s" else 2)
        for name, value in vars(findings).items()
    }
