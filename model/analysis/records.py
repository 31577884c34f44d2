"""Run records: one JSON file for each training whose figures the documentation quotes, sorted into folders by corpus.

A record says what was run, on which data, for how long, and with what result: enough to repeat the run. The pages
docs/results.md and docs/boundaries.md are generated from the records alone (results_page.py).
"""

import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from model.checkpoints.checkpoint import Checkpoint

FORMAT = "copyist-run/1"
CURVE_POINTS = 12  # of the validation curve that a record keeps


def make_record(
    name: str, command: str, note: str, checkpoint: Checkpoint, log: list[dict[str, Any]], test: dict[str, Any]
) -> dict[str, Any]:
    """Return the record of a run as JSON values.

    Args:
        name: of the row in the tables.
        command: the command that trained the network.
        note: what a reader must know besides the command, in a sentence or two; may be empty.
        checkpoint: the checkpoint that was measured.
        log: the lines of the training's log.jsonl, one per evaluation.
        test: the result of `model.training.evaluate.summarise` on the test split.
    """
    facts = checkpoint.facts
    weights = sum(parameter.numel() for parameter in checkpoint.network().parameters())
    return {
        "format": FORMAT,
        "name": name,
        "command": command,
        "note": note,
        "commit": _commit(),
        "data": {key: facts["data"].get(key) for key in ("name", "sha256", "split", "protocol")},
        "model": checkpoint.model.to_json(),
        "train": checkpoint.train.to_json(),
        "parameters": weights,
        "seed": checkpoint.train.seed,
        "hardware": f"{facts['device']} ({platform.machine()}), {facts['threads']} thread(s)",
        "minutes": round(facts["minutes"], 1),
        "updates": facts["updates"],
        "budget": facts["budget"],
        "steps": facts["steps"],
        "passes": round(facts["passes"], 3),
        **({"started_from": facts["started_from"]} if "started_from" in facts else {}),
        "curve": thinned(
            [
                {
                    "minutes": round(point["elapsed_s"] / 60, 1),
                    "update": point["update"],
                    "valid": round(point["valid"], 4),
                }
                for point in log
            ],
            facts["updates"],
        ),
        "test": test,
    }


def thinned(curve: list[dict[str, Any]], measured: int) -> list[dict[str, Any]]:
    """Return at most CURVE_POINTS points of a validation curve.

    The first and the last point stay, so does the point of the measured checkpoint; the others are evenly spaced.

    Args:
        curve: points in the order of their updates.
        measured: the update at which the measured checkpoint was saved.
    """
    if len(curve) <= CURVE_POINTS:
        return curve
    spaced = CURVE_POINTS - 1
    kept = {round(i * (len(curve) - 1) / (spaced - 1)) for i in range(spaced)}
    kept |= {i for i, point in enumerate(curve) if point["update"] == measured}
    return [curve[i] for i in sorted(kept)]


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as readable JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Read all records of a folder and of its subfolders, in the order of their paths.

    Raises:
        ValueError: a file is not a run record; the message names it.
    """
    return [read_record(path) for path in sorted(folder.rglob("*.json"))]


def read_record(path: Path) -> dict[str, Any]:
    """Read one record.

    Raises:
        ValueError: the file is not a run record.
    """
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if record.get("format") != FORMAT:
        raise ValueError(f"{path}: not a run record of the format {FORMAT}")
    return record


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "rev-parse", "--short=12", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)  # noqa: S603 (fixed words)
    return done.stdout.strip() or "unknown"
