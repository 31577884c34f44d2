"""Nobody holds a connection for nothing: heads are weighed and have a deadline, readers too, and others are served."""

import json
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.service.live_server import PATIENCE_S, Server, running

HEAD_BYTES, HEADERS, CONNECTIONS = 600, 12, 5


@pytest.fixture(scope="module")
def strict(bundles: Path) -> Iterator[Server]:
    """A server of small bounds and short patience."""
    bounds = {"max_header_bytes": HEAD_BYTES, "max_headers": HEADERS, "max_body_bytes": 2000}
    patience = {"header_timeout_s": 0.5, "keep_alive_s": 0.5, "write_timeout_s": 0.5}
    with running(bundles, **bounds, **patience) as started:
        yield started


def connect(server: Server) -> socket.socket:
    """A connection of our own."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), PATIENCE_S)


def answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what the server says before it hangs up."""
    said = b""
    while piece := client.recv(65_536):
        said += piece
    head, _, body = said.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return (
        int(first.split()[1]),
        {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)},
        body,
    )


def ask(server: Server, *heads: bytes) -> tuple[int, str]:
    """Status and error message, "" for none, of the answer to a request that is told in pieces."""
    with connect(server) as client:
        for head in heads:
            client.sendall(head)
        status, headers, body = answer(client)
        assert headers["content-type"] == "application/json"
        error = json.loads(body).get("error")
        assert error is None or set(error) == {"message", "type", "param", "code"}
        return status, error["message"] if error else ""


def of_size(size: int) -> bytes:
    """A request whose target, names and values are so many bytes."""
    fixed = b"/healthz" + b"host" + b"x" + b"connection" + b"close" + b"a"
    return b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\na: %s\r\n\r\n" % (b"a" * (size - len(fixed)))


def test_a_head_of_the_limit_and_one_byte_more(strict: Server) -> None:
    """n bytes of target, names and values are served, n+1 are refused with 431 and the limit."""
    assert ask(strict, of_size(HEAD_BYTES)) == (200, "")
    status, message = ask(strict, of_size(HEAD_BYTES + 1))
    assert (status, f"{HEAD_BYTES} bytes" in message) == (431, True)


def test_a_target_counts(strict: Server) -> None:
    """A long path or query is weighed as headers are."""
    status, _ = ask(strict, b"GET /%s HTTP/1.1\r\n\r\n" % (b"a" * HEAD_BYTES))
    assert status == 431


def test_as_many_headers_as_may_and_one_more(strict: Server) -> None:
    """n headers are served, n+1 are refused with 431 and the limit."""
    request = b"GET /healthz HTTP/1.1\r\nconnection: close\r\n%s\r\n"
    assert ask(strict, request % (b"a: b\r\n" * (HEADERS - 1))) == (200, "")
    status, message = ask(strict, request % (b"a: b\r\n" * HEADERS))
    assert (status, f"{HEADERS} headers" in message) == (431, True)


@pytest.mark.parametrize("endless", [b"a" * 1024, b" " * 1024, b"a: b\r\n" * 100])
def test_a_head_without_end_is_cut_off(strict: Server, endless: bytes) -> None:
    """A name, a value, blanks or headers that never end are refused before they fill the memory."""
    with connect(strict) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\na:" + (b"" if b":" in endless else b" "))
        sent = 0
        try:
            while sent < 10_000_000:
                sent += client.send(endless)
        except OSError:
            pass
        assert sent < 10_000_000


def test_trailers_and_framing_count(strict: Server) -> None:
    """What follows a chunked body, or is put between its chunks, has bounds as well."""
    head = b"POST /v1/completions HTTP/1.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    for rest in (b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 50_000, b"1;" + b"x" * 300_000):
        with connect(strict) as client:
            try:
                client.sendall(head + rest)
                while client.recv(65_536):
                    pass
            except OSError:
                pass  # hung up on, as it should be
    assert strict.client.get("/healthz").status_code == 200


def test_a_head_that_drips_has_a_deadline(strict: Server) -> None:
    """A head that never ends arriving is 408; a client that says nothing at all is hung up on."""
    status, message = ask(strict, b"GET /healthz HTTP/1.1\r\n", b"a: ")
    assert (status, "0.5 seconds" in message) == (408, True)
    with connect(strict) as client:
        assert client.recv(100) == b""
    assert ask(strict, b"\r\n")[0] == 408


def test_the_next_head_on_a_connection_has_a_deadline_too(strict: Server) -> None:
    """After a request an idle connection is closed, and one that begins another and does not end it is told so."""
    request = b"GET /healthz HTTP/1.1\r\n\r\n"
    for begun, statuses in ((b"", [200]), (b"GET", [200, 408]), (b"\r\n", [200, 408])):
        with connect(strict) as client:
            client.sendall(request)
            said = client.recv(65_536)
            client.sendall(begun)
            while piece := client.recv(65_536):
                said += piece
        assert [int(each[:3]) for each in said.split(b"HTTP/1.1 ")[1:]] == statuses


def test_two_hundred_that_drip_keep_nobody_waiting(strict: Server) -> None:
    """While many connections hold half a head each, requests are served; all of them are given up in the end."""
    with ExitStack() as held:
        clients = [held.enter_context(connect(strict)) for _ in range(200)]
        for client in clients:
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nhost:")
        assert strict.complete(max_tokens=3)["choices"][0]["finish_reason"] == "length"
        assert {answer(client)[0] for client in clients} == {408}


def test_a_reader_that_never_reads_is_dropped(strict: Server) -> None:
    """A client that asks for much and takes nothing is hung up on; others are served."""
    with connect(strict) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            for _ in range(1000):
                client.sendall(b"GET /openapi.json HTTP/1.1\r\n\r\n")
        except OSError:
            pass  # it did not wait for the last one
        strict.wait_for("reader dropped")
    assert strict.client.get("/healthz").status_code == 200


def test_what_nobody_reads_is_not_waited_for(strict: Server) -> None:
    """A body that comes with a request that needs none does not keep the connection."""
    status, _ = ask(strict, b"GET /healthz HTTP/1.1\r\ncontent-length: 1000000000\r\n\r\n")
    assert status == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\nnonsense\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET  /healthz HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\na\x00b: c\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /v1/completions HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_http_is_told_so(strict: Server, raw: bytes) -> None:
    """A malformed request, one that two parsers may read differently, or TLS, is 400 in the shape of every error."""
    status, message = ask(strict, raw)
    assert (status, message) == (400, "The request is not valid HTTP.")


def test_noise_does_no_harm(strict: Server) -> None:
    """Random bytes on many connections leave a service that serves and has nothing to complain of."""
    numbers = random.Random(1)  # noqa: S311 - a repeatable one
    for _ in range(100):
        with connect(strict) as client:
            try:
                client.sendall(numbers.randbytes(numbers.randint(1, 2000)))
                while client.recv(65_536):
                    pass
            except OSError:
                pass  # hung up on, as it should be
    assert strict.complete(max_tokens=3)["choices"][0]["finish_reason"] == "length"


def test_as_many_connections_as_may_and_one_more(bundles: Path) -> None:
    """n connections are held, the next is told 503 and when to come again, and a place that is left is free."""
    with running(bundles, max_connections=CONNECTIONS) as server, ExitStack() as held:
        clients = [held.enter_context(connect(server)) for _ in range(CONNECTIONS)]
        for client in clients:
            client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert client.recv(65_536).startswith(b"HTTP/1.1 200")
        with connect(server) as one_more:
            status, headers, body = answer(one_more)
        assert (status, headers["retry-after"], headers["x-should-retry"]) == (503, "1", "true")
        assert json.loads(body)["error"]["code"] == "too_many_connections"
        clients[0].close()
        assert server.client.get("/healthz").status_code == 200
