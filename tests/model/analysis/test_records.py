"""Run records and the page made of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.analysis.records import FORMAT, read_records, write_record
from model.analysis.results_page import results_page

ROOT = Path(__file__).parents[3]


def record(name: str, kind: str, test: dict[str, Any]) -> dict[str, Any]:
    """A record as `make_record` writes it."""
    return {
        "format": FORMAT,
        "name": name,
        "command": "python -m model train tiny",
        "note": "Stopped once.",
        "commit": "abc",
        "data": {"name": "a corpus", "sha256": "0" * 64, "split": "90/5/5", "protocol": None},
        "model": {
            "kind": kind,
            "cell": "hmlstm",
            "layer_norm": True,
            "hidden": [32, 16, 8],
            "output": 10,
            "vocabulary": 50,
        },
        "train": {},
        "parameters": 1_230_000,
        "seed": 1,
        "hardware": "cpu",
        "minutes": 12.3,
        "updates": 1000,
        "steps": 10,
        "passes": 0.5,
        "curve": [],
        "test": {"z_rates": [0.5, 0.0], "active_rates": [0.5, 0.0]} | test,
    }


def test_page_of_results_is_made_of_its_records() -> None:
    """docs/results.md is, to the byte, what the records in docs/runs give."""
    records = read_records(ROOT / "docs" / "runs")
    assert records
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == results_page(records)


def test_page_shows_figures_with_their_constants() -> None:
    """A text row shows bits per character, an ink row all three units and the constant between them."""
    ink = {
        "nats_per_line": 1012.34,
        "nats_per_step": 1.5637,
        "nats_per_step_raw_units": -5.8,
        "lines": 582,
        "steps": 376_000,
        "log_scale": 7.361,
        "z_rates": [0.3, 0.05],
        "cell_work_share": 0.4321,
    }
    page = results_page([record("a", "text", {"bpc": 1.6789}), record("b", "ink", ink)])
    for shown in (
        "1.679",
        "1012.3",
        "1.5637",
        "-5.8000",
        "7.3610",
        "0.300, 0.050",
        "43.2 %",
        "1.23 M",
        "32 x 16 x 8",
        "Stopped once.",
    ):
        assert shown in page


def test_page_says_once_what_rows_of_ink_have_in_common() -> None:
    """Rows measured on the same lines are named behind their constants; one of other lines has its own."""
    ink = {"nats_per_line": 1.0, "nats_per_step": 1.0, "nats_per_step_raw_units": 1.0, "steps": 7, "log_scale": 7.36}
    page = results_page([record(name, "ink", ink | {"lines": lines}) for name, lines in (("a", 5), ("b", 6), ("c", 5))])
    said = [line.split(": ")[-1] for line in page.splitlines() if "ln(sx sy)" in line]
    assert said == ["a, c.", "b."]


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ({"cell": "lstm", "layer_norm": True}, "| 32 x 16 x 8 LN-LSTM |"),
        ({"cell": "lstm", "layer_norm": False}, "| 32 x 16 x 8 LSTM |"),
        ({"cell": "bn-lstm", "layer_norm": False}, "| 32 x 16 x 8 BN-LSTM |"),
        ({"cell": "hmlstm", "layer_norm": True}, "| 32 x 16 x 8 |"),
        ({"cell": "hmlstm", "layer_norm": False}, "| 32 x 16 x 8 without LN |"),
    ],
)
def test_page_tells_rivals_apart(model: dict[str, Any], shown: str) -> None:
    """What normalises an LSTM stands beside its layers; an HM-LSTM with LN needs no name."""
    found = record("a", "text", {"bpc": 1.7})
    found["model"] |= model
    assert shown in results_page([found])


@pytest.mark.parametrize(
    ("cell", "products"),
    [
        # Layer 1: 129 columns, 32 own rows and half of 16 above. Layer 2: 65 columns, half of 16 + 32. Layer 3 rests.
        ("hmlstm", 129 * (32 + 8) + 65 * (8 + 16)),
        ("lstm", 128 * 32 + 64 * (16 + 32) + 32 * (8 + 16)),
    ],
)
def test_page_counts_the_products_of_a_step(cell: str, products: int) -> None:
    """Those of the cells that are needed, and all of the output module: gates, embedding and head."""
    found = record("a", "text", {"bpc": 1.7})
    found["model"]["cell"] = cell
    products += 56 * 3 + 56 * 10 + 10 * 50
    assert f"| 1.700 | 64 | {products / 1000:.0f} |" in results_page([found])


def test_page_tells_splits_apart() -> None:
    """A figure on lines of writers that training never saw is another one."""
    found = record("a", "text", {"bpc": 1.7})
    found["data"]["protocol"] = "official"
    assert "| a corpus, by writer |" in results_page([found])
    found["data"]["protocol"] = "paper"
    assert "| a corpus |" in results_page([found])


def test_page_tells_of_what_a_training_started_from() -> None:
    """Minutes of each part in turn, and how far the first one had come."""
    first = {"minutes": 89.0, "steps": 23_724_800}
    page = results_page([record("a", "text", {"bpc": 1.7}) | {"minutes": 75.2, "started_from": first}])
    assert "| 89 + 75 |" in page
    assert "begun with the weights of an earlier training (23,724,800 steps), seed" in page


@pytest.mark.parametrize(("kind", "unit"), [("text", "bpc"), ("ink", "nats_per_line")])
def test_page_takes_seeds_together(kind: str, unit: str) -> None:
    """Runs that differ by nothing but their seed have a row with their mean and range; all others have none."""
    constants = {"nats_per_step": 1.0, "nats_per_step_raw_units": 1.0, "lines": 1, "steps": 1, "log_scale": 1.0}
    runs = [record(f"a-{seed}", kind, constants | {unit: 1.5 + 0.25 * seed}) for seed in (1, 2, 3)]
    for run, seed in zip(runs, (1, 2, 3), strict=True):
        run["seed"], run["train"] = seed, {"seed": seed, "batch": 4}
        run["budget"], run["updates"] = {"minutes": None, "updates": 1000}, 1000 - seed  # the best came before the end
    other = record("b", kind, constants | {unit: 9.0}) | {"train": {"seed": 4, "batch": 8}}
    later = record("c", kind, constants | {unit: 9.0}) | {
        "train": {"seed": 5, "batch": 4},
        "budget": {"minutes": None, "updates": 2000},
    }
    rows = [line for line in results_page([*runs, other, later]).splitlines() if line.startswith("| a-1, a-2, a-3 |")]
    digits = {"text": "| 2.000 | 1.750 | 2.250 |", "ink": "| 2.0 | 1.8 | 2.2 |"}[kind]
    assert rows == [f"| a-1, a-2, a-3 {digits}"]
    assert "differ by their seed" not in results_page([runs[0], other, later])


def test_page_sets_boundaries_beside_their_rivals() -> None:
    """Boundaries of ink stand beside chance, rules that need no network, and words told apart by hand."""
    score = {"layer": 2, "event": "pen-up", "tolerance": 5, "event_rate": 0.038, "boundary_rate": 0.077}
    score |= {"precision": 0.4351, "recall": 0.8762, "f1": 0.5813, "random_f1": 0.3784}
    rule = {"rule": "slow point", "event": "pen-up", "tolerance": 5, "precision": 0.18, "recall": 0.41, "f1": 0.2501}
    words = {"lines": 943, "steps": 743284, "events": {"word": "by hand"}}
    words |= {"scores": [score | {"event": "word", "f1": 0.1631}], "rules": [rule | {"event": "word", "f1": 0.8442}]}
    found = {"split": "test", "steps": 374003, "events": {"pen-up": "the pen is lifted"}, "scores": [score]}
    free = record("free", "text", {"bpc": 1.0}) | {"boundaries": found}
    free["model"]["detector_prior"] = "none"
    page = results_page([free])
    assert "0.581" in page
    assert "slow point" not in page
    letters = {"lines": 582, "events": {"letter end": "told"}, "delays": {"letter": 9, "blank": 2}}
    letters |= {"word_ends_at_lifts": 0.8997, "rules": [rule | {"event": "letter end", "f1": 0.3217}]}
    letters["scores"] = [score | {"event": "letter end", "f1": 0.4123}]
    found |= {"rules": [rule], "letters": letters, "words": words}
    page = results_page([free])
    for shown in ("0.378", "the pen is lifted", "slow point", "0.250", "943 lines", "by hand", "0.163", "0.844"):
        assert shown in page
    for shown in ("582 lines", "9 points after", "90 % within two points", "told", "0.412", "0.322"):
        assert shown in page


def test_records_survive_the_disk_and_foreign_files_are_refused(tmp_path: Path) -> None:
    """What is written is read back; a file of another format is named."""
    write_record(tmp_path / "one.json", record("one", "text", {"bpc": 1.0}))
    assert read_records(tmp_path) == [record("one", "text", {"bpc": 1.0})]
    (tmp_path / "two.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(ValueError, match=r"two\.json"):
        read_records(tmp_path)
