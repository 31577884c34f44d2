"""A text that is cut on its way arrives whole all the same."""

import pytest

from service.cli.client import connect
from service.cli.problems import UnreachableError
from service.cli.stream import pieces
from tests.service.cli.conftest import Run
from tests.service.cli.relay import breaking
from tests.service.live_server import Server

WISH = {"model": "small-text", "prompt": "It ", "max_tokens": 400}


@pytest.mark.parametrize("max_bytes", [1500, 3000])
def test_what_is_cut_is_taken_up_again(run: Run, server: Server, max_bytes: int) -> None:
    """However often the connection breaks, every character comes once, and in its order."""
    expected = server.complete(**WISH, seed=7, temperature=0.7)["choices"][0]["text"]
    with breaking(server.url, max_bytes) as relay:
        code, out, err = run("generate", "It ", "-n", 400, "--seed", 7, "--model", "small-text", "--url", relay.url)
    assert (code, err) == (0, "")
    assert out.decode() == expected
    assert relay.cuts


def test_boundaries_are_whole_too(server: Server) -> None:
    """Without a seed of the user's one is made up, so that what follows a cut still belongs to what came before it."""
    with breaking(server.url, 3000) as relay, connect(relay.url) as client:
        told = [(choice, event) for choice, event in pieces(client, {**WISH, "boundaries": True})]
    seed = next(event["seed"] for _, event in reversed(told) if event.get("seed") is not None)
    (whole,) = server.complete(**WISH, boundaries=True, seed=seed)["choices"]
    assert "".join(choice["text"] for choice, _ in told) == whole["text"]
    for layer, row in enumerate(whole["z"]):
        assert [bit for choice, _ in told for bit in choice["z"][layer]] == row
    assert relay.cuts


def test_a_server_that_never_gets_to_the_point_is_given_up(server: Server) -> None:
    """Where nothing comes before the cut, nothing is repeated."""
    with (
        breaking(server.url, 100) as relay,
        connect(relay.url) as client,
        pytest.raises(UnreachableError, match="was lost"),
    ):
        list(pieces(client, WISH))
    assert len(relay.cuts) == 1
