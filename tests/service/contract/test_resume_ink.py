"""Ink is split with state tokens, or cut and resumed, at every position and across processes: the same points."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpx_sse import connect_sse

from tests.service.contract.conftest import KEY
from tests.service.live_server import Server, problem, running

LENGTH = 16
FREE: dict[str, Any] = {"seed": 5, "bias": 0.4, "max_points": LENGTH}
WRAPPED: dict[str, Any] = {**FREE, "line_width_mm": 12, "x_height_mm": 4}
WRITTEN: dict[str, Any] = {"text": "Ada,", "seed": 3}
COLUMNS = ("x", "y", "t", "pen", "line", "op", "z", "segment")


@pytest.fixture(scope="module")
def there(bundles: Path) -> Iterator[Server]:
    """Another process with the same key, which sends more at once."""
    with running(bundles, state_keys=KEY, rows=2, flush_chars=64) as started:
        yield started


def draw(server: Server, **body: Any) -> dict[str, Any]:
    """Return a whole drawing."""
    response = server.post("/v1/handwriting", **body)
    assert response.status_code == 200, response.text
    drawing: dict[str, Any] = response.json()
    return drawing


def joined(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """What pieces say together: their columns, where they begin, and the sheet that the last one tells."""
    whole: dict[str, Any] = {name: pieces[0][name] for name in COLUMNS}
    for piece in pieces[1:]:
        for name in COLUMNS:
            nested = name in ("op", "z", "segment")
            both = whole[name], piece[name]
            whole[name] = [one + other for one, other in zip(*both, strict=True)] if nested else both[0] + both[1]
    return whole | {"start": pieces[0]["start"], "pages": pieces[-1]["pages"], "end": pieces[-1]["finish_reason"]}


@pytest.mark.parametrize("body", [FREE, WRAPPED], ids=["one line", "several lines"])
def test_a_drawing_split_anywhere_is_the_drawing(here: Server, there: Server, body: dict[str, Any]) -> None:
    """Points, times, lines, boundaries and sheet of two halves, written by two processes, are those of one call."""
    whole = draw(here, **body)
    for position in range(1, LENGTH):
        first = draw(here, **{**body, "max_points": position}, return_state=True)
        rest = {**body, "max_points": LENGTH - position, "state": first["state"]}
        del rest["seed"]
        second = draw(there, **rest)
        assert second["start"] == position
        assert joined([first, second]) == joined([whole])
        assert second["usage"]["points"] == whole["usage"]["points"]
        assert second["usage"]["strokes"] == whole["usage"]["strokes"]


@pytest.mark.parametrize("body", [FREE, WRAPPED, WRITTEN], ids=["one line", "several lines", "a text"])
def test_a_drawing_cut_anywhere_is_resumed(here: Server, there: Server, body: dict[str, Any]) -> None:
    """Who repeats the request with the number of points that came gets the others, as if nothing had happened."""
    whole = draw(here, **body)
    count = len(whole["x"])
    for position in range(0, count + 1, 1 if body is not WRITTEN else 1 + count // 12):
        events = there.events("/v1/handwriting", **body, resume_at=position)
        (rest,) = [joined(events)] if events else [{}]
        assert rest["start"] == position
        for name in ("x", "y", "t", "pen", "line"):
            assert rest[name] == whole[name][position:]
        for name in ("op", "z", "segment"):
            assert rest[name] == [column[position:] for column in whole[name]]
        assert (rest["pages"], rest["end"]) == (whole["pages"], whole["finish_reason"])
        again = draw(here, **body, resume_at=position)
        assert again["x"] == rest["x"]


def test_a_drawing_is_gone_on_with_point_by_point(here: Server, there: Server) -> None:
    """Each point by a request of its own, from the state of the one before, in turn by two processes."""
    whole = draw(here, **FREE)
    pieces = [draw(here, **{**FREE, "max_points": 1}, return_state=True)]
    for number in range(1, 8):
        server = (here, there)[number % 2]
        pieces.append(draw(server, bias=0.4, max_points=1, state=pieces[-1]["state"], return_state=True))
    assert [piece["start"] for piece in pieces] == list(range(8))
    assert joined(pieces)["x"] == whole["x"][:8]
    assert joined(pieces)["segment"] == [column[:8] for column in whole["segment"]]


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"return_state": True, "format": "svg"}, "return_state"),
        ({"resume_at": 3, "seed": 1, "format": "png"}, "resume_at"),
        ({"resume_at": 3}, "resume_at"),
        ({"text": "a", "resume_at": 3}, "resume_at"),
        ({"text": "a", "return_state": True}, "return_state"),
        ({"text": "a", "state": "x"}, "state"),
        ({"state": "x"}, "state"),
    ],
)
def test_wishes_that_cannot_be_are_named(here: Server, wish: dict[str, Any], param: str) -> None:
    """Pictures have no parts, texts no state, and no state is none."""
    response = here.post("/v1/handwriting", **wish)
    assert response.status_code == 400
    assert problem(response)["param"] == param


def test_a_state_of_text_is_none_of_ink(here: Server) -> None:
    """Each model knows its own."""
    text = here.complete(max_tokens=2, return_state=True)["choices"][0]["state"]
    ink = draw(here, **FREE, return_state=True)["state"]
    for response in (
        here.post("/v1/handwriting", state=text),
        here.post("/v1/completions", model="small-text", state=ink),
    ):
        assert response.status_code == 400
        assert problem(response)["code"] in ("invalid_token_model", "invalid_token_too_large")


@pytest.mark.parametrize("body", [FREE, WRITTEN], ids=["free", "a text"])
def test_a_browser_resumes_by_itself(here: Server, there: Server, body: dict[str, Any]) -> None:
    """Cut after any event, a browser comes back with its id and misses and repeats nothing."""
    made = here.post("/v1/streams", handwriting=body)
    assert made.status_code == 200, made.text
    url, whole = made.json()["url"], draw(here, **body)
    events = read(here, url)
    assert events[-1][0] == "end"
    assert x_of(events) == whole["x"]
    for count in range(1, len(events), 1 + len(events) // 10):
        begun = events[:count]
        came = x_of(begun)
        assert begun[-1][0] == str(len(came))
        rest = read(there, url, begun[-1][0])
        assert came + x_of(rest) == whole["x"]
    assert there.client.get(url, headers={"last-event-id": "end"}).status_code == 204


def read(server: Server, url: str, last: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Read a stream as a browser does: (id, object) of each event."""
    headers = {"last-event-id": last} if last is not None else {}
    with connect_sse(server.client, "GET", url, headers=headers) as source:
        assert source.response.status_code == 200, source.response.read()
        return [(event.id, json.loads(event.data)) for event in source.iter_sse() if event.data != "[DONE]"]


def x_of(events: list[tuple[str, dict[str, Any]]]) -> list[float]:
    """The points' x that events tell."""
    return [x for _, piece in events for x in piece["x"]]
