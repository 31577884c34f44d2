"""The load client counts what a server sent, and raises an error if that was not a stream."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.engine import networks
from bench.http.load import LoadError, Plan, run
from bench.http.server import Served, ServerError, serving

BODY = {"model": "counted", "prompt": "It ", "stream": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of one small network."""
    folder = tmp_path_factory.mktemp("bundles")
    networks.export(networks.forced_network("text", 8, [0.3, 0.1]), folder, "counted", [0.3, 0.1])
    with serving(folder, [], rows=16) as started:
        yield started


@pytest.mark.parametrize("boundaries", [True, False])
def test_every_character_is_counted_once(server: Served, boundaries: bool) -> None:
    """Streams that end by themselves have exactly as many characters as were asked for."""
    streams, length = 5, 90
    plan = Plan(server.url, "/v1/completions", BODY | {"max_tokens": length, "boundaries": boundaries}, streams)
    found = run(plan)
    assert found.num_items == streams * length
    assert found.num_first == streams
    assert found.first_p50 is not None
    assert 0 < found.first_p50 <= (found.first_p99 or 0)


def test_probes_are_timed_one_after_the_other(server: Served) -> None:
    """On an idle server and beside streams that have no end."""
    probe = BODY | {"max_tokens": 1}
    idle = run(Plan(server.url, "/v1/completions", {}, 0, probe=probe, probes=3))
    assert idle.num_first == 3
    beside = run(Plan(server.url, "/v1/completions", BODY | {"max_tokens": 4000}, 2, seconds=30, probe=probe, probes=3))
    assert beside.num_first == 3


@pytest.mark.parametrize("body", [{"model": "nobody", "prompt": "", "stream": True}, BODY | {"max_tokens": -1}])
def test_a_refusal_is_no_result(server: Served, body: dict[str, object]) -> None:
    """What the server said is in the message."""
    with pytest.raises(LoadError, match=r"HTTP/1.1 4\d\d"):
        run(Plan(server.url, "/v1/completions", body, 1))


def test_a_server_that_does_not_start_is_an_error_with_its_words(tmp_path: Path) -> None:
    """Nobody waits for it."""
    with pytest.raises(ServerError, match="no bundles"), serving(tmp_path, []):
        pass
