"""What HTTP costs: everything between the engine's graph and a client's socket, per streamed character.

The server is the real one, but its network is so small that stepping it costs almost nothing; that cost is measured too
and subtracted. Streams are asked for with boundaries. What is counted is the processor time of the whole server: the
thread that talks to clients, and everything that the engine's thread does for a sequence beside the graph.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.engine import networks
from bench.http.load import Plan, run
from bench.http.server import serving
from bench.http.throughput import ENDLESS, Model, settings
from bench.machine import cores, pinned
from bench.options import Options
from export.bundle.folder import Bundle
from service.engine.runners.choose import open_runner

TINY = 4
RATES = [0.2, 0.05]
STEPS = 200
PROMPT_CHARS = 100
PROMPT = ("The evening was so quiet that one could hear the leaves fall one by one on the gravel of the long walk. ")[
    :PROMPT_CHARS
]


def measure(shipped: Path, name: str, options: Options) -> dict[str, Any]:
    """Return what HTTP costs per character and how soon the first one comes after a prompt of 100 characters.

    Args:
        shipped: folder of bundles.
        name: of the text bundle whose first character is timed.
        options: sizes.
    """
    here = cores()
    with tempfile.TemporaryDirectory() as folder:
        tiny = networks.export(networks.forced_network("text", TINY, RATES), Path(folder), "tiny", RATES)
        with pinned(here[0]):
            graph_us = _graph_us(tiny, options.http_streams)
        figures: dict[str, Any] = {"streams": options.http_streams, "graph_us_per_char": round(graph_us, 2)}
        model = Model(Path(folder), "tiny", "text")
        for policy, changed in (("", {}), ("_one_char_per_event", {"flush_chars": 1, "flush_ms": 0})):
            with serving(model.bundles, here[:2], **settings(options), **changed) as server:
                plan = Plan(
                    server.url,
                    model.path,
                    model.body(ENDLESS),
                    options.http_streams,
                    seconds=options.load_s,
                    warm_s=options.warm_s,
                    pids=server.pids,
                    core=here[-1],
                )
                found = run(plan)
            figures |= {
                f"server_us_per_char{policy}": _rounded(found.cpu_us_per_item),
                f"http_us_per_char{policy}": _rounded((found.cpu_us_per_item or 0.0) - graph_us),
                f"event_loop_us_per_char{policy}": _rounded(found.cpu_main_us_per_item),
                f"chars_per_event{policy}": _rounded(found.items_per_event),
                f"chars_per_s{policy}": round(found.items_per_s),
                f"client_share{policy}": _rounded(found.client_share),
            }
    with serving(shipped, here[:2], processes=len(here[:2])) as server:
        ask = {"model": name, "prompt": PROMPT, "max_tokens": 1, "stream": True, "boundaries": True}
        probes = Plan(server.url, "/v1/completions", {}, 0, probe=ask, probes=options.probes, core=here[-1])
        found = run(probes)
    return figures | {
        "first_char_100_p50_ms": _rounded(found.first_p50),
        "first_char_100_p99_ms": _rounded(found.first_p99),
        "num_first": found.num_first,
    }


def _graph_us(bundle: Bundle, rows: int) -> float:
    """Return the microseconds that the runner itself takes per character."""
    runner = open_runner(bundle, rows)
    runner.inputs[:] = np.arange(rows) % networks.TEXT.size
    runner.step(rows)
    began = time.thread_time()
    for _ in range(STEPS):
        runner.step(rows)
    return 1e6 * (time.thread_time() - began) / STEPS / rows


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
