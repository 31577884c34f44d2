"""The service needs no PyTorch: shown where it is absent, and shown where it is present but out of reach."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import PATIENCE_S

ROOT = Path(__file__).parents[1]
TRAINING_STACK = ("torch", "onnx", "onnxscript", "safetensors", "matplotlib", "jaxtyping", "tqdm")

IMPORT_SERVICE = """
import importlib, json, pkgutil, sys
import service
for module in pkgutil.walk_packages(service.__path__, "service."):
    if not module.name.endswith(("__main__", "._kernel")):  # the latter is a library in C that nobody imports
        importlib.import_module(module.name)
import service.server.app
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
OUT_OF_REACH = f"""
import sys
from tests.programs import PATIENCE_S
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TRAINING_STACK!r}:
            raise ModuleNotFoundError(f"{{name}} is out of reach")
sys.meta_path.insert(0, Wall())
"""


def python(interpreter: str, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program from the repository's root in a fresh interpreter."""
    return subprocess.run(
        [interpreter, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def loaded_by(interpreter: str, program: str) -> set[str]:
    """Return the top-level modules that a program, which must succeed, ended up with."""
    result = python(interpreter, program)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout))


def test_the_default_install_serves_without_pytorch() -> None:
    """Every module of the service imports in an environment that has no PyTorch to import."""
    interpreter = os.environ.get("COPYIST_SERVE_PYTHON", "")
    if not Path(interpreter).is_file():
        pytest.skip("COPYIST_SERVE_PYTHON names no interpreter of the default install (`make test` sets it)")
    absent = python(interpreter, "import torch")
    assert absent.returncode == 1
    assert "No module named 'torch'" in absent.stderr
    assert "service" in loaded_by(interpreter, IMPORT_SERVICE)


def test_the_service_imports_with_the_training_stack_out_of_reach() -> None:
    """Every module of the service imports behind a wall around the training stack, and none of it gets loaded."""
    loaded = loaded_by(sys.executable, OUT_OF_REACH + IMPORT_SERVICE)
    assert "onnxruntime" in loaded
    assert loaded.isdisjoint(TRAINING_STACK)


@pytest.mark.parametrize("module", TRAINING_STACK)
def test_the_wall_holds(module: str) -> None:
    """The wall of the test above does stop an import, so that its passing means something."""
    result = python(sys.executable, OUT_OF_REACH + f"import {module}")
    assert result.returncode == 1
    assert "out of reach" in result.stderr
