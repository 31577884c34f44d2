"""The service as it ships, for pages that speak of the shipped bundles."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import Shell
from tests.service.live_server import ROOT, Server, running

FOLDER = ROOT / "service" / "bundles"


@pytest.fixture(scope="session")
def shipped_server() -> Iterator[Server]:
    """A server of the shipped bundles."""
    if not any(FOLDER.glob("*/bundle.json")):
        pytest.skip("no bundle ships yet in service/bundles")
    with running(FOLDER) as started:
        yield started


@pytest.fixture
def shell(tmp_path: Path, shipped_server: Server) -> Shell:
    """A shell in an empty folder, with that server to ask."""
    missing = [tool for tool in ("bash", "curl") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"the pages' commands need {' and '.join(missing)}")
    return Shell(tmp_path, shipped_server.url)
