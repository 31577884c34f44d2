"""Run records and the page made of them: a claim in docs/results.md is a row of a file in docs/runs/.

A record says what was run, on what, for how long, and what came out: enough to do it again. `results_page` is a pure
function of the records, so the page can be regenerated, and a test holds it to them.
"""

import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from model.checkpoints.checkpoint import Checkpoint

FORMAT = "copyist-run/1"


def make_record(
    name: str, command: str, note: str, checkpoint: Checkpoint, log: list[dict[str, Any]], test: dict[str, Any]
) -> dict[str, Any]:
    """A run as JSON values.

    Args:
        name: of the row.
        command: that trained it.
        note: what a reader must know beyond the command, in a sentence or two; may be empty.
        checkpoint: the one that was measured.
        log: records of the training's log.
        test: what `model.training.evaluate.summarise` said of the test split.
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
        "curve": [
            {"minutes": round(point["elapsed_s"] / 60, 1), "update": point["update"], "valid": round(point["valid"], 4)}
            for point in log
        ],
        "test": test,
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as readable JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All records of a folder, by name of their files.

    Raises:
        ValueError: a file that is no record, named.
    """
    return [read_record(path) for path in sorted(folder.glob("*.json"))]


def read_record(path: Path) -> dict[str, Any]:
    """One record.

    Raises:
        ValueError: the file is no record.
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
