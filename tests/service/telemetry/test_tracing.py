"""A span of each request, where an operator asks for them: what it says, whose part it is, and what it never holds."""

import gzip
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from starlette.testclient import TestClient

from service.server.app import create_app
from service.settings import Settings
from service.telemetry.tracing import Spans
from tests.programs import PATIENCE_S
from tests.service.live_server import ROOT, running

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs the extra otel")

KEY, SECRET = "key-of-ann", "Unmistakable words of a prompt"
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TEXT = {"model": "small-text", "prompt": SECRET, "max_tokens": 6, "user": SECRET}


@pytest.fixture
def spans(bundles: Path) -> Iterator[tuple[TestClient, Any]]:
    """A client of the application in this process, and what collects its spans."""
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    digest = hashlib.sha256(KEY.encode()).hexdigest()
    app = create_app(Settings(bundles=bundles, api_keys=SecretStr(f"ann:{digest}")))
    provider, memory = sdk.TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    app.add_middleware(Spans, tracer=provider.get_tracer("test"))
    with TestClient(app, headers={"authorization": f"Bearer {KEY}"}) as client:
        yield client, memory


def attributes(span: Any) -> Mapping[str, Any]:
    """What a span says."""
    found: Mapping[str, Any] = span.attributes
    return found


def test_a_span_says_what_the_log_says(spans: tuple[TestClient, Any]) -> None:
    """Route, status, model, key's name, steps and times, of a whole reply, a stream and ink; nothing that was sent."""
    client, memory = spans
    whole = client.post("/v1/completions", json=TEXT, headers={"traceparent": CALLER}).json()
    client.post("/v1/completions", json=TEXT | {"stream": True})
    client.post("/v1/handwriting", json={"max_points": 5})
    client.post("/v1/handwriting", json={"text": SECRET})
    found = memory.get_finished_spans()
    routes = ["/v1/completions"] * 2 + ["/v1/handwriting"] * 2
    assert [span.name for span in found] == [f"POST {route}" for route in routes]
    for span, model in zip(found, ("small-text", "small-text", "small-ink", "copybook"), strict=True):
        said = attributes(span)
        assert (said["http.response.status_code"], said["gen_ai.request.model"]) == (200, model)
        assert said["enduser.id"] == "ann"
        assert len(said["copyist.request_id"]) == 24
        if model != "copybook":
            assert said["copyist.finish_reason"] == "length"
            assert 0 <= said["copyist.queue_ms"] <= said["copyist.first_ms"]
    assert attributes(found[0])["copyist.steps"] == whole["usage"]["steps"]
    assert f"{found[0].context.trace_id:032x}" == CALLER.split("-")[1]
    assert f"{found[0].parent.span_id:016x}" == CALLER.split("-")[2]
    assert found[1].parent is None
    told = "".join(span.to_json() for span in found)
    assert not any(secret in told for secret in (SECRET, KEY, whole["choices"][0]["text"]))


def test_what_goes_wrong_is_said(spans: tuple[TestClient, Any]) -> None:
    """A refusal has its code and is no fault of ours; a path that is none has no name; probes make no spans."""
    client, memory = spans
    url = client.post("/v1/streams", json={"completion": TEXT}).json()["url"]
    client.get(url)
    client.post("/v1/completions", json=TEXT | {"model": SECRET[:20]})
    client.get(f"/v1/{KEY}", headers={"authorization": "Bearer wrong"})
    for path in ("/healthz", "/readyz", "/metrics"):
        client.get(path)
    made, stream, unknown, refused = memory.get_finished_spans()
    assert (made.name, stream.name) == ("POST /v1/streams", "GET /v1/streams/{token}")
    assert attributes(unknown)["error.type"] == "model_not_found"
    assert attributes(unknown)["http.response.status_code"] == 404
    assert (refused.name, attributes(refused)["error.type"]) == ("GET", "invalid_api_key")
    assert unknown.status.is_unset
    told = "".join(span.to_json() for span in memory.get_finished_spans())
    assert not any(secret in told for secret in (SECRET[:20], KEY, url.rpartition("/")[2]))


class Collector(HTTPServer):
    """Takes what the protocol sends, as a collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taker)
        self.taken: list[bytes] = []


class Taker(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Collector

    def do_POST(self) -> None:
        """Keep the body."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.taken.append(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_they_reach_a_collector(bundles: Path) -> None:
    """A server sends its spans by OpenTelemetry's protocol, the last of them as it stops; its log has their ids."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever)
    thread.start()
    try:
        with running(bundles, otlp_url=f"http://127.0.0.1:{collector.server_port}/v1/traces") as server:
            server.client.post("/v1/completions", json=TEXT, headers={"traceparent": CALLER})
            line = server.wait_for("request", route="/v1/completions")
            assert server.stop() == 0
    finally:
        collector.shutdown()
        thread.join(PATIENCE_S)
        collector.server_close()
    (request,) = (ExportTraceServiceRequest.FromString(body) for body in collector.taken)
    (resource,) = request.resource_spans
    assert {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"] == "copyist"
    (span,) = resource.scope_spans[0].spans
    assert (span.name, span.trace_id.hex()) == ("POST /v1/completions", CALLER.split("-")[1])
    assert (line["trace_id"], line["model"]) == (CALLER.split("-")[1], "small-text")
    assert SECRET.encode() not in b"".join(collector.taken)


def test_nothing_of_it_is_loaded_by_default(bundles: Path) -> None:
    """Without an address there are no spans, and nothing that makes or sends any; FastAPI's own stay off, too."""
    program = (
        "import sys, pathlib, json; from service.server.app import create_app; from service.settings import Settings\n"
        f"create_app(Settings(bundles=pathlib.Path({str(bundles)!r})))\n"
        "theirs = ('opentelemetry.sdk', 'opentelemetry.exporter')\n"
        "print(json.dumps([name for name in sys.modules if name.startswith(theirs)]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert json.loads(run.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize("url", ["", "collector:4318", "grpc://collector:4317", "http://", "http://a b"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """A mistyped address keeps the service from starting."""
    with pytest.raises(ValidationError, match="an address is like"):
        Settings(otlp_url=url)
