"""Where the tests of data find data."""

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The small free data in this repository."""
    return TESTS / "fixtures"


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The full data sets, which are not in this repository."""
    folder = Path(os.environ.get("COPYIST_DATA", "not-given"))
    if not folder.is_dir():
        pytest.skip("needs the data sets: set COPYIST_DATA to their folder")
    return folder
