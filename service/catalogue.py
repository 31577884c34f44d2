"""The bundles that are served: found, checked, opened and warmed up once, at start."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from export.bundle import folder as bundles
from export.bundle.folder import Bundle
from model.codec import HandwritingCodec, InkCodec, TextCodec, codec_from_json
from service.engine.ink import InkLane
from service.engine.lane import Lane
from service.engine.lines import LineLane
from service.engine.opening import open_rows
from service.engine.rows import detectors
from service.engine.selftest import CompanyError, prove
from service.engine.text import TextLane
from service.engine.trace import Hierarchy
from service.errors import InvalidRequestError, ModelNotFoundError
from service.ink import copybook
from service.ink.reading import Recogniser, TextReader
from service.machine import machine_class
from service.served import Hand, InkModel, LineModel, Served, TextModel

_log = structlog.get_logger(__name__)

_UNNAMED_HANDS = 8
_ADVANCE = 1.6  # of a character in IAM-OnDB, in x-heights


class CatalogueError(Exception):
    """The service cannot start with the bundles it was given; the message says which and why."""


class Catalogue:
    """All served bundles by name.

    Args:
        models: in the order in which clients see them.
    """

    def __init__(self, models: Mapping[str, Served]) -> None:
        self._models = dict(models)

    @classmethod
    def open(cls, folder: Path, rows: int, *, kernel: bool = True) -> "Catalogue":
        """Open every bundle in a folder.

        Args:
            folder: its subfolders are bundles.
            rows: to be stepped together, of each bundle.
            kernel: whether they may be stepped by the compiled kernel.

        Raises:
            CatalogueError: there are none, one is not sound, or two have one name.
        """
        paths = sorted(path.parent for path in folder.glob("*/bundle.json")) if folder.is_dir() else []
        if not paths:
            raise CatalogueError(f"There are no bundles in {folder}; set COPYIST_BUNDLES to a folder that holds some.")
        models: dict[str, Served] = {}
        for path in paths:
            model = _open(path, rows, kernel=kernel)
            if model.name in models:
                raise CatalogueError(f"{path} and another bundle are both named {model.name}.")
            models[model.name] = model
        return cls(models)

    def __iter__(self) -> Any:
        """Iterate over the models."""
        return iter(self._models.values())

    @property
    def lanes(self) -> list[Lane[Any]]:
        """What the engine steps."""
        return [model.lane for model in self]

    def find(self, name: str) -> Served:
        """Return a bundle by name.

        Raises:
            ModelNotFoundError: none has it.
        """
        if name not in self._models:
            raise ModelNotFoundError(f"There is no such model; there are: {', '.join(self._models)}.", "model")
        return self._models[name]

    def text(self, name: str | None) -> TextModel:
        """Return a text bundle by name, or the only one.

        Raises:
            ModelNotFoundError: no bundle of this name writes text.
            InvalidRequestError: no name is given and several do.
        """
        if name is None:
            texts = [model for model in self if isinstance(model, TextModel)]
            if not texts:
                raise ModelNotFoundError("No model that writes text is served.", "model")
            if len(texts) > 1:
                names = ", ".join(model.name for model in texts)
                raise InvalidRequestError(f"model is required, as several write text: {names}.", "model")
            return texts[0]
        model = self.find(name)
        if not isinstance(model, TextModel):
            raise ModelNotFoundError("model: this one writes ink; POST /v1/handwriting takes it.", "model")
        return model

    def ink(self, name: str | None) -> InkModel:
        """Return an ink bundle by name, or the first one.

        Raises:
            ModelNotFoundError: no bundle of this name, or none at all, writes ink.
        """
        if name is None:
            for model in self:
                if isinstance(model, InkModel):
                    return model
            raise ModelNotFoundError("No model that writes ink is served.", "model")
        model = self.find(name)
        if isinstance(model, LineModel):
            raise InvalidRequestError("text: this model writes texts, and needs one.", "text")
        if not isinstance(model, InkModel):
            raise ModelNotFoundError("model: this one writes text; POST /v1/completions takes it.", "model")
        return model

    def lines(self, name: str) -> LineModel:
        """Return a bundle that writes given texts by name.

        Raises:
            ModelNotFoundError: no bundle has the name.
            InvalidRequestError: the bundle writes something else.
        """
        model = self.find(name)
        if isinstance(model, TextModel):
            raise InvalidRequestError("model: this one writes text; POST /v1/completions takes it.", "model")
        if not isinstance(model, LineModel):
            message = f"text: this model writes freely, without a text; {self._writers} write texts."
            raise InvalidRequestError(message, "text")
        return model

    def writer_of(self, style: str) -> LineModel | None:
        """Return the first bundle that has a hand of this name."""
        return next((model for model in self if isinstance(model, LineModel) and style in model.hands), None)

    @property
    def _writers(self) -> str:
        return " and ".join([copybook.NAME, *(model.name for model in self if isinstance(model, LineModel))])


def _open(path: Path, rows: int, *, kernel: bool) -> Served:
    """Check, open and try one bundle; the first request finds it warm."""
    began = time.perf_counter()
    try:
        checked = bundles.load(path)
        codec = codec_from_json(dict(checked.codec))
        hierarchy = Hierarchy(len(checked.hidden), has_detectors=bool(detectors(checked)), hidden=tuple(checked.hidden))
    except (bundles.BundleError, ValueError) as error:
        raise CatalogueError(f"A bundle cannot be served: {error}") from None
    runner = open_rows(checked, rows, kernel=kernel)
    try:
        proof = prove(checked, runner)
    except CompanyError as error:
        raise CatalogueError(f"A bundle cannot be served: {path}: {error}.") from None
    _log.info(
        "rows keep their bits in any company",
        model=checked.name,
        batch_sizes=proof.sizes,
        row_steps=proof.row_steps,
        machine=machine_class(),
        stepper=runner.stepper,
        ms=proof.ms,
    )
    took_ms = round(1000 * (time.perf_counter() - began))
    _log.info("bundle opened", model=checked.name, kind=checked.kind, fingerprint=checked.fingerprint, ms=took_ms)
    if isinstance(codec, InkCodec):
        return InkModel(checked, hierarchy, InkLane(checked.name, runner), codec)
    if isinstance(codec, TextCodec):
        return TextModel(checked, hierarchy, TextLane(checked.name, runner, codec), codec)
    try:
        return _open_lines(checked, hierarchy, LineLane(checked.name, runner), codec)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no base class of their own
        raise CatalogueError(f"A bundle cannot be served: {path}: {error}") from None


def _open_lines(checked: Bundle, hierarchy: Hierarchy, lane: LineLane, codec: HandwritingCodec) -> LineModel:
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
    return LineModel(checked, hierarchy, lane, codec, TextReader(checked.reader), named, recogniser)


def _unnamed_hands(codec: HandwritingCodec) -> list[Hand]:
    """The hands of a bundle that names none: those of its first writers, or nobody's."""
    writers = range(1, min(codec.num_hands, _UNNAMED_HANDS + 1)) or range(1)
    return [Hand(f"hand-{writer}", writer, "not looked at yet", 1.0, _ADVANCE) for writer in writers]
