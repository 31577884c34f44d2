"""The comparison of a device with the CPU, on the device at hand."""

import pytest
import torch

from model.analysis.selfcheck import selfcheck
from model.network.fast import forward, step

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_this_device_computes_what_the_cpu_does(capsys: pytest.CaptureFixture[str]) -> None:
    """All comparisons are good, and the last line says so."""
    assert selfcheck(DEVICE, compiled=DEVICE.type == "cuda")
    assert capsys.readouterr().out.splitlines()[-1].endswith("all good")


def test_a_wrong_kernel_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a detector that fires the wrong way round in one of the runs, the check fails."""
    fire, calls = step.fire, [0]

    def wrong_later(*arguments: object) -> torch.Tensor:
        calls[0] += 1
        fired = fire(*arguments)  # type: ignore[arg-type]
        return 1 - fired if calls[0] > 250 else fired

    monkeypatch.setattr(forward, "fire", wrong_later)
    assert not selfcheck(torch.device("cpu"), compiled=False)
