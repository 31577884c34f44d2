"""copyist bench: it counts what it says it counts; how quick a machine is, is no test."""

import json

from tests.service.cli.conftest import Run
from tests.service.live_server import Server


def test_it_asks_for_what_it_reports(run: Run, at: tuple[str, str], server: Server) -> None:
    """The server has answered the rounds and one request before them, and every character is accounted for."""
    before = server.gauges()["finished"]
    code, out, err = run("bench", "--requests", 2, "--streams", 3, "-n", 40, "--json", *at)
    assert (code, err) == (0, "")
    assert server.gauges()["finished"] - before == 1 + 2 + 6
    report = json.loads(out)
    assert report["model"] == "small-text"
    assert report["prompt_characters"] == 100
    assert (report["alone"]["requests"], report["alone"]["characters"]) == (2, 80)
    assert (report["together"]["requests"], report["together"]["characters"]) == (6, 240)
    assert report["together"]["streams"] == 3
    for round_ in (report["alone"], report["together"]):
        assert 0 < round_["first_character_ms_median"] <= round_["first_character_ms_max"]
        assert round_["characters_per_s"] > 0


def test_it_reads_well_too(run: Run, at: tuple[str, str]) -> None:
    """A line on what was asked, and one for each round."""
    code, out, _ = run("bench", "--requests", 1, "--streams", 1, "-n", 5, *at)
    assert code == 0
    assert len(out.decode().splitlines()) == 3
