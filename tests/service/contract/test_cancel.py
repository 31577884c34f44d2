"""A client that leaves frees what it occupied within one step: queued, in its prompt, decoding, streamed or whole."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from tests.service.live_server import PATIENCE_S, Server, problem, running

ROWS, QUEUE = 2, 2
ENDLESS = 1_000_000


@pytest.fixture(scope="module")
def narrow(bundles: Path) -> Iterator[Server]:
    """A server of two rows and two places to wait, on which a request can take practically for ever."""
    limits = {"max_tokens": ENDLESS, "max_points": ENDLESS, "max_prompt_chars": ENDLESS, "max_body_bytes": 2**24}
    with running(bundles, rows=ROWS, queue=QUEUE, heartbeat_s=0.05, **limits) as started:
        yield started


@pytest.fixture
def idle(narrow: Server) -> Server:
    """The server with nothing left to do from before."""
    narrow.gauges_when(lambda gauges: gauges["running"] == gauges["waiting"] == 0)
    return narrow


class Client:
    """A connection with one request on it, whose reply is read only as far as a test wants."""

    def __init__(self, server: Server, path: str = "/v1/completions", **body: Any) -> None:
        default = {"model": "small-text", "prompt": "a", "max_tokens": ENDLESS, "stream": True}
        raw = json.dumps({**(default if path == "/v1/completions" else {}), **body}).encode()
        host, _, port = server.url.removeprefix("http://").partition(":")
        self.socket = socket.create_connection((host, int(port)), PATIENCE_S)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        )
        self.socket.sendall(head.encode() + raw)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def read_until(self, mark: bytes) -> bytes:
        """Read until something has come."""
        read = b""
        while mark not in read:
            piece = self.socket.recv(65_536)
            assert piece, read
            read += piece
        return read


def occupy(server: Server, stack: ExitStack, count: int) -> list[Client]:
    """Let endless streams take rows, and wait until they have."""
    clients = [stack.enter_context(Client(server)) for _ in range(count)]
    server.gauges_when(lambda gauges: gauges["running"] + gauges["waiting"] == count)
    return clients


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("where", ["in the prompt", "decoding"])
def test_a_row_is_free_within_one_step(idle: Server, where: str, is_streamed: bool) -> None:
    """The client closes its connection, and at most one step later nobody runs."""
    before = idle.gauges()
    prompt = "a" * (ENDLESS if where == "in the prompt" else 1)
    with Client(idle, prompt=prompt, stream=is_streamed) as client:
        if is_streamed and where == "decoding":
            client.read_until(b'"text":')
        idle.gauges_when(lambda gauges: gauges["running"] == 1)
    after = idle.gauges_when(lambda gauges: gauges["running"] == 0)
    assert after["cancelled"] == before["cancelled"] + 1
    assert after["cancel_steps_max"] <= 1


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_place_in_the_queue_is_free_at_once(idle: Server, is_streamed: bool) -> None:
    """A client that leaves while it waits is forgotten, and those that run are not touched."""
    before = idle.gauges()
    with ExitStack() as stack:
        occupy(idle, stack, ROWS)
        with Client(idle, stream=is_streamed):
            idle.gauges_when(lambda gauges: (gauges["running"], gauges["waiting"]) == (ROWS, 1))
        after = idle.gauges_when(lambda gauges: gauges["waiting"] == 0)
        assert after["running"] == ROWS
        assert after["cancelled"] == before["cancelled"] + 1
        assert after["cancel_steps_max"] <= 1


@pytest.mark.parametrize("is_streamed", [True, False])
def test_all_choices_go_together(idle: Server, is_streamed: bool) -> None:
    """A client that leaves takes all its choices along, those that run and those that wait."""
    before = idle.gauges()["cancelled"]
    with Client(idle, n=3, max_tokens=ENDLESS // 3, stream=is_streamed):
        idle.gauges_when(lambda gauges: (gauges["running"], gauges["waiting"]) == (2, 1))
    gauges = idle.gauges_when(lambda gauges: gauges["running"] + gauges["waiting"] == 0)
    assert gauges["cancelled"] == before + 3


def test_ink_too(idle: Server) -> None:
    """A drawing nobody looks at any more is not gone on with."""
    with Client(idle, "/v1/handwriting", max_points=ENDLESS, stream=True) as client:
        client.read_until(b'"pen":')
        idle.gauges_when(lambda gauges: gauges["running"] == 1)
    assert idle.gauges_when(lambda gauges: gauges["running"] == 0)["cancel_steps_max"] <= 1


def test_who_stays_reads_what_they_would_have_read(idle: Server) -> None:
    """A neighbour that leaves changes no character of a stream."""
    body: dict[str, Any] = {"max_tokens": 3000, "seed": 21}
    alone = idle.complete(**body)["choices"]
    with Client(idle) as neighbour:
        neighbour.read_until(b'"text":')
        with Client(idle, prompt="It ", stream=False, **body) as staying:
            idle.gauges_when(lambda gauges: gauges["running"] == 2)
            neighbour.socket.close()
            reply = staying.read_until(b'"usage"')
    assert json.loads(reply[reply.index(b"{") :])["choices"] == alone


def test_a_full_queue_refuses_with_429_and_says_when(idle: Server) -> None:
    """Rows and queue taken, the next is refused at once; a place that becomes free is given to the next."""
    with ExitStack() as stack:
        clients = occupy(idle, stack, ROWS + QUEUE)
        response = idle.post("/v1/completions", model="small-text", prompt="a", max_tokens=1)
        assert response.status_code == 429
        error = problem(response)
        assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
        assert 1 <= int(response.headers["retry-after"]) <= 60
        for client in clients[1:]:
            client.socket.close()
        idle.gauges_when(lambda gauges: gauges["running"] + gauges["waiting"] == 1)
        assert idle.post("/v1/completions", model="small-text", prompt="a", max_tokens=1).status_code == 200
        clients[0].read_until(b'"text":')


def test_other_bundles_have_rows_of_their_own(idle: Server) -> None:
    """A bundle whose queue is full does not keep others from being served."""
    with ExitStack() as stack:
        occupy(idle, stack, ROWS + QUEUE)
        assert len(idle.draw(max_points=30)["x"]) == 30


def test_a_waiting_stream_gets_a_sign_of_life(idle: Server) -> None:
    """A queued stream has its headers at once and then comments of one line, which no client takes for an event."""
    with ExitStack() as stack:
        occupy(idle, stack, ROWS)
        with Client(idle) as waiting:
            read = waiting.read_until(b": ping\n")
            read += waiting.read_until(b": ping\n")
            assert b"200 OK" in read
            assert b": ping\n\n" not in read
            assert b"data:" not in read


def test_a_reader_that_never_reads_stops_nobody(idle: Server) -> None:
    """A client that takes nothing costs its own sequence and no memory beyond; others stream on."""
    with Client(idle) as sleeper:
        idle.gauges_when(lambda gauges: gauges["running"] == 1)
        assert len(idle.complete(max_tokens=2000)["choices"][0]["text"]) == 2000
        assert idle.gauges()["running"] == 1
        sleeper.read_until(b'"text":')
