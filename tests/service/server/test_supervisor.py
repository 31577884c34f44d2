"""Several processes on one port are one service to its clients, and to who runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.engine.loop import NICENESS
from service.server import supervisor as processes
from service.server.supervisor import CAN_SHARE, MAX_DEFAULT_PROCESSES, num_cores, num_processes
from service.settings import Settings
from tests.service.live_server import PATIENCE_S, ROOT, Server, problem, running

pytestmark = pytest.mark.skipif(not CAN_SHARE, reason="this system lets one process serve, not several")

COUNT = 3
FEW = 2  # where one process beside another will do
TEXT = {"model": "small-text", "prompt": "abcde"}
ENDLESS = {**TEXT, "max_tokens": 1_000_000, "stream": True}


def few(bundles: Path, **settings: object) -> Server:
    """A service of two processes, both of which listen."""
    server = Server(bundles, processes=FEW, **settings)
    server.wait_for("all processes listen")
    return server


@pytest.fixture(scope="module")
def three(bundles: Path) -> Iterator[Server]:
    """A service that tests may ask, but not change."""
    with running(bundles, processes=COUNT) as server:
        server.wait_for("all processes listen")
        yield server


@pytest.fixture
def mortal(bundles: Path) -> Iterator[Server]:
    """A service of a test's own, whose processes it may end."""
    server = few(bundles, max_tokens=1_000_000)
    yield server
    server.kill()


def children(server: Server) -> list[int]:
    """Process ids of those that serve."""
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


def is_alive(pid: int) -> bool:
    """Whether there is such a process, which has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait for something that another process or thread does."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def post(server: Server, **body: object) -> httpx.Response:
    """Ask over a connection of its own, which the system deals out to any of them."""
    return httpx.post(f"{server.url}/v1/completions", json={**TEXT, **body}, timeout=PATIENCE_S)


def finished(server: Server) -> Counter[str]:
    """How many completions each process says it has finished."""
    counts: Counter[str] = Counter()
    for family in text_string_to_metric_families(httpx.get(f"{server.url}/metrics", timeout=PATIENCE_S).text):
        for sample in family.samples:
            if sample.name == "copyist_requests_finished_total" and sample.labels["model"] == "small-text":
                counts[sample.labels["process"]] += int(sample.value)
    return counts


def readiness(server: Server) -> httpx.Response | None:
    """What one of them says of all, or None if it says nothing."""
    try:
        return httpx.get(f"{server.url}/readyz", timeout=3.0)
    except httpx.TimeoutException:
        return None


class TestOneService:
    def test_all_of_them_answer_with_the_same_bytes_and_one_scrape_tells_of_all(self, three: Server) -> None:
        """Requests are dealt out to every process, a seed is the same text on each, and their counts add up."""
        before = finished(three)
        texts = {post(three, max_tokens=20, seed=7).json()["choices"][0]["text"] for _ in range(60)}
        assert len(texts) == 1
        grown = finished(three) - before
        assert sum(grown.values()) == 60
        assert set(grown) == {"0", "1", "2"}

    def test_a_token_of_one_is_good_for_the_others(self, three: Server) -> None:
        """A text in thirty requests, each on whichever process takes it, is the text in one."""
        whole = post(three, max_tokens=90, seed=5).json()["choices"][0]["text"]
        reply = post(three, max_tokens=3, seed=5, return_state=True).json()["choices"][0]
        text = reply["text"]
        for _ in range(29):
            body = {"model": "small-text", "state": reply["state"], "max_tokens": 3, "return_state": True}
            answer = httpx.post(f"{three.url}/v1/completions", json=body, timeout=PATIENCE_S)
            assert answer.status_code == 200, answer.text
            reply = answer.json()["choices"][0]
            text += reply["text"]
        assert text == whole

    def test_rates_are_counted_together(self, bundles: Path) -> None:
        """A key has its steps once, not once in each process, however many ask at a time."""
        with running(bundles, processes=COUNT, rate_limit="200/hour") as server:
            server.wait_for("all processes listen")
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: post(server, max_tokens=5), range(40)))
            assert Counter(answer.status_code for answer in answers) == {200: 20, 429: 20}
            assert {problem(answer)["code"] for answer in answers if answer.status_code == 429} == {"rate_limited"}
            assert len(finished(server)) == COUNT
            lefts = [int(answer.headers["ratelimit"].split(";")[1].removeprefix("r=")) for answer in answers]
            assert min(lefts) == 0

    def test_a_log_line_says_which_it_was(self, three: Server) -> None:
        """Every line of a process has its number."""
        post(three, max_tokens=1)
        assert three.wait_for("request", route="/v1/completions")["process"] in range(COUNT)

    def test_the_parent_is_small(self, three: Server) -> None:
        """It has one thread, which is what makes its forks safe, and less than half the memory of who serves."""

        def fact(pid: int, name: str) -> int:
            lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
            return int(dict(line.split(":", 1) for line in lines)[name].split()[0])

        assert fact(three.process.pid, "Threads") == 1
        assert fact(three.process.pid, "VmRSS") < min(fact(pid, "VmRSS") for pid in children(three)) / 2

    def test_stepping_gives_way_to_talking(self, three: Server) -> None:
        """In each process one thread, the engine's, runs after the others where cores are short."""
        usual = os.getpriority(os.PRIO_PROCESS, 0)
        for pid in children(three):
            tasks = Path(f"/proc/{pid}/task").glob("*/stat")
            nice = [int(task.read_text("ascii").rpartition(")")[2].split()[16]) for task in tasks]
            assert sorted(nice) == [usual] * (len(nice) - 1) + [max(usual, NICENESS)]


class TestDying:
    def test_one_that_dies_is_replaced(self, mortal: Server) -> None:
        """The others serve on meanwhile, and tokens from before are good after it."""
        state = post(mortal, max_tokens=1, return_state=True).json()["choices"][0]["state"]
        victim, *rest = children(mortal)
        os.kill(victim, signal.SIGKILL)
        replaced = mortal.wait_for("a process ended and is replaced")
        assert (replaced["exit_code"], replaced["level"]) == (-signal.SIGKILL, "error")
        for _ in range(20):
            assert post(mortal, max_tokens=1).status_code == 200
        mortal.wait_for("all processes listen")
        assert len(children(mortal)) == FEW
        assert set(rest) < set(children(mortal))
        for _ in range(20):
            body = {"model": "small-text", "state": state, "max_tokens": 1}
            assert httpx.post(f"{mortal.url}/v1/completions", json=body, timeout=PATIENCE_S).status_code == 200
        assert mortal.stop() == 0

    def test_one_that_hangs_makes_the_service_unready(self, mortal: Server) -> None:
        """As long as a process does not answer, the others say so, and no longer."""
        victim = children(mortal)[1]
        os.kill(victim, signal.SIGSTOP)
        try:
            # One request in two reaches the process that hangs, and waits in vain.
            answers = list(islice((answer for _ in range(40) if (answer := readiness(mortal))), 3))
        finally:
            os.kill(victim, signal.SIGCONT)
        assert {answer.status_code for answer in answers} == {503}
        assert {problem(answer)["message"] for answer in answers} == {"A process of the service does not answer."}
        answer = readiness(mortal)
        assert answer is not None
        assert answer.status_code == 200

    def test_no_child_outlives_the_parent(self, mortal: Server) -> None:
        """A parent that is killed takes its children along, with streams that still run."""
        with mortal.client.stream("POST", "/v1/completions", json=ENDLESS) as response:
            pieces = response.iter_bytes()
            next(pieces)
            left = children(mortal)
            mortal.process.kill()
            b"".join(pieces)
        mortal.ended()
        wait_until(lambda: not any(map(is_alive, left)))


class TestStopping:
    def test_running_streams_are_finished(self, bundles: Path) -> None:
        """On one SIGTERM all drain: what runs on any of them is told to its end, and the exit code is 0."""
        body = {**TEXT, "max_tokens": 3000, "seed": 1}
        server = few(bundles, flush_chars=1, flush_ms=0)
        try:
            expected = post(server, **body).json()["choices"][0]["text"]
            begun: set[int] = set()

            def follow(number: int) -> str:
                text, url, ask = "", f"{server.url}/v1/completions", {**body, "stream": True}
                with httpx.stream("POST", url, json=ask, timeout=PATIENCE_S) as response:
                    for line in response.iter_lines():
                        if line.startswith("data: {"):
                            begun.add(number)
                            text += json.loads(line[6:])["choices"][0]["text"]
                return text

            with ThreadPoolExecutor(9) as pool:
                followed = [pool.submit(follow, number) for number in range(9)]
                wait_until(lambda: len(begun) == 9)
                server.process.terminate()
                texts = [each.result(PATIENCE_S) for each in followed]
            assert set(texts) == {expected}
            assert server.ended() == 0
        finally:
            server.kill()

    def test_a_second_signal_does_not_wait(self, bundles: Path) -> None:
        """It is passed on, too; streams then end with an error event, however long the time for draining."""
        server = few(bundles, drain_s=3600, max_tokens=1_000_000)
        with server.client.stream("POST", "/v1/completions", json=ENDLESS) as response:
            pieces = response.iter_bytes()
            next(pieces)
            server.process.send_signal(signal.SIGINT)
            for _ in range(FEW):
                server.wait_for("draining")
            server.process.send_signal(signal.SIGINT)
            frames = b"".join(pieces).split(b"\n\n")
        assert b'"code":"shutting_down"' in frames[-3]
        assert server.ended() == 0


class TestPort:
    def test_a_taken_port_is_an_error(self, three: Server, bundles: Path) -> None:
        """No service listens beside another, be it one process or several."""
        port = three.url.rpartition(":")[2]
        for count in ("1", "2"):
            environment = {**os.environ, "COPYIST_BUNDLES": str(bundles), "COPYIST_PROCESSES": count}
            command = [sys.executable, "-m", "service", "--port", port]
            ended = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
            )
            assert ended.returncode != 0
            assert "address already in use" in ended.stderr.lower()

    def test_a_port_can_be_had_again_at_once(self, bundles: Path) -> None:
        """Connections that the last service closed keep no other one from its port, nor do those of one process."""
        port = "0"
        for count in (1, 2, 2, 1):
            with running(bundles, processes=count, port=port) as server:
                port = server.url.rpartition(":")[2]
                assert server.complete(max_tokens=1)["choices"]  # on a connection that is kept open
                assert server.stop(close=False) == 0


class TestHowMany:
    def test_one_for_each_core_within_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By default there are as many as cores, four at most; any number may be asked for."""
        for cores, expected in ((1, 1), (3, 3), (64, MAX_DEFAULT_PROCESSES)):
            monkeypatch.setattr(processes, "num_cores", lambda cores=cores: cores)
            assert num_processes(Settings()) == expected
            assert num_processes(Settings(processes=7)) == 7

    @pytest.mark.parametrize(
        ("quota", "cores"), [("max 100000\n", 16), ("150000 100000\n", 2), ("50000 100000\n", 1), ("", 16)]
    )
    def test_a_containers_share_counts(
        self, quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a container may use of the machine is rounded up to whole cores."""
        (tmp_path / "cpu.max").write_text(quota, "ascii")
        monkeypatch.setattr(processes, "_QUOTA", tmp_path / "cpu.max")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
        assert num_cores() == cores
