"""Boundaries against events: events mean what they say, and a score can be good, bad and no better than chance."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from model.analysis.boundaries import (
    compare,
    compare_rules,
    find,
    ink_events,
    probe,
    read_boundaries,
    score,
    score_words,
    text_events,
    word_gap_of,
)
from model.checkpoints import checkpoint as checkpoints
from model.checkpoints.checkpoint import Checkpoint
from model.cli.main import app
from model.codec import InkCodec, TextCodec
from model.config import Cell, Kind, ModelConfig, TrainConfig
from model.data.corpus import Corpus
from model.data.errors import DataError
from model.data.words import read_words
from model.network.stack import Network
from tests.model.corpora import PATHS, fixture

TEXT = "Oh no. He 2d\nus?"
CODEC = TextCodec(tuple(sorted(set(TEXT))), unknown="error")


def size(corpus: Corpus) -> int:
    """V, or 0 for ink."""
    return corpus.codec.size if isinstance(corpus.codec, TextCodec) else 0


def marked(flags: NDArray[np.bool_]) -> str:
    """Flags as a line under the text."""
    return "".join("^" if flag else " " for flag in flags)


@pytest.mark.parametrize(
    "event, under",
    [
        # 0123456789012345
        # Oh no. He 2d\nus?
        ("blank", "  ^   ^  ^  ^   "),
        ("word end", " ^  ^   ^  ^  ^ "),
        ("word start", "^  ^   ^  ^  ^  "),
        ("sentence end", "     ^         ^"),
        ("line end", "            ^   "),
    ],
)
def test_events_of_a_text_stand_where_they_are_read(event: str, under: str) -> None:
    """Each event is a flag at the symbol that its definition names."""
    assert marked(text_events(CODEC.encode(TEXT), CODEC)[event]) == under


def test_events_of_ink_are_lifts_gaps_and_slow_points() -> None:
    """A lift is the point it follows; a gap is a lift with a wide jump; the slowest of five points is a slow point."""
    dx = [0, 5, 4, 1, 4, 5, 6, 30, 5, 5, 4, 5, 5, 2]
    up = [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]
    line = np.stack([dx, np.zeros(14), up], 1)
    events = ink_events(line, word_gap=10.0)
    assert np.flatnonzero(events["pen-up"]).tolist() == [6, 12]
    assert np.flatnonzero(events["word gap"]).tolist() == [6]
    # Point 10 is slow too; points beside a jump or an end have no two neighbours on either side.
    assert np.flatnonzero(events["slow point"]).tolist() == [3, 10]
    assert 2 < word_gap_of([line]) < 30


@given(st.lists(st.booleans(), max_size=9), st.lists(st.booleans(), max_size=9), st.integers(0, 3))
def test_the_match_is_the_largest_there_is(found: list[bool], truth: list[bool], tolerance: int) -> None:
    """No other way to pair boundaries with events, one to one and near enough, finds more."""
    size = max(len(found), len(truth))
    flags = [np.array(each + [False] * (size - len(each)), np.bool_) for each in (found, truth)]
    places, targets = (np.flatnonzero(each).tolist() for each in flags)
    few, many = sorted((places, targets), key=len)
    best = max(
        sum(abs(a - b) <= tolerance for a, b in zip(few, chosen, strict=True))
        for chosen in itertools.permutations(many, len(few))
    )
    got = score([flags[0]], [flags[1]], tolerance)
    assert got.precision == pytest.approx(best / max(len(places), 1))
    assert got.recall == pytest.approx(best / max(len(targets), 1))


def test_sequences_are_matched_each_on_its_own() -> None:
    """A boundary at the end of one stream does not find an event at the start of the next."""
    end, start = np.array([False, False, True]), np.array([True, False, False])
    nothing = np.zeros(3, np.bool_)
    assert score([end, nothing], [nothing, start], tolerance=5).f1 == 0


def test_random_boundaries_score_what_chance_gives() -> None:
    """The baseline is as dense as the boundaries, and its F1 is that of two independent sets."""
    draw = np.random.default_rng(3)
    z = [draw.random((20_000, 1)) < 0.3]
    truth = {"blank": [z[0][:, 0].copy()]}
    (row,) = compare(z, truth, (0,))
    assert row["f1"] == 1
    assert row["random_f1"] == pytest.approx(0.3, abs=0.02)


def test_reading_gives_every_step_once_in_order() -> None:
    """The streams that are read back are the split, and z is that of stepping through them."""
    corpus = fixture("text")
    torch.manual_seed(0)
    network = Network(ModelConfig(vocabulary=size(corpus), embedding=8, hidden=(12, 12, 12), output=8))
    inputs, z = read_boundaries(network, corpus.evaluation("valid", 37))
    assert np.concatenate(inputs).tolist() == np.asarray(corpus.data.valid[:-1]).tolist()
    state = network.zeros(1)
    for symbol, fired in zip(inputs[0][:60], z[0], strict=False):
        _, state = network.step(torch.tensor([int(symbol)]), state)
        assert [bool(layer.z) for layer in state.layers[:-1]] == fired.tolist()


def test_a_probe_reads_what_the_states_hold_and_nothing_else() -> None:
    """A linear trace of the event is found in unseen states; in noise there is nothing to find."""
    draw = np.random.default_rng(1)
    states = draw.normal(size=(4, 2000, 6)).astype(np.float32)
    truth = states @ np.array([1.0, -2, 0, 0, 0.5, 0], np.float32) > 2.5
    known, unknown = slice(0, 2), slice(2, 4)
    good = probe(states[known], list(truth[known]), states[unknown], list(truth[unknown]))
    noise = draw.normal(size=states.shape).astype(np.float32)
    bad = probe(noise[known], list(truth[known]), noise[unknown], list(truth[unknown]))
    assert good.f1 > 0.8
    assert bad.f1 < 0.25


@pytest.mark.parametrize("kind", ["text", "ink"])
def test_the_command_scores_a_checkpoint_and_fills_a_record(kind: Kind, tmp_path: Path) -> None:
    """`python -m model boundaries` prints scores for each layer, event and tolerance, and keeps them in the record."""
    corpus = fixture(kind)
    vocabulary = size(corpus)
    for cell in ("hmlstm", "lstm"):
        config = ModelConfig(kind, cell, vocabulary, embedding=8, hidden=(12, 12, 12), output=8, mixtures=2)
        torch.manual_seed(1)
        weights = {name: value.detach() for name, value in Network(config).state_dict().items()}
        facts = {"data": corpus.facts}
        checkpoint = Checkpoint(config, TrainConfig(), corpus.codec, facts, weights)
        checkpoints.save(tmp_path / f"{cell}.safetensors", checkpoint)
    record = tmp_path / "run.json"
    record.write_text('{"format": "copyist-run/1", "name": "mine"}')
    control = ["--control", str(tmp_path / "lstm.safetensors")] if kind == "text" else []
    arguments = ["boundaries", str(tmp_path / "hmlstm.safetensors"), "--data", str(PATHS[kind]), "--run", str(record)]
    done = CliRunner().invoke(app, [*arguments, *control])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert json.loads(record.read_text()) == {"format": "copyist-run/1", "name": "mine", "boundaries": report}
    assert {row["layer"] for row in report["scores"]} == {1, 2}
    assert ("probes" in report) == (kind == "text")


def test_a_rule_finds_what_it_is_made_of() -> None:
    """A detector that fires two points after each lift is taken for that, and the rule of slow points finds itself."""
    draw = np.random.default_rng(5)
    lifts, slow, gaps = (draw.random(3000) < rate for rate in (0.05, 0.2, 0.01))
    late = np.append([False, False], lifts[:-2])
    rows = compare_rules([late[:, None]], {"pen-up": [lifts], "slow point": [slow], "word gap": [gaps]}, (0, 2))
    by = {(row["rule"], row["event"], row["tolerance"]): row for row in rows}
    assert {rule for rule, _, _ in by} == {"slow point", "pen-up 2 points ago"}
    assert by["pen-up 2 points ago", "pen-up", 2]["f1"] > 0.99
    assert by["pen-up 2 points ago", "pen-up", 0]["f1"] < 0.2
    assert by["pen-up 2 points ago", "word gap", 0]["resemblance"] == 1
    assert by["slow point", "slow point", 0]["f1"] == 1


class TestWords:
    """Sentences with words: cut into lines, thinned, scaled; scored like any other event."""

    @staticmethod
    def write(path: Path) -> None:
        """Two sentences of two words and a return each, 12 points a word; only the second one is held out."""
        dx = np.tile([0, *[30] * 11, 90, *[30] * 11, -2000, *[30] * 11], 2)
        dy = np.tile([0, *[9, -9] * 5, 9, 0, *[9, -9] * 5, 9, 300, *[9, -9] * 5, 9], 2)
        word = np.tile(np.repeat([0, 1, 2], 12), 2)
        eos = np.tile(([0] * 11 + [1]) * 3, 2)
        np.savez(path, dx=dx, dy=dy, eos=eos, word=word, offsets=[0, 36, 72], split=[0, 3])

    def test_lines_words_and_scale(self, tmp_path: Path) -> None:
        """The flight back begins a line, half the points stay, words keep their ends, dy spreads as the codec says."""
        self.write(tmp_path / "w.npz")
        codec = InkCodec((0.0, 0.0), (40.0, 20.0))
        lines = read_words(tmp_path / "w.npz", codec)
        assert [int(each.word_end.sum()) for each in lines] == [2, 1]
        assert [len(each.line) for each in lines] == [14, 7]
        assert all((each.word_end == (each.line[:, 2] > 0)).all() for each in lines)
        moves = np.concatenate([each.line[1:, 1] for each in lines])
        assert np.std(moves) == pytest.approx(1, rel=1e-5)
        report = score_words(Network(ModelConfig("ink", embedding=8, hidden=(8, 8, 8), output=8, mixtures=2)), lines)
        assert report["steps"] == 19
        assert {row["event"] for row in report["scores"]} == {"word"}
        # Every lift but a sentence's last ends a word here, and a detector that remembers lifts has that much to beat.
        assert {row["rule"] for row in report["rules"]} >= {"slow point", "word gap"}

    def test_what_has_no_words_is_refused(self, tmp_path: Path) -> None:
        """An .npz without words, a file of another kind and a missing one are named."""
        np.savez(tmp_path / "w.npz", dx=[1, 2])
        (tmp_path / "text.npz").write_text("no")
        for name in ("w.npz", "text.npz", "none.npz"):
            with pytest.raises(DataError, match=name):
                read_words(tmp_path / name, InkCodec((0.0, 0.0), (1.0, 1.0)))


@pytest.mark.parametrize("cell", ["lstm", "bn-lstm"])
def test_an_lstm_has_no_boundaries(cell: Cell, tmp_path: Path) -> None:
    """Asked for the boundaries of an LSTM, the command says that there are none."""
    corpus = fixture("text")
    config = ModelConfig(
        cell=cell, vocabulary=size(corpus), embedding=4, hidden=(4,), output=4, layer_norm=cell == "lstm"
    )
    weights = {name: value.detach() for name, value in Network(config).state_dict().items()}
    checkpoints.save(tmp_path / "lstm.safetensors", Checkpoint(config, TrainConfig(), corpus.codec, {}, weights))
    done = CliRunner().invoke(app, ["boundaries", str(tmp_path / "lstm.safetensors"), "--data", str(PATHS["text"])])
    assert done.exit_code != 0
    assert "no boundaries" in done.output


def test_layers_nest_in_what_is_found() -> None:
    """Every boundary of layer 2 is one of layer 1: its precision for z1's own places is 1."""
    corpus = fixture("text")
    torch.manual_seed(2)
    network = Network(ModelConfig(vocabulary=size(corpus), embedding=8, hidden=(12, 12, 12), output=8))
    report = find(network, corpus, "valid", 500)
    first, second = ([row["boundary_rate"] for row in report["scores"] if row["layer"] == n] for n in (1, 2))
    assert max(second) <= max(first)
