"""Bodies are counted as they arrive and have a deadline, whatever the client declares."""

import http.client
import socket
from collections.abc import Iterator

import pytest

from tests.service.live_server import PATIENCE_S, Server, problem

LIMIT = 2000


@pytest.fixture(scope="module")
def strict(small_limits: Server) -> Server:
    """A server that accepts 2,000 bytes within half a second."""
    return small_limits


def of_size(size: int) -> bytes:
    """Return a valid request of exactly this many bytes."""
    body = b'{"model":"small-text","prompt":"a","max_tokens":1}'
    return body + b" " * (size - len(body))


def test_a_body_of_the_limit_and_one_byte_more(strict: Server) -> None:
    """n bytes are served, n+1 are refused with 413 and the limit."""
    json = {"content-type": "application/json"}
    assert strict.client.post("/v1/completions", content=of_size(LIMIT), headers=json).status_code == 200
    response = strict.client.post("/v1/completions", content=of_size(LIMIT + 1), headers=json)
    assert response.status_code == 413
    assert "2000 bytes" in problem(response)["message"]


@pytest.mark.parametrize("piece", [1, 7, 5000])
def test_chunks_are_counted_as_they_come(strict: Server, piece: int) -> None:
    """A body without a declared length is counted: n bytes in any pieces are served, n+1 are not."""

    def pieces(body: bytes) -> Iterator[bytes]:
        for start in range(0, len(body), piece):
            yield body[start : start + piece]

    json = {"content-type": "application/json"}
    assert strict.client.post("/v1/completions", content=pieces(of_size(LIMIT)), headers=json).status_code == 200
    response = strict.client.post("/v1/completions", content=pieces(of_size(LIMIT + 1)), headers=json)
    assert response.status_code == 413


def test_an_endless_body_is_cut_off(strict: Server) -> None:
    """A client that never stops sending gets an answer, and its connection is closed."""
    with socket.create_connection(address(strict), PATIENCE_S) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        answer = b""
        try:
            for _ in range(10_000):
                client.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        except OSError:
            pass  # hung up on, as it should be
        try:
            answer = client.recv(4096)
        except OSError:
            return
        assert answer.startswith(b"HTTP/1.1 413") or answer == b""


def test_a_body_that_drips_has_a_deadline(strict: Server) -> None:
    """A body that does not arrive in time is answered with 408 and the limit."""
    with socket.create_connection(address(strict), PATIENCE_S) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        response = http.client.HTTPResponse(client)
        response.begin()
        body = response.read()
    assert response.status == 408
    assert b"0.5 seconds" in body
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("APPLICATION/JSON", 200),
        ("application/vnd.openai+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/octet-stream", 415),
        ("", 415),
    ],
)
def test_only_json_is_read(server: Server, content_type: str, status: int) -> None:
    """A body whose Content-Type is not JSON is refused without reading it."""
    response = server.client.post("/v1/completions", content=of_size(100), headers={"content-type": content_type})
    assert response.status_code == status
    if status == 415:
        assert "application/json" in problem(response)["message"]


@pytest.mark.parametrize(
    "body",
    [
        of_size(60).decode().encode("utf-16"),
        of_size(60).decode().encode("utf-16-le"),
        of_size(60).decode().encode("utf-32"),
        b'{"model":"small-text","prompt":"\xed\xa0\x80","max_tokens":1}',
        b'{"model":"small-text","prompt":"\xff","max_tokens":1}',
    ],
)
def test_only_utf_8_is_read(server: Server, body: bytes) -> None:
    """JSON must be UTF-8: other encodings and incomplete characters are refused."""
    response = server.client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert problem(response)["message"] == "The body is not UTF-8."


def test_a_client_that_leaves_in_its_body_leaves_nothing_behind(strict: Server) -> None:
    """If the connection ends before the body is complete, there is no request."""
    before = strict.gauges()["finished"]
    with socket.create_connection(address(strict), PATIENCE_S) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
    assert strict.gauges()["finished"] == before


def address(server: Server) -> tuple[str, int]:
    """Return host and port of a server."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    return host, int(port)
