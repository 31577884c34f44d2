"""The arrows of the design: service -> export.bundle and model.codec, export -> model, model -> nothing of ours.

Each forbidden arrow is also drawn once, in a copy of the tree, to see that it would be caught.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FORBIDDEN = [
    ("model/codec.py", "import export.bundle", "The network stands alone"),
    ("model/codec.py", "import service", "The network stands alone"),
    ("export/bundle/folder.py", "import service", "The exporter does not know the service"),
    ("service/planted.py", "import model.config", "The service reads bundles and codecs"),
    ("service/engine/planted.py", "import export.graphs.torchscript", "The service reads bundles and codecs"),
    ("model/planted.py", "import bench.rounds", "The network stands alone"),
    ("export/planted.py", "import bench.rounds", "The exporter does not know the service"),
    ("service/planted.py", "import bench.rounds", "The service reads bundles and codecs"),
    ("service/planted.py", "import torch", "Nothing the service imports"),
    ("model/codec.py", "import torch", "Nothing the service imports"),
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
]
ALLOWED = [
    ("service/planted.py", "import model.codec"),
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
    return subprocess.run([*command, "--no-cache"], cwd=root, capture_output=True, text=True, check=False)


def plant(tree: Path, file: str, line: str) -> None:
    """Append an import to a file of the tree, made if need be."""
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
