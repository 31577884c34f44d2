"""Starting, refusing to start, logging, draining and stopping, with real processes and real signals."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from httpx_sse import connect_sse

from service.__main__ import main
from tests.programs import started
from tests.service.live_server import PATIENCE_S, ROOT, Server, problem, running

SECRET = "Unmistakable words of a prompt"  # noqa: S105 - it is what must not be logged
ENDLESS = {"model": "small-text", "prompt": "a", "max_tokens": 1_000_000}


def service(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m service`, which is expected to end by itself."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COPYIST_")}
    command = [sys.executable, "-m", "service", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


class TestStarting:
    def test_without_bundles_it_says_what_to_do(self, tmp_path: Path) -> None:
        """An empty folder is one sentence and exit code 1, no traceback."""
        result = service("--port", "0", COPYIST_BUNDLES=str(tmp_path))
        assert result.returncode == 1
        assert (
            result.stderr == f"There are no bundles in {tmp_path}; set COPYIST_BUNDLES to a folder that holds some.\n"
        )

    def test_a_tampered_bundle_is_refused(self, bundles: Path, tmp_path: Path) -> None:
        """A bundle of which one byte was changed keeps the service from starting, and the file is named."""
        copy = tmp_path / "small-text"
        copy.mkdir()
        for file in (bundles / "small-text").iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        graph = bytearray((copy / "step.onnx").read_bytes())
        graph[len(graph) // 2] ^= 1
        (copy / "step.onnx").write_bytes(graph)
        result = service("--port", "0", COPYIST_BUNDLES=str(tmp_path))
        assert result.returncode == 1
        assert "step.onnx" in result.stderr
        assert "Traceback" not in result.stderr

    def test_two_bundles_of_one_name_are_refused(self, bundles: Path, tmp_path: Path) -> None:
        """A name must say which bundle is meant."""
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            for file in (bundles / "small-text").iterdir():
                (tmp_path / name / file.name).write_bytes(file.read_bytes())
        result = service("--port", "0", COPYIST_BUNDLES=str(tmp_path))
        assert result.returncode == 1
        assert "both named small-text" in result.stderr

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PORT", "65536"),
            ("PORT", "http"),
            ("ROWS", "0"),
            ("ROWS", "1025"),
            ("DRAIN_S", "nan"),
            ("LOG_LEVEL", "loud"),
        ],
    )
    def test_bad_settings_are_named(
        self, name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A setting beyond its limit is one line that names the variable, and exit code 2."""
        monkeypatch.setenv(f"COPYIST_{name}", value)
        assert main([]) == 2
        written = capsys.readouterr().err
        assert written.startswith(f"COPYIST_{name}: ")
        assert written.count("\n") == 1

    @pytest.mark.parametrize("processes", ["1", "2"])
    def test_a_taken_port_is_an_error(self, processes: str, server: Server, bundles: Path) -> None:
        """A second service on the same port ends with an exit code other than 0 and says why."""
        port = server.url.rpartition(":")[2]
        result = service("--port", port, COPYIST_BUNDLES=str(bundles), COPYIST_PROCESSES=processes)
        assert result.returncode != 0
        assert "address already in use" in result.stderr.lower()

    def test_the_command_line_wins_over_the_environment(self, bundles: Path) -> None:
        """--port is obeyed where COPYIST_PORT says something else."""
        with started(
            [sys.executable, "-m", "service", "--port", "0", "--host", "127.0.0.1"],
            cwd=ROOT,
            env={**os.environ, "COPYIST_PORT": "1", "COPYIST_BUNDLES": str(bundles), "COPYIST_LOG_FORMAT": "json"},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert any('"listening"' in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            process.stderr.read()
        assert process.returncode == 0


class TestStopping:
    def test_an_idle_service_stops_at_once(self, bundles: Path) -> None:
        """SIGTERM ends it with exit code 0 and without a warning; each line of its log is a JSON object."""
        with running(bundles, log_format="auto") as server:  # the log is no terminal here
            server.complete()
            assert server.stop() == 0
            assert not server.complaints()
            assert {entry["event"] for entry in server.log} >= {"bundle opened", "listening", "request", "draining"}

    def test_running_requests_are_finished(self, bundles: Path) -> None:
        """A stream that runs at SIGTERM is told to its end; meanwhile nothing new is taken."""
        with running(bundles, flush_chars=1, flush_ms=0) as server:
            body = {"model": "small-text", "prompt": "a", "max_tokens": 4096, "seed": 1}
            expected = server.post("/v1/completions", **body).json()["choices"][0]["text"]
            with connect_sse(server.client, "POST", "/v1/completions", json={**body, "stream": True}) as source:
                events = source.iter_sse()
                text = next(events).json()["choices"][0]["text"]
                server.process.terminate()
                server.wait_for("draining")
                with pytest.raises(httpx.TransportError):
                    httpx.get(f"{server.url}/readyz", timeout=PATIENCE_S)
                for event in events:
                    if event.data == "[DONE]":
                        break
                    text += event.json()["choices"][0]["text"]
            assert text == expected
            assert server.ended() == 0

    def test_what_takes_too_long_hears_of_the_end(self, bundles: Path) -> None:
        """After the time for draining a stream ends with an error event and [DONE], and a whole reply is a 503."""
        with running(bundles, drain_s=0.2, max_tokens=1_000_000) as server:
            with (
                ThreadPoolExecutor(1) as pool,
                server.client.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as response,
            ):
                whole = pool.submit(httpx.post, f"{server.url}/v1/completions", json=ENDLESS, timeout=PATIENCE_S)
                server.gauges_when(lambda gauges: gauges["running"] == 2)
                server.process.terminate()
                frames = response.read().split(b"\n\n")
                refusal = whole.result(PATIENCE_S)
            assert frames[-2:] == [b"data: [DONE]", b""]
            assert b'"code":"shutting_down"' in frames[-3]
            assert refusal.status_code == 503
            assert problem(refusal)["code"] == "shutting_down"
            assert refusal.headers["retry-after"] == "1"
            assert server.ended() == 0

    def test_a_second_signal_does_not_wait(self, bundles: Path) -> None:
        """On a second signal running streams end with an error event, however long the time for draining."""
        with running(bundles, drain_s=3600, max_tokens=1_000_000) as server:
            with server.client.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as response:
                pieces = response.iter_bytes()
                next(pieces)
                server.process.send_signal(signal.SIGINT)
                server.wait_for("draining")
                server.process.send_signal(signal.SIGINT)
                frames = b"".join(pieces).split(b"\n\n")
            assert b'"code":"shutting_down"' in frames[-3]
            assert server.ended() == 0


def test_one_line_per_request_says_everything_but_the_content(server: Server) -> None:
    """A request's line has its id, route, status, times, steps and reason; nothing has a word of the prompt."""
    body = {"model": "small-text", "prompt": SECRET, "max_tokens": 9, "user": SECRET}
    headers = {"x-request-id": "this-one", "authorization": SECRET}
    reply = server.client.post("/v1/completions", json=body, headers=headers).json()
    line = server.wait_for("request", request_id="this-one")
    server.client.post("/v1/completions", json={**body, "unknown": SECRET}, headers={"x-request-id": "refused"})
    assert server.wait_for("request", request_id="refused")["status"] == 400
    server.client.get("/healthz", headers={"x-request-id": "probe"})
    probe = server.wait_for("request", request_id="probe")
    assert (probe["route"], probe["level"]) == ("/healthz", "debug")
    assert line["route"] == "/v1/completions"
    assert (line["method"], line["status"], line["finish_reason"]) == ("POST", 200, "length")
    assert line["steps"] == len(SECRET) + 8
    assert 0 <= line["queue_ms"] <= line["first_ms"] <= line["total_ms"]
    written = str(server.log)
    assert "Unmistakable" not in written
    assert reply["choices"][0]["text"] not in written
