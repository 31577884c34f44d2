"""Several processes training one network, for real: torchrun and gloo on this machine's loopback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.programs import PATIENCE_S

FIXTURE = Path(__file__).parents[2] / "fixtures" / "text.txt"
# float64: in float32 the noise of sums in another order is as large as Adam's epsilon, so that gradients which ought to
# be zero move weights a whole step one way or the other, on some machines and not on others.
CHANGES = [
    "train.precision=float64",
    "train.batch=8",
    "train.dropout=0.2",
    "train.drop_connect=0.2",
]
SETTINGS = ["--updates", "8", "--no-compile", *(part for change in CHANGES for part in ("--set", change))]


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def train(out: Path, *launcher: str) -> list[dict[str, Any]]:
    """Train preset tiny on the fixture; give the log."""
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "-m", "model", "train", "tiny", "--data", str(FIXTURE), "--out", str(out)]
    done = subprocess.run(
        [*command, *SETTINGS], env=environment, capture_output=True, text=True, timeout=4 * PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_workers_train_as_one(tmp_path: Path) -> None:
    """Two processes with half the streams each have the loss curve of one with all, to 1e-4: sums differ in order."""
    one = train(tmp_path / "one")
    port = str(free_port())
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={port}"]
    two = train(tmp_path / "two", *launcher)
    assert len(one) == len(two) == 8
    assert one[-1]["train"] < one[0]["train"]
    for alone, shared in zip(one, two, strict=True):
        assert shared["steps"] == alone["steps"]
        assert shared["train"] == pytest.approx(alone["train"], abs=1e-4)
        assert shared["valid"] == pytest.approx(alone["valid"], abs=1e-4)
