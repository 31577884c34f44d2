#!/usr/bin/env python3
"""Print the lowest version that pyproject.toml allows of each direct dependency, as constraints for pip.

    python .ci/lowest.py [EXTRA ...] > constraints.txt

Without an extra these are the dependencies of the service alone.
"""

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
_BOUND = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,]+\])?\s*(?:>=|==)\s*(?P<version>[\w.]+)\s*(?P<marker>;.*)?")


def constraints(extras: list[str]) -> list[str]:
    """Return NAME==LOWEST for each dependency of the service and of these extras.

    Raises:
        ValueError: a dependency has no lower bound.
    """
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *(each for extra in extras for each in project["optional-dependencies"][extra])]
    lines = []
    for requirement in wanted:
        bound = _BOUND.fullmatch(requirement)
        if bound is None:
            raise ValueError(f"{requirement} says no lowest version")
        lines.append(f"{bound['name']}=={bound['version']}{bound['marker'] or ''}")
    return lines


if __name__ == "__main__":
    print("\n".join(constraints(sys.argv[1:])))  # noqa: T201 - this is its output
