"""A stream is split with state tokens, or cut and resumed, at every position and across processes: the same bytes."""

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import connect_sse

from tests.service.contract.conftest import KEY
from tests.service.live_server import Server, problem, running

NEXT_KEY = "second-key-" * 4
LENGTH = 18
TEXT: dict[str, Any] = {"model": "small-text", "prompt": "It was ", "seed": 5, "boundaries": True}
STOPS: dict[str, Any] = {**TEXT, "prompt": "a", "stop": ["qx", "e", "Z9"], "presence_penalty": 0.5, "boundaries": False}


@pytest.fixture(scope="module")
def there(bundles: Path) -> Iterator[Server]:
    """Another process, which has a newer key in front, fewer rows, and sends more at once."""
    with running(bundles, state_keys=f"{NEXT_KEY}, {KEY}", rows=2, flush_chars=64) as started:
        yield started


def choice_of(server: Server, **body: Any) -> dict[str, Any]:
    """Return the only choice of a whole completion."""
    response = server.post("/v1/completions", **body)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    found: dict[str, Any] = choice
    return found


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """What two parts of a choice say together."""
    whole = {**second, "text": first["text"] + second["text"]}
    if "z" in first:
        whole["z"] = [before + after for before, after in zip(first["z"], second["z"], strict=True)]
        whole["op"] = [before + after for before, after in zip(first["op"], second["op"], strict=True)]
    return whole


@pytest.mark.parametrize("body", [TEXT, STOPS], ids=["boundaries", "stops"])
def test_a_text_split_anywhere_is_the_text(here: Server, there: Server, body: dict[str, Any]) -> None:
    """Text, boundaries and end of two halves, written by two processes, are those of one call."""
    body = {"temperature": 1.3, **body}
    whole = choice_of(here, **body, max_tokens=LENGTH)
    for position in range(1, LENGTH):
        first = choice_of(here, **body, max_tokens=position, return_state=True)
        if first["finish_reason"] == "stop":
            assert first["text"] == whole["text"]
            break
        rest = {**body, "max_tokens": LENGTH - position}
        del rest["prompt"], rest["seed"]
        second = choice_of(there, **rest, state=first.pop("state"))
        assert joined(first, second) == whole


@pytest.mark.parametrize("body", [TEXT, STOPS], ids=["boundaries", "stops"])
def test_a_stream_cut_anywhere_is_resumed(here: Server, there: Server, body: dict[str, Any]) -> None:
    """A client that was cut off after so many characters asks another process for the rest, and gets just that."""
    body = {**body, "max_tokens": LENGTH}
    whole = choice_of(here, **body)
    for position in range(len(whole["text"]) + 1):
        first = beginning(here, position, body)
        events = there.events("/v1/completions", **body, resume_at=position)
        second: dict[str, Any] = {"text": ""} | {
            name: [[], []] if name == "z" else [""] * 3 for name in first if name != "text"
        }
        for event in events:
            second = joined(second, event["choices"][0])
        assert joined(first, second) == whole
        assert choice_of(there, **body, resume_at=position)["text"] == whole["text"][position:]


def beginning(server: Server, position: int, body: dict[str, Any]) -> dict[str, Any]:
    """Read a stream until so many characters have come and hang up; return those, as if nothing after had arrived."""
    came: dict[str, Any] = {"text": ""}
    if body["boundaries"]:
        came |= {"z": [[], []], "op": [""] * 3}
    with connect_sse(server.client, "POST", "/v1/completions", json={**body, "stream": True}) as source:
        for event in source.iter_sse():
            if len(came["text"]) >= position:
                break
            (choice,) = json.loads(event.data)["choices"]
            came = joined(came, {name: choice[name] for name in came})
    columns = {name: [column[:position] for column in came[name]] for name in came if name != "text"}
    return {"text": came["text"][:position], **columns}


def test_a_state_has_branches(here: Server, there: Server) -> None:
    """Choices of one state differ, each as if asked for alone, and the state costs no step of a prompt again."""
    first = choice_of(here, **TEXT, max_tokens=8, return_state=True)
    body = {**TEXT, "prompt": "", "max_tokens": 10, "state": first["state"]}
    reply = there.post("/v1/completions", **body, n=6, return_state=True).json()
    texts = [choice["text"] for choice in reply["choices"]]
    assert len(set(texts)) > 1
    assert texts[0] == choice_of(here, **body)["text"]
    # Every choice reads the last symbol again and then what it draws, the last one for its boundaries.
    assert reply["usage"]["steps"] == 6 * 11
    assert reply["usage"]["prompt_tokens"] == 0
    # A choice that is gone on with draws as that choice.
    both = there.post("/v1/completions", **{**body, "max_tokens": 15}, n=6).json()["choices"]
    for choice, longer in zip(reply["choices"], both, strict=True):
        rest = choice_of(there, **{**body, "state": choice["state"], "max_tokens": 5})
        assert choice["text"] + rest["text"] == longer["text"]


def test_choices_read_their_prompt_once(here: Server) -> None:
    """However many choices, the prompt's characters are stepped once."""
    body = {**TEXT, "prompt": "a" * 300, "max_tokens": 4, "boundaries": False}
    alone = here.post("/v1/completions", **body).json()
    reply = here.post("/v1/completions", **body, n=8).json()
    assert alone["usage"]["steps"] == 300 + 3
    assert reply["usage"]["steps"] == 300 + 3 + 7 * (1 + 3)
    assert reply["usage"]["prompt_tokens"] == 300
    assert reply["choices"][0]["text"] == alone["choices"][0]["text"]
    assert len({choice["text"] for choice in reply["choices"]}) > 1


def test_a_long_text_costs_its_characters_once(bundles: Path) -> None:
    """As many characters as an operator allows are read, one more is not; what goes on from them reads none again."""
    length = 5000
    text = ("It was a dark and stormy night; " * 1000)[:length]
    body = {"model": "small-text", "max_tokens": 6, "seed": 1}
    with running(bundles, max_prompt_chars=length) as server:
        first = server.complete(**body, prompt=text, n=3, return_state=True)
        assert first["usage"]["prompt_tokens"] == length
        assert first["usage"]["steps"] == length + 5 + 2 * (1 + 5)
        assert sum(counts[0] for counts in first["usage"]["operations"].values()) == first["usage"]["steps"]
        state = first["choices"][0]["state"]
        rest = server.complete(**body, prompt="", state=state, n=16)["usage"]
        assert rest["steps"] == sum(counts[0] for counts in rest["operations"].values()) == 16 * 6
        assert rest["prompt_tokens"] == 0
        refused = server.complete(**body, prompt=text + "a")["error"]
        assert refused["param"] == "prompt"
        assert f"at most {length} characters" in refused["message"]
        assert "in pieces" in refused["message"]
        # Read in pieces, as where less is allowed at a time, it is the same text.
        piece, state = {**body, "echo": True, "max_tokens": 0, "return_state": True}, None
        for start in range(0, length, 2000):
            reply = server.complete(**piece, prompt=text[start : start + 2000], state=state)
            state = reply["choices"][0]["state"]
        assert server.complete(**body, prompt="", state=state)["choices"][0]["text"] == first["choices"][0]["text"]


def test_a_prompt_goes_on_after_a_state(here: Server, there: Server) -> None:
    """A prompt given with a state is read as if it stood behind what was written, and only its own symbols count."""
    body = {**TEXT, "temperature": 0, "max_tokens": 12}
    first = choice_of(here, **body, return_state=True)
    second = there.post("/v1/completions", **{**body, "prompt": " And then "}, state=first["state"]).json()
    expected = choice_of(here, **{**body, "prompt": TEXT["prompt"] + first["text"] + " And then "})
    assert second["choices"][0] == expected
    assert second["usage"]["prompt_tokens"] == 10


def test_a_stream_ends_with_its_state(here: Server, there: Server) -> None:
    """In a stream the token comes with the last event of the choice, and nowhere before."""
    events = here.events("/v1/completions", **TEXT, max_tokens=6, return_state=True)
    assert [("state" in event["choices"][0]) for event in events] == [False] * (len(events) - 1) + [True]
    state = events[-1]["choices"][0]["state"]
    whole = choice_of(here, **TEXT, max_tokens=9)["text"]
    assert choice_of(there, **{**TEXT, "prompt": ""}, max_tokens=3, state=state)["text"] == whole[6:]
    assert "state" not in choice_of(here, **TEXT, max_tokens=6)


def test_each_kind_of_wrong_state_is_a_400_of_its_own(here: Server, there: Server, odd_server: Server) -> None:
    """Nothing sealed elsewhere, changed, or made for something else is gone on with."""
    good = choice_of(here, **TEXT, max_tokens=3, return_state=True)["state"]
    newer = choice_of(there, **TEXT, max_tokens=3, return_state=True)["state"]
    stream = here.post("/v1/streams", completion={**TEXT, "max_tokens": 3}).json()["url"].rpartition("/")[2]
    changed = good[:40] + ("A" if good[40] != "A" else "B") + good[41:]
    wrong = {
        "malformed": "!" * 40,
        "too_large": good * 9,
        "damaged": changed,
        "unknown_key": newer,
        "purpose": stream,
    }
    for why, token in wrong.items():
        response = here.post("/v1/completions", **TEXT, max_tokens=3, state=token)
        assert response.status_code == 400
        error = problem(response)
        assert (error["code"], error["param"]) == (f"invalid_token_{why}", "state")
        assert token not in response.text
    foreign = problem(odd_server.post("/v1/completions", model="deep", prompt="", state=good))
    assert foreign["code"] == "invalid_token_unknown_key"
    assert choice_of(here, **TEXT, max_tokens=3, state=good)["text"]


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"resume_at": 3, "prompt": "a"}, "resume_at"),
        ({"resume_at": 3, "prompt": "a", "seed": 1, "n": 2}, "resume_at"),
        ({"resume_at": -1, "prompt": "a", "seed": 1}, "resume_at"),
        ({"resume_at": 10_000_001, "prompt": "a", "seed": 1}, "resume_at"),
        ({"return_state": 1, "prompt": "a"}, "return_state"),
        ({"state": 1, "prompt": "a"}, "state"),
        ({}, "prompt"),
    ],
)
def test_wishes_that_cannot_be_are_named(here: Server, wish: dict[str, Any], param: str) -> None:
    """A cut stream is taken up with its seed, one choice at a time; and what is no state is none."""
    response = here.post("/v1/completions", model="small-text", **wish)
    assert response.status_code == 400
    assert problem(response)["param"] == param
    last = here.complete(prompt="a", seed=1, max_tokens=2, resume_at=10_000_000)
    assert last["choices"][0]["text"] == ""


def read(server: Server, url: str, last: str | None = None, most: int = 10**6) -> list[tuple[str, str]]:
    """Read a stream as a browser does, as (id, data) of each event, and hang up after so many."""
    headers = {"last-event-id": last} if last is not None else {}
    events = []
    with connect_sse(server.client, "GET", url, headers=headers) as source:
        for event in source.iter_sse():
            events.append((event.id, event.data))
            if len(events) >= most:
                break
    return events


def texts_of(events: list[tuple[str, str]]) -> str:
    """The text that events tell."""
    return "".join(json.loads(data)["choices"][0]["text"] for _, data in events if data != "[DONE]")


def test_a_browser_resumes_by_itself(here: Server, there: Server) -> None:
    """Cut after any event, a browser comes back with its id, to any replica, and misses and repeats nothing."""
    made = here.post("/v1/streams", completion={**TEXT, "max_tokens": LENGTH})
    assert made.status_code == 200
    url, whole = made.json()["url"], choice_of(here, **TEXT, max_tokens=LENGTH)["text"]
    assert made.json()["seed"] == TEXT["seed"]
    complete = read(here, url)
    assert texts_of(complete) == whole
    for position in count(1):
        begun = read(here, url, most=position)
        if begun[-1][0] == "end":
            break
        assert begun[-1][0] == str(len(texts_of(begun)))
        assert texts_of(begun) + texts_of(read(there, url, last=begun[-1][0])) == whole
    done = there.client.get(url, headers={"last-event-id": "end"})
    assert (done.status_code, done.content) == (204, b"")


def test_a_browser_is_told_when_to_come_back(here: Server) -> None:
    """The first event says how soon to reconnect; it and all others end as events do."""
    url = here.post("/v1/streams", completion={**TEXT, "max_tokens": 3}).json()["url"]
    body = here.client.get(url)
    assert body.headers["content-type"].startswith("text/event-stream")
    assert re.match(r"retry: 1000\nid: (\d+|end)\ndata: \{", body.text)
    assert body.text.count("retry:") == 1
    assert body.text.endswith("\n\ndata: [DONE]\n\n")


def test_a_seed_is_settled_when_the_stream_is_made(here: Server) -> None:
    """Without a seed one is made up once, so that every reading of the stream is the same."""
    made = here.post("/v1/streams", completion={"model": "small-text", "prompt": "x", "max_tokens": 30}).json()
    again = choice_of(here, model="small-text", prompt="x", max_tokens=30, seed=made["seed"])["text"]
    assert texts_of(read(here, made["url"])) == texts_of(read(here, made["url"])) == again


def test_streams_that_cannot_be_are_refused(here: Server) -> None:
    """When it is made, a clear 400; a URL that is not of a stream is a 404 that says why; and never an event."""
    for wish, param in (
        ({"prompt": "a", "n": 2}, "completion"),
        ({"prompt": "".join(map(chr, range(0x4E00, 0x4E00 + 8000)))}, "completion"),
        ({"prompt": "a", "max_tokens": 10**6}, "max_tokens"),
        ({"prompt": "a", "temperature": 9}, "completion"),
    ):
        response = here.post("/v1/streams", completion={"model": "small-text", **wish})
        assert response.status_code == 400, response.text
        assert problem(response)["param"] == param
    assert here.post("/v1/streams", completion={"model": "none", "prompt": ""}).status_code == 404
    state = choice_of(here, **TEXT, max_tokens=3, return_state=True)["state"]
    assert code(here.client.get("/v1/streams/nothing"), 404) == "invalid_token_malformed"
    assert code(here.client.get(f"/v1/streams/{state[:4000]}"), 404) == "invalid_token_purpose"
    url = here.post("/v1/streams", completion=TEXT).json()["url"]
    assert code(here.client.get(url[:-1] + ("A" if url[-1] != "A" else "E")), 404).startswith("invalid_token_")
    for odd in ("x", "-1", "1.5", "9" * 9, "End", ""):
        response = here.client.get(url, headers={"last-event-id": odd})
        assert (response.status_code, problem(response)["param"]) == (400, "last-event-id")
    assert problem(here.client.get(url, params={"resume_at": "x"}))["param"] == "resume_at"
    assert problem(here.client.get("/v1/streams/" + "A" * 6000))["param"] == "token"


def test_a_stream_is_as_long_as_a_url_may_be(here: Server) -> None:
    """The longest request that is made into a URL has one that every proxy takes; one character more is refused."""
    letters = "".join(map(chr, range(0x4E00, 0x4E00 + 8000)))  # no two alike: they cannot be packed

    def made(length: int) -> httpx.Response:
        return here.post("/v1/streams", completion={"model": "small-text", "prompt": letters[:length], "seed": 1})

    fits, fails = 1, len(letters)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if made(middle).status_code == 200 else (fits, middle)
    url = made(fits).json()["url"]
    assert 5800 < len(url) < 6000
    assert here.client.get(url).status_code == 200
    assert "too long for a URL" in problem(made(fails))["message"]


def code(response: httpx.Response, status: int = 400) -> str:
    """Code of an error."""
    assert response.status_code == status
    return str(problem(response)["code"])


def test_without_keys_tokens_are_good_for_one_process(server: Server, here: Server) -> None:
    """A server that was given no keys says so once, and goes on from its own states only."""
    for one, times in ((server, 1), (here, 0)):
        assert sum(entry["event"].startswith("no state keys") for entry in one.log) == times
    own = choice_of(server, **TEXT, max_tokens=3, return_state=True)["state"]
    assert choice_of(server, **TEXT, max_tokens=3, state=own)["text"]
    assert code(here.post("/v1/completions", **TEXT, max_tokens=3, state=own)) == "invalid_token_unknown_key"
