"""The benchmark of training runs, on sizes that take no time, and its boundaries are what it says they are."""

import json

import pytest
import torch

from model.analysis.speed import EAGER, OURS, TRAINED_RATES, run_bench


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the compiler's own
def test_a_fresh_and_a_trained_network_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    """Two tables: the boundaries of random weights, and those that a training ends with; ratios are to ours."""
    threads = torch.get_num_threads()
    try:
        run_bench([(32, 16)], 40, 1, torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    fresh, trained = json.loads(capsys.readouterr().out.splitlines()[-1])["sizes"]
    assert trained["z_rates"] == pytest.approx(TRAINED_RATES, abs=0.03)
    assert fresh["z_rates"][0] > trained["z_rates"][0] + 0.1
    for table in (fresh, trained):
        assert table[OURS]["x_ours"] == 1
        assert table[EAGER]["us_per_step"] > 0
