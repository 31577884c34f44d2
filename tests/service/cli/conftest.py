"""Commands run in this process, against real servers."""

from collections.abc import Callable

import pytest

from service.cli.main import main
from tests.service.live_server import Server

Run = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process: exit code, standard output, standard error."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COPYIST_URL", "COPYIST_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run_(*arguments: object) -> tuple[int, bytes, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        code = stop.value.code
        assert isinstance(code, int | None)
        written = capfdbinary.readouterr()
        return code or 0, written.out, written.err.decode()

    return run_


@pytest.fixture
def at(server: Server) -> tuple[str, str]:
    """Where to ask."""
    return ("--url", server.url)
