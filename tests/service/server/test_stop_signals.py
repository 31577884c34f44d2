"""A stop asked for at any moment ends the service quietly and with code 0.

`pytest tests/service/server/test_stop_signals.py --moments 200` tries two hundred random moments instead of a few.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.cli.problems import INTERRUPTED
from service.server.supervisor import CAN_SHARE
from tests.programs import PATIENCE_S, started
from tests.service.live_server import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to see what a process does"),
]

SERVICE = (sys.executable, "-m", "service", "--port", "0")
COPYIST_SERVE = (sys.executable, "-m", "service.cli", "serve", "--port", "0")
FIRST_S, LAST_S = 0.05, 4.0
SOUNDS = ("Traceback", "Error", "Exception", '"level": "warning"', '"level": "error"')


@dataclass(frozen=True)
class Moment:
    """One try: how the service is started, in how many processes, and what it is sent so many seconds later."""

    command: tuple[str, ...]
    processes: int
    sent: signal.Signals
    after_s: float


def moments(count: int) -> list[Moment]:
    """Return as many random moments, the same in each run; all ways of starting and stopping take turns."""
    chance = random.Random(16)  # noqa: S311 - nothing is kept secret
    return [
        Moment(
            command=COPYIST_SERVE if at % 3 == 2 else SERVICE,
            processes=1 + (at // 2) % 2 if CAN_SHARE else 1,
            sent=(signal.SIGINT, signal.SIGTERM)[at % 2],
            after_s=chance.uniform(FIRST_S, LAST_S),
        )
        for at in range(count)
    ]


def has_begun(process: subprocess.Popen[str]) -> bool:
    """Whether our code runs yet: before its first line the interpreter handles SIGINT and nobody handles SIGTERM."""
    lines = Path(f"/proc/{process.pid}/status").read_text("ascii").splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def stop_at(moment: Moment) -> str:
    """Start the service, stop it, and return how far it had come: `interpreter`, `starting` or `listening`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COPYIST_")}
    environment |= {"COPYIST_PROCESSES": str(moment.processes), "COPYIST_LOG_FORMAT": "json"}
    with started(
        moment.command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        time.sleep(moment.after_s)
        can_hear = has_begun(process)
        if moment.sent == signal.SIGINT:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
        else:
            process.terminate()
        _, written = process.communicate(timeout=PATIENCE_S)  # its workers share the pipe, so none outlives it
    if not can_hear:
        assert process.returncode in (0, 1, -moment.sent), (moment, process.returncode, written)
        return "interpreter"
    assert process.returncode == 0, (moment, process.returncode, written)
    assert not any(sound in written for sound in SOUNDS), (moment, written)
    return "listening" if '"listening"' in written else "starting"


@pytest.mark.timeout(3600)  # for --moments of some hundreds; each of them has a limit of its own
def test_a_stop_at_any_moment_is_quiet(request: pytest.FixtureRequest) -> None:
    """Whatever the service is doing, on Ctrl-C and on SIGTERM it ends with code 0 and without a word about it."""
    reached = Counter(stop_at(moment) for moment in moments(request.config.getoption("--moments")))
    print(dict(reached))  # noqa: T201 - shown by pytest -s or -rP
    assert reached["starting"]


HELD = """
import runpy, sys, time
from service.registry.registry import ModelRegistry

def held(*_args, **_settings):
    print("opening", flush=True)
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass

ModelRegistry.open = held
sys.argv = ["service", "--port", "0"]
runpy.run_module("service", run_name="__main__")
"""


@pytest.mark.parametrize("processes", ["1", pytest.param("2", marks=pytest.mark.skipif(not CAN_SHARE, reason="one"))])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_service_that_is_not_up_yet_stops_too(processes: str, sent: signal.Signals) -> None:
    """A signal while bundles are opened ends it, although the loader swallows every exception and never returns."""
    with started(
        [sys.executable, "-c", HELD], cwd=ROOT, env=os.environ | {"COPYIST_PROCESSES": processes},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "opening\n"
        process.send_signal(sent)
        assert process.communicate(timeout=PATIENCE_S) == ("", "")
    assert process.returncode == 0


LOADING = """
import sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            print("loading", flush=True)
            time.sleep(3600)

sys.meta_path.insert(0, Slow())
sys.argv = ["copyist", *sys.argv[1:]]
from service.cli.__main__ import main
main()
"""


@pytest.mark.parametrize(("command", "code"), [("generate", INTERRUPTED), ("serve", 0)])
def test_a_command_that_is_still_loading_ends_without_a_traceback(command: str, code: int) -> None:
    """Ctrl-C before a command runs is the end of it, with the code that it has later on, too."""
    with started(
        [sys.executable, "-c", LOADING, command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE_S) == ("", "")
    assert process.returncode == code
