"""copyist bundles: a table for people, columns for programs, everything as JSON."""

import json

from tests.service.cli.command import on_a_terminal
from tests.service.cli.conftest import Run
from tests.service.live_server import Server


def test_in_a_pipe_there_is_a_line_for_each(run: Run, at: tuple[str, str]) -> None:
    """Name, kind, network, figures and terms, separated by tabs."""
    code, out, err = run("bundles", *at)
    rows = [line.split("\t") for line in out.decode().splitlines()]
    assert (code, err) == (0, "")
    assert [row[:2] for row in rows] == [["small-ink", "ink"], ["small-text", "text"], ["copybook", "ink"]]
    assert all(len(row) == 7 for row in rows)
    assert all(row[2].startswith("32-24-40, ") and row[6] == "any" for row in rows[:2])
    assert rows[2][2] == "none"


def test_json_is_the_reply_of_the_api(run: Run, at: tuple[str, str], server: Server) -> None:
    """Every fact is there."""
    assert json.loads(run("bundles", "--json", *at)[1]) == server.client.get("/v1/models").json()


def test_on_a_terminal_there_is_a_table(server: Server) -> None:
    """With a head that names the columns."""
    code, written = on_a_terminal("bundles", url=server.url)
    assert code == 0
    assert all(word in written for word in ("name", "licence", "small-ink", "small-text"))
    assert "\t" not in written
