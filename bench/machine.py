"""What this machine can do at best, measured with the libraries that serve: matrix products and memory bandwidth."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

ROWS, WIDTH = 256, 2048
ROUNDS = 7


def cores() -> list[int]:
    """Return the cores this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Keep this thread on one core for as long as the block; on systems that cannot do that, nothing happens."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def describe() -> dict[str, object]:
    """Return what has to be known about a figure: processor, cores, load, versions."""
    return {
        "cpu": _cpu(),
        "cores": len(cores()),
        "load_1_min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "numpy": np.__version__,
    }


def float32_rate() -> float:
    """Return multiply-adds per second of a large float32 product in ONNX Runtime on one core."""
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    x = generator.normal(size=(ROWS, WIDTH)).astype(np.float32)
    return _product_rate("MatMul", TensorProto.FLOAT, TensorProto.FLOAT, weight, x)


def int8_rate() -> float:
    """Return multiply-adds per second of a large product of bytes in ONNX Runtime on one core."""
    generator = np.random.default_rng(0)
    weight = generator.integers(-127, 128, (WIDTH, WIDTH)).astype(np.int8)
    x = generator.integers(0, 256, (ROWS, WIDTH)).astype(np.uint8)
    return _product_rate("MatMulInteger", TensorProto.UINT8, TensorProto.INT32, weight, x)


def read_bandwidth(num_bytes: int) -> float:
    """Return bytes per second at which one core reads this many bytes again and again; few of them come from caches."""
    halves = np.ones((2, max(1, num_bytes // 8)), np.float32)
    repeats = max(1, 2**27 // halves.nbytes)

    def read() -> None:
        for _ in range(repeats):
            halves[0] @ halves[1]

    return repeats * halves.nbytes / _median_s(read)


def open_session(graph: bytes, threads: int = 1) -> ort.InferenceSession:
    """Return an ONNX Runtime session set up for speed on this many cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _product_rate(op: str, given: int, result: int, weight: np.ndarray, x: np.ndarray) -> float:
    """Return multiply-adds per second of an operator with operands and results of these types."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "weight"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", given, list(x.shape))],
        [helper.make_tensor_value_info("y", result, [ROWS, WIDTH])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = open_session(model.SerializeToString())
    return ROWS * WIDTH * WIDTH / _median_s(lambda: session.run(None, {"x": x}))


def _median_s(work: Callable[[], object]) -> float:
    """Return the median processor time of some work in seconds."""
    times = []
    for _ in range(ROUNDS + 1):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return statistics.median(times[1:])


def _cpu() -> str:
    """Return the processor's name with the instructions that make byte products fast."""
    known = Path("/proc/cpuinfo")
    if not known.exists():
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in known.read_text(encoding="utf-8").splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in lines.items()}
    flags = facts.get("flags", "").split()
    wide = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if name in flags]
    return " ".join([facts.get("model name", platform.machine()), *wide])
