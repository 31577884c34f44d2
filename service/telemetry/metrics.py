"""Metrics for Prometheus, at GET /metrics, with names and units like those of other servers of language models.

Nothing is recorded per character. The engine's own counters are read at each scrape, a sequence is recorded once, at
its end, and a request once, when it is answered. Labels are names of bundles, routes and layers, and words from this
code, never anything that a client sends.
"""

from collections.abc import Iterable, Iterator
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from service.access.seal import Sealer
from service.engine.loop import Engine
from service.engine.sequences.base import End, Reason
from service.engine.streams import Stream
from service.registry.fingerprint import VERSION
from service.registry.registry import ModelRegistry
from service.registry.served import ServedModel, TextModel
from service.telemetry.peers import Peers, Silence

PATH = "/metrics"
OPERATIONS = {"U": "UPDATE", "C": "COPY", "F": "FLUSH"}
METHODS = ("GET", "HEAD", "POST", "OPTIONS")

# Seconds. A step of a small network takes tens of microseconds; a long letter takes minutes.
BETWEEN = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
UNTIL_FIRST = (5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
QUEUED = (1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60)
WHOLE = (1e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
STEPS = (1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)


class Metrics:
    """The metrics of one service.

    Args:
        registry: the bundles that are served.
        engine: steps the bundles; the ends of its sequences are recorded from now on.
        sealer: seals state and stream tokens, and counts them.
        peers: the other processes of the service.

    Attributes:
        registry: the metrics of this process.
    """

    def __init__(self, registry: ModelRegistry, engine: Engine, sealer: Sealer, peers: Peers) -> None:
        self._peers = peers
        # Series of creation times would double the number of series, and only say when this process began.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._models: dict[str, ServedModel] = {model.name: model for model in registry}
        self._finished = self._counter("requests_finished", "Sequences that ended, by how.", "model", "reason")
        self._prompt = self._counter("prompt_tokens", "Symbols of prompts, or points of given ink.", "model")
        self._tokens = self._counter("generation_tokens", "Symbols that were written.", "model")
        self._points = self._counter("stroke_points", "Points that were drawn.", "model")
        self._operations = self._counter(
            "layer_updates", "What layers did, by operation; a COPY is not computed.", "model", "layer", "op"
        )
        self._boundaries = self._counter("boundaries", "Boundaries that layers found.", "model", "layer")
        self._queue = self._histogram("request_queue_time_seconds", "Time in the queue.", QUEUED, "model")
        self._first = self._histogram(
            "time_to_first_token_seconds",
            "From submission to a stream's first character or point.",
            UNTIL_FIRST,
            "model",
        )
        self._between = self._histogram(
            "inter_token_latency_seconds", "Between characters or points, as a stream's mean.", BETWEEN, "model"
        )
        self._whole = self._histogram("e2e_request_latency_seconds", "From submission to the end.", WHOLE, "model")
        self._steps = self._histogram("request_steps", "Steps of the network for a sequence.", STEPS, "model")
        self._http = self._counter("http_requests", "Answered requests.", "method", "route", "status")
        self._http_time = self._histogram(
            "http_request_duration_seconds", "From a request's head to the end of its answer.", WHOLE, "route"
        )
        self._refused = self._counter(
            "refusals", "Requests and connections refused, by the code of their error.", "code"
        )
        for name in self._models:  # a rate can only be computed from a series that began at 0
            for reason in get_args(Reason):
                self._finished.labels(name, reason)
        self.registry.register(_Now(self._models, engine, sealer))
        ProcessCollector(registry=self.registry)
        engine.on_end = self.ended

    def ended(self, stream: Stream, end: End) -> None:
        """Record a sequence that has ended, for whatever reason."""
        model = self._models[stream.executor.name]
        name, times = model.name, end.times
        # What was read and written.
        self._finished.labels(name, end.reason).inc()
        self._prompt.labels(name).inc(end.num_prompt)
        if isinstance(model, TextModel):
            self._tokens.labels(name).inc(end.num_drawn)
        else:
            self._points.labels(name).inc(max(0, len(end.trace) - end.num_prompt))
        # What the layers did.
        for layer, letters in enumerate(model.hierarchy.operations(end.trace), 1):
            for letter, operation in OPERATIONS.items():
                self._operations.labels(name, str(layer), operation).inc(letters.count(letter))
        for layer, digits in enumerate(model.hierarchy.boundaries(end.trace), 1):
            self._boundaries.labels(name, str(layer)).inc(digits.count("1"))
        self._steps.labels(name).observe(len(end.trace))
        # How long it took.
        if times.submitted is None:
            return
        if times.admitted is not None:
            self._queue.labels(name).observe(times.admitted - times.submitted)
        if times.finished is not None:
            self._whole.labels(name).observe(times.finished - times.submitted)
        if times.first is not None and not stream.sequence.whole:
            self._first.labels(name).observe(times.first - times.submitted)
            if times.finished is not None and end.num_drawn > 1:
                self._between.labels(name).observe((times.finished - times.first) / (end.num_drawn - 1))

    def answered(self, method: str, route: str | None, status: int, took_s: float, code: str | None) -> None:
        """Record a request that was answered.

        Args:
            method: method of the request.
            route: the route as it is declared, or None if none was found.
            status: status of the response; 0 if the client left before it began.
            took_s: seconds from the request's head to the end of the response.
            code: code of the error in the response, or None.
        """
        place = route or "other"
        self._http.labels(method if method in METHODS else "other", place, str(status)).inc()
        self._http_time.labels(place).observe(took_s)
        if code:
            self.refused(code)

    def refused(self, code: str) -> None:
        """Record a request or connection that was refused, by the code of its error."""
        self._refused.labels(code).inc()

    def families(self) -> list[Metric]:
        """Return the metrics of this process."""
        return list(self.registry.collect())

    async def scrape(self, request: Request) -> Response:
        """Answer a scrape in the format it asks for; with several processes each sample is labelled with its number."""
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        metrics: Collector = self.registry
        if self._peers.are_any:
            metrics = joined = _Joined()
            joined.add(self._peers.number, self.families())
            for number, families in (await self._peers.ask("families")).items():
                if not isinstance(families, Silence):
                    joined.add(number, families)
        return Response(encode(metrics), headers={"content-type": media_type})

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"copyist_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"copyist_{name}", text, labels, buckets=buckets, registry=self.registry)


class _Joined(Collector):
    """The metrics of several processes: the samples of each with its number as a label."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def add(self, number: int, families: list[Metric]) -> None:
        """Add the metrics of a process."""
        for family in families:
            joined = self._families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type, family.unit)
            )
            joined.samples += [
                sample._replace(labels={**sample.labels, "process": str(number)}) for sample in family.samples
            ]

    def collect(self) -> Iterable[Metric]:
        """Yield the families."""
        return self._families.values()


class _Now(Collector):
    """Metrics that are read from the engine, the sealer and the registry at each scrape."""

    def __init__(self, models: dict[str, ServedModel], engine: Engine, sealer: Sealer) -> None:
        self._models = models
        self._engine = engine
        self._sealer = sealer

    def collect(self) -> Iterator[Any]:
        """Yield the families."""
        gauges, counts = self._engine.gauges, self._engine.counts()
        running = GaugeMetricFamily("copyist_requests_running", "Sequences that own a row.", labels=["model"])
        waiting = GaugeMetricFamily("copyist_requests_waiting", "Sequences that wait for a row.", labels=["model"])
        for name, (num_running, num_waiting) in counts.items():
            running.add_metric([name], num_running)
            waiting.add_metric([name], num_waiting)
        yield running
        yield waiting
        for name, text, value in (
            ("ready", "1 while requests should be sent here, as /readyz says.", float(not self._engine.unready_reason)),
            ("cancel_steps_max", "Most rounds from a client's leaving to its row being free.", gauges.cancel_steps_max),
        ):
            yield GaugeMetricFamily(f"copyist_{name}", text, value)
        for name, text, value in (
            ("engine_steps", "Rounds of the engine.", gauges.steps),
            ("engine_rows", "Rows stepped, summed over all rounds; by engine_steps it is the batch.", gauges.row_steps),
            ("engine_busy_seconds", "Time in steps of the network.", gauges.busy_s),
            ("engine_failures", "Steps that raised; their rows ended with an error.", gauges.failures),
            (
                "events",
                "Times that the engine told a stream something; by it, symbols are what an event holds.",
                gauges.published,
            ),
        ):
            yield CounterMetricFamily(f"copyist_{name}", text, value)
        sealed = CounterMetricFamily("copyist_sealed_tokens", "State and stream tokens handed out.", labels=["purpose"])
        for purpose, count in self._sealer.sealed.items():
            sealed.add_metric([purpose.name.lower()], count)
        yield sealed
        yield InfoMetricFamily("copyist_build", "What runs.", {"version": VERSION})
        about = InfoMetricFamily("copyist_model", "The bundles that are served.", labels=["model"])
        for name, model in self._models.items():
            kind = "text" if isinstance(model, TextModel) else "ink"
            about.add_metric([name], {"kind": kind, "fingerprint": model.bundle.fingerprint[:12]})
        yield about
