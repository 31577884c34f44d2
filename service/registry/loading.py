"""Opening a bundle: its files are checked, its graphs and kernel opened, and its batch invariance is checked."""

import time
from pathlib import Path

import structlog

from export.bundle import folder as bundles
from export.bundle.folder import Bundle
from model.codec import HandwritingCodec, InkCodec, TextCodec, codec_from_json
from service.engine.executor import InkExecutor, LineExecutor, TextExecutor
from service.engine.operations import Hierarchy
from service.engine.runners.base import detectors
from service.engine.runners.choose import open_runner
from service.engine.runners.self_test import BatchVarianceError, check_batch_invariance
from service.registry.fingerprint import machine_class
from service.registry.recogniser import Recogniser
from service.registry.served import Hand, InkModel, LineModel, ServedModel, TextModel
from service.registry.text_encoder import TextEncoder

_log = structlog.get_logger(__name__)

_UNNAMED_HANDS = 8
_ADVANCE = 1.6  # of a character in IAM-OnDB, in x-heights


class LoadingError(Exception):
    """The service cannot start with the bundles it was given; the message says which and why."""


def open_model(path: Path, rows: int, *, kernel: bool) -> ServedModel:
    """Check, open and try one bundle; the first request finds it warm."""
    began = time.perf_counter()
    try:
        checked = bundles.load(path)
        codec = codec_from_json(dict(checked.codec))
        hierarchy = Hierarchy(len(checked.hidden), has_detectors=bool(detectors(checked)), hidden=tuple(checked.hidden))
    except (bundles.BundleError, ValueError) as error:
        raise LoadingError(f"A bundle cannot be served: {error}") from None
    runner = open_runner(checked, rows, kernel=kernel)
    try:
        report = check_batch_invariance(checked, runner)
    except BatchVarianceError as error:
        raise LoadingError(f"A bundle cannot be served: {path}: {error}.") from None
    _log.info(
        "batch invariance checked",
        model=checked.name,
        batch_sizes=report.sizes,
        row_steps=report.row_steps,
        machine=machine_class(),
        stepper=runner.stepper,
        ms=report.ms,
    )
    took_ms = round(1000 * (time.perf_counter() - began))
    _log.info("bundle opened", model=checked.name, kind=checked.kind, fingerprint=checked.fingerprint, ms=took_ms)
    if isinstance(codec, InkCodec):
        return InkModel(checked, hierarchy, InkExecutor(checked.name, runner), codec)
    if isinstance(codec, TextCodec):
        return TextModel(checked, hierarchy, TextExecutor(checked.name, runner, codec), codec)
    try:
        return _open_lines(checked, hierarchy, LineExecutor(checked.name, runner), codec)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no base class of their own
        raise LoadingError(f"A bundle cannot be served: {path}: {error}") from None


def _open_lines(checked: Bundle, hierarchy: Hierarchy, executor: LineExecutor, codec: HandwritingCodec) -> LineModel:
    """Open what a bundle that writes texts has besides."""
    assert checked.reader is not None, "the manifest was checked"
    writing = checked.writing
    hands = [Hand(**hand) for hand in writing["hands"]] if writing else _unnamed_hands(codec)
    recogniser = None
    if checked.recogniser is not None:
        known = codec_from_json(writing["recogniser"]["codec"])
        assert isinstance(known, HandwritingCodec), "the manifest was checked"
        recogniser = Recogniser(checked.recogniser, known)
    named = {hand.name: hand for hand in hands}
    return LineModel(checked, hierarchy, executor, codec, TextEncoder(checked.reader), named, recogniser)


def _unnamed_hands(codec: HandwritingCodec) -> list[Hand]:
    """The hands of a bundle that names none: those of its first writers, or nobody's."""
    writers = range(1, min(codec.num_hands, _UNNAMED_HANDS + 1)) or range(1)
    return [Hand(f"hand-{writer}", writer, "not looked at yet", 1.0, _ADVANCE) for writer in writers]
