"""A server with which others take turns at one stream."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.live_server import Server, running

KEY = "first-key-" * 4


@pytest.fixture(scope="session")
def here(bundles: Path) -> Iterator[Server]:
    """A server that sends every character and every point in an event of its own."""
    with running(bundles, state_keys=KEY, flush_chars=1, flush_ms=0) as started:
        yield started
