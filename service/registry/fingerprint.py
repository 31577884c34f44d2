"""What a fingerprint is made of besides the bundle: our version, and the class of the machine.

Where either differs, the same weights and the same seed may give other bits.
"""

import platform
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime as ort

# Instruction sets by which ONNX Runtime and NumPy choose among their kernels.
_FEATURES = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)


@cache
def machine_class() -> str:
    """Return a name for everything beside the bundle that may decide about a bit of the output.

    Two machines of one class continue each other's streams exactly: the same architecture and instruction sets, the
    same ONNX Runtime and NumPy.
    """
    flags = _flags()
    features = [feature for feature in _FEATURES if feature in flags]
    return " ".join([platform.machine(), *features, f"onnxruntime-{ort.__version__}", f"numpy-{np.__version__}"])


def _flags() -> set[str]:
    """What Linux says the processor can do; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return set()
    for line in lines:
        name, _, values = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(values.split())
    return set()


def _version() -> str:
    """The version of the package; where it is not installed, that of the tree it runs from."""
    try:
        return metadata.version("copyist")
    except metadata.PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        return str(tomllib.loads(project.read_text("utf-8"))["project"]["version"]) if project.exists() else "unknown"


VERSION = _version()
