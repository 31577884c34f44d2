"""What every test shares: the two markers, and what to ask of a run.

``pytest`` runs everything this machine can, ``--fast`` leaves out the tests marked slow, and ``--renew-golden``
rewrites the stored traces and pictures instead of comparing with them, and ``--moments`` says at how many random
moments the service is stopped.
"""

import importlib.util
import signal

import pytest

if importlib.util.find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    # A busy machine is slow, not wrong: nothing here is timed.
    settings.register_profile("copyist", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("copyist")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options named in this file's docstring."""
    parser.addoption("--fast", action="store_true", help="leave out tests marked slow")
    parser.addoption("--renew-golden", action="store_true", help="rewrite golden files instead of comparing")
    parser.addoption("--moments", type=int, default=12, help="random moments at which the service is stopped")


def pytest_configure() -> None:
    """Undo that a shell ignores Ctrl-C for what it runs in the background.

    A process that is started with SIGINT ignored hands that on to all it starts, and tests send SIGINT to programs.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def renew_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten rather than compared with."""
    return bool(request.config.getoption("--renew-golden"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, each with its reason, the tests that this run or this machine cannot do."""
    reasons = {}
    if config.getoption("--fast"):
        reasons["slow"] = "slow, and --fast was given"
    if any(item.get_closest_marker("gpu") for item in items) and not _has_cuda():
        reasons["gpu"] = "needs a CUDA device and this machine has none"
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def _has_cuda() -> bool:
    """Tell whether PyTorch is installed and sees a CUDA device."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
