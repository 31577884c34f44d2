"""The arrows of the design: service -> export.bundle, model.codec, model.ink; export -> model; model -> none of ours.

Each forbidden arrow is also drawn once, in a copy of the tree, to see that it would be caught.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import PATIENCE_S

ROOT = Path(__file__).parents[1]

FLOORS = "The floors of the service"
FORBIDDEN = [
    ("model/codec.py", "import export.bundle", "The network stands alone"),
    ("model/codec.py", "import service", "The network stands alone"),
    ("export/bundle/folder.py", "import service", "The exporter does not know the service"),
    ("model/cli/train.py", "import model.__main__", "The floors of the model"),
    ("model/analysis/sample.py", "import model.cli.console", "The floors of the model"),
    ("model/recogniser/train.py", "import model.analysis.sample", "The floors of the model"),
    ("model/training/loop.py", "import model.recogniser.network", "The floors of the model"),
    ("model/checkpoints/average.py", "import model.training.budget", "The floors of the model"),
    ("model/data/corpus.py", "import model.checkpoints.checkpoint", "The floors of the model"),
    ("model/network/stack.py", "import model.data.errors", "The floors of the model"),
    ("model/config.py", "import model.network.state", "The floors of the model"),
    ("model/ink.py", "import model.codec", "The floors of the model"),
    ("model/text_codec.py", "import model.ink", "The floors of the model"),
    ("model/planted.py", "import model.config", "The floors of the model"),
    ("model/network/batch_norm.py", "import model.network.stack", "The floors of the network"),
    ("model/network/fast/fuse.py", "import model.network.batch_norm", "The floors of the network"),
    ("model/network/cell.py", "import model.network.fast.step", "The floors of the network"),
    ("model/network/reference.py", "import model.network.cell", "The floors of the network"),
    ("model/network/state.py", "import model.network.cell", "The floors of the network"),
    ("service/planted.py", "import model.config", "The service reads bundles and codecs"),
    ("service/engine/planted.py", "import export.graphs.torchscript", "The service reads bundles and codecs"),
    ("model/planted.py", "import bench.rounds", "The network stands alone"),
    ("export/planted.py", "import bench.rounds", "The exporter does not know the service"),
    ("service/planted.py", "import bench.rounds", "The service reads bundles and codecs"),
    ("service/planted.py", "import torch", "Nothing the service imports"),
    ("model/codec.py", "import torch", "Nothing the service imports"),
    ("model/text_codec.py", "import torch", "Nothing the service imports"),
    ("model/ink.py", "import torch", "Nothing the service imports"),
    ("export/bundle/folder.py", "import onnx", "Nothing the service imports"),
    ("service/api/deps.py", "import service.cli.main", "The server does not know the command line"),
    ("service/api/deps.py", "import typer", "The server does not know the command line"),
    ("export/cli.py", "import export.__main__", "The exporter's floors"),
    ("export/build.py", "import export.cli", "The exporter's floors"),
    ("export/build.py", "import export.hands", "The exporter's floors"),
    ("export/checks/parity.py", "import export.build", "The exporter's floors"),
    ("export/graphs/step.py", "import export.checks.parity", "The exporter's floors"),
    ("export/graphs/step.py", "import export.runtime", "The exporter's floors"),
    ("export/runtime.py", "import export.graphs.specs", "The exporter's floors"),
    ("export/bundle/folder.py", "import export.runtime", "The exporter's floors"),
    ("export/errors.py", "import export.bundle.fields", "The exporter's floors"),
    ("service/server/planted.py", "import service.cli.main", FLOORS),
    ("service/api/planted.py", "import service.server.app", FLOORS),
    ("service/web/planted.py", "import service.api.deps", FLOORS),
    ("service/handwriting/planted.py", "import service.api.responses.sse", FLOORS),
    ("service/telemetry/planted.py", "import service.handwriting.writer", FLOORS),
    ("service/registry/planted.py", "import service.handwriting.candidates", FLOORS),
    ("service/engine/planted.py", "import service.registry.served", FLOORS),
    ("service/settings.py", "import service.telemetry.log", FLOORS),
    ("service/access/planted.py", "import service.settings", FLOORS),
    ("service/errors.py", "import service.access.keys", FLOORS),
    ("service/a_new_floor/__init__.py", "import service.errors", FLOORS),
    ("service/handwriting/planted.py", "import service.telemetry.log", "What writes knows neither keys nor settings"),
    ("service/engine/planted.py", "import service.settings", "What writes knows neither keys nor settings"),
]
ALLOWED = [
    ("service/registry/planted.py", "import model.codec"),
    ("service/api/planted.py", "import service.handwriting.candidates"),
    ("service/handwriting/planted.py", "import service.engine.loop"),
    ("service/registry/planted.py", "import model.ink"),
    ("service/engine/planted.py", "from export.bundle import folder"),
    ("service/cli/planted.py", "import typer"),
    ("export/planted.py", "import model.config"),
    ("export/planted.py", "import torch"),
    ("export/checks/planted.py", "import export.graphs.step"),
    ("bench/planted.py", "import service.engine.runners.onnx"),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of our Python sources and of the contracts, for planting imports into."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("model", "export", "service", "bench"):
        for source in (ROOT / package).rglob("*.py"):
            copy = tmp_path / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
    return tmp_path


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of the tree at root, in a process that imports from there."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    return subprocess.run(
        [*command, "--no-cache"], cwd=root, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def plant(tree: Path, file: str, line: str) -> None:
    """Append an import to a file of the tree, made if need be."""
    (tree / file).parent.mkdir(exist_ok=True)
    with (tree / file).open("a", encoding="utf-8") as out:
        out.write(f"\n{line}\n")


def test_every_import_follows_the_arrows() -> None:
    """The repository as it stands keeps all contracts."""
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(("file", "line", "contract"), FORBIDDEN)
def test_a_forbidden_import_is_caught(tree: Path, file: str, line: str, contract: str) -> None:
    """An import against an arrow breaks the contract that names it."""
    plant(tree, file, line)
    result = lint(tree)
    broken = [row for row in result.stdout.splitlines() if " BROKEN" in row]
    assert result.returncode == 1
    assert any(row.startswith(contract) for row in broken), result.stdout


@pytest.mark.parametrize(("file", "line"), ALLOWED)
def test_an_allowed_import_passes(tree: Path, file: str, line: str) -> None:
    """An import along an arrow is no offence."""
    plant(tree, file, line)
    result = lint(tree)
    assert result.returncode == 0, result.stdout
