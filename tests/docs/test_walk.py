"""A newcomer's way: from a text file of their own to a reply in it, with the commands of a page and no others."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from export.bundle import folder as bundle
from model.checkpoints import checkpoint as checkpoints
from model.recogniser.network import load_recogniser
from tests.docs.blocks import blocks
from tests.programs import started
from tests.service.live_server import PATIENCE_S, ROOT

PAGES = {
    "README.md": ("Train on your own",),
    "docs/training.md": ("Train on your own corpus", "Export it", "Serve it"),
}
TEXT = ROOT / "tests" / "fixtures" / "text.txt"
LEFT_OUT = shutil.ignore_patterns(".*", "runs", "shared", "bundles", "__pycache__", "*.egg-info", "build")
# The only things that differ from the pages: less time, and a network that learns something in it.
SMALL = "--no-compile --device cpu" + "".join(
    f" --set {setting}"
    for setting in ("model.hidden=24,16,12", "model.embedding=8", "model.output=16", "train.batch=8", "train.window=32")
)
MINUTES = 0.15

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("walk")]


def commands(page: str, headings: tuple[str, ...]) -> list[str]:
    """The commands under these headings of a page, one a line; those that already speak to a server are left out."""
    found = [block for block in blocks(ROOT / page) if block.heading in headings and block.language in ("bash", "make")]
    assert found
    lines = "\n".join(block.text for block in found).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def hurried(command: str) -> str:
    """The same command with less time to train; everything else is as it stands."""
    if not command.startswith("make train"):
        return command
    assert "MINUTES=" in command
    if "--from" in command:  # the sizes are those of the bundle
        return re.sub(r"MINUTES=\S+", f"MINUTES={MINUTES}", command).replace(
            'ARGS="', 'ARGS="--no-compile --device cpu '
        )
    return re.sub(r"MINUTES=\S+", f"MINUTES={MINUTES}", command) + f" ARGS='{SMALL}'"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a newcomer has: the sources, a text of their own, and the environments that make has installed."""
    pytest.importorskip("torch", reason="training needs PyTorch, which is not installed here")
    if shutil.which("make") is None:
        pytest.skip("make is not installed here")
    folder = tmp_path / "copyist"
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
    shutil.copy(TEXT, folder / "my-book.txt")
    for name in ("dev", "serve"):
        tools = folder / ".venv" / name / "bin"
        tools.mkdir(parents=True)
        (tools / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
        (tools / "python").chmod(0o755)
        (folder / ".venv" / name / ".installed").touch()
    return folder


def environment() -> dict[str, str]:
    """Our environment without any setting of Copyist, as a newcomer has it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COPYIST_", "PYTHONPATH"))}
    return kept | {"OMP_NUM_THREADS": "1"}


@contextmanager
def serving(command: str, folder: Path) -> Iterator[str]:
    """Run the command that serves, on a free port, and yield the address it tells."""
    with started(
        ["bash", "-c", f"{command} PORT=0"], cwd=folder, env=environment() | {"COPYIST_LOG_FORMAT": "json"},
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if '"listening"' in line:
                    told = json.loads(line)
                    yield f"http://{told['host']}:{told['port']}"
                    return
            raise AssertionError("the service ended before it listened")
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.stderr.read()


def carry_out(step: str, folder: Path) -> None:
    """Run a command of a page, which must succeed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", hurried(step)], cwd=folder, env=environment(), capture_output=True,
        stdin=subprocess.DEVNULL, text=True, timeout=10 * PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{step}\n{done.stdout}\n{done.stderr}"


def test_from_a_bundle_to_one_that_knows_another_text(checkout: Path) -> None:
    """The commands that go on from a bundle do, what they leave says what it was begun with, and can be looked into."""
    shipped = ROOT / "service" / "bundles" / "prose"
    for name in ("prose", "ink"):
        if not (shipped.parent / name).is_dir():
            pytest.skip(f"no bundle {name} ships in service/bundles")
        shutil.copytree(shipped.parent / name, checkout / "service" / "bundles" / name)
    for step in commands("docs/training.md", ("Go on from a bundle", "See what its boundaries mean")):
        carry_out(step, checkout)
    fitted = checkpoints.load(checkout / "runs" / "fitted")
    assert fitted.facts["started_from"]["bundle"] == bundle.load(shipped).fingerprint
    assert fitted.facts["updates"] > 0
    assert (
        load_recogniser(checkout / "recogniser.safetensors")[1]["bundle"]
        == bundle.load(shipped.parent / "ink").fingerprint
    )


@pytest.mark.parametrize("page", PAGES)
def test_from_a_text_to_a_reply(checkout: Path, page: str) -> None:
    """Every command of the page works in the order in which it stands there, and the last one serves the new bundle."""
    steps = commands(page, PAGES[page])
    deeds = [part for step in steps for part in step.split() if part in ("train", "export", "serve")]
    assert deeds == ["train", "export", "serve"]
    for step in steps[:-1]:
        carry_out(step, checkout)
    with serving(steps[-1], checkout) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        (card,) = [card for card in client.get("/v1/models").json()["data"] if card["id"] == "mine"]
        assert 0 < card["metrics"]["test_bpc"] < 7
        body = {"model": "mine", "prompt": "The ", "max_tokens": 40, "seed": 1, "boundaries": True}
        choice = client.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]
    assert len(choice["text"]) == 40
    assert [len(row) for row in choice["z"]] == [40, 40]
