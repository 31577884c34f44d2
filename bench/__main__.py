"""python -m bench: how fast everything is, beside what one would otherwise run; see cli.py."""

import os

# One core means one core: the pools of NumPy and PyTorch are sized when they are first imported.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

from bench.cli import main  # noqa: E402 - it imports NumPy

if __name__ == "__main__":
    main()
