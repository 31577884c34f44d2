"""Real bundles, built once through the exporter, and real servers on them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from model.codec import REPLACEMENT, InkCodec, TextCodec
from tests.service.live_server import Server, running

ALPHABET = "\n abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,;:!?'\"-0123456789"
TEXT = TextCodec((*ALPHABET, REPLACEMENT), "replace")
BYTES = TextCodec(tuple("abc"), "bytes")
STRICT = TextCodec(tuple("abc "), "error")
INK = InkCodec((8.2, 0.1), (42.0, 37.0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what shares bundles and servers on one worker, so that they are built and started once."""
    for item in items:
        if {"bundles", "odd_bundles"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("service"))


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small bundles of freshly initialised networks, exported and proved as any other."""
    pytest.importorskip("torch", reason="bundles are built with PyTorch, which is not installed here")
    from tests.service.networks import export

    folder = tmp_path_factory.mktemp("bundles")
    export(TEXT, folder, "small-text", (32, 24, 40))
    export(INK, folder, "small-ink", (32, 24, 40), precision="int8")
    return folder


@pytest.fixture(scope="session")
def odd_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of other shapes: bytes, a codec that refuses, one layer, five layers, the LSTM control."""
    pytest.importorskip("torch", reason="bundles are built with PyTorch, which is not installed here")
    from tests.service.networks import export

    folder = tmp_path_factory.mktemp("odd-bundles")
    export(BYTES, folder, "bytes", (12, 8))
    export(STRICT, folder, "strict", (9,))
    export(TEXT, folder, "deep", (8, 7, 6, 5, 4), precision="int8")
    export(TEXT, folder, "control", (10, 9, 8), cell="lstm")
    return folder


@pytest.fixture(scope="session")
def server(bundles: Path) -> Iterator[Server]:
    """A server with its ordinary settings."""
    with running(bundles) as started:
        yield started


@pytest.fixture(scope="session")
def odd_server(odd_bundles: Path) -> Iterator[Server]:
    """A server of the odd bundles that flushes at every character."""
    with running(odd_bundles, flush_chars=1, flush_ms=0) as started:
        yield started


@pytest.fixture(scope="session")
def small_limits(bundles: Path) -> Iterator[Server]:
    """A server whose configurable limits are small."""
    limits = {"max_tokens": 50, "max_points": 70, "max_prompt_chars": 100, "max_body_bytes": 2000}
    limits |= {"max_choices": 3, "max_total_tokens": 120}
    limits |= {"max_text_chars": 40, "max_streamed_text_chars": 60, "max_pages": 2, "max_prime_points": 60}
    with running(bundles, body_timeout_s=0.5, **limits) as started:
        yield started
