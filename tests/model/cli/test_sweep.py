"""`python -m model sweep`: real trainings at several rates, a picture, and a second call that trains nothing anew."""

import json
from pathlib import Path

import pytest

import model.training.loop
from model.training.sweep import SWEEP, read_sweep
from tests.model.cli.test_main import command, refusal
from tests.model.corpora import write

SMALL = ["--set", "model.hidden=8,7,6", "--set", "train.batch=4", "--set", "train.window=8", "--no-compile"]


def test_it_trains_at_every_rate_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rate and seed has a finished training; the file, the picture and the last line agree on the best."""
    monkeypatch.setattr(model.training.loop, "EVALUATIONS", 2)
    data, out = write("text", tmp_path), tmp_path / "sweep"
    call = ["sweep", "tiny", "--data", str(data), "--out", str(out), "--updates", "6", "--seeds", "1,2", *SMALL]
    first = command(*call, "--rates", "1e-3,1e-2")
    assert first.exit_code == 0, first.output
    printed = first.output
    found = read_sweep(out)
    assert {point.seed for point in found.points} == {1, 2}
    assert len(found.rates) > 2  # six updates want a rate beyond the edge
    for point in found.points:
        log = (out / f"rate-{point.rate:g}-seed-{point.seed}" / "log.jsonl").read_text(encoding="utf-8")
        last = json.loads(log.splitlines()[-1])
        assert (last["update"], last["valid"]) == (6, point.valid)
    assert f"best learning rate {found.best:g}" in printed
    assert (out / "sweep.png").stat().st_size > 5000
    before = (out / SWEEP).read_bytes()
    again = command(*call, "--rates", "1e-3,1e-2")
    assert again.output.splitlines()[-1] == printed.splitlines()[-1]
    assert (out / SWEEP).read_bytes() == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--rates", "fast"], "--rates 'fast'"),
        (["--rates", "1e-3,1e-3"], "different positive learning rates"),
        (["--seeds", "1,1"], "--seeds '1,1'"),
        (["--set", "model.depth=3"], "model.depth"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: list[str], named: str) -> None:
    """One sentence says which option is wrong, and nothing is written."""
    data, out = write("text", tmp_path), tmp_path / "sweep"
    message = refusal("sweep", "tiny", "--data", str(data), "--out", str(out), "--updates", "2", *options)
    assert named in message
    assert not out.exists()
