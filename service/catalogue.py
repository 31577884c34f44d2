"""The bundles that are served: found, checked, opened and warmed up once, at start."""

import hashlib
import secrets
import time
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from export import bundle as bundles
from export.bundle import Bundle
from model.codec import HandwritingCodec, InkCodec, TextCodec, UnknownSymbolError, codec_from_json
from service.engine.ink import InkLane, InkParams, InkSequence
from service.engine.lane import Lane
from service.engine.lines import Line, LineLane
from service.engine.opening import open_rows
from service.engine.rows import detectors
from service.engine.selftest import CompanyError, prove
from service.engine.sequence import Offset
from service.engine.snapshot import WHOLE, Part
from service.engine.text import TextLane, TextParams, TextSequence
from service.engine.trace import Hierarchy
from service.errors import InvalidRequestError, ModelNotFoundError
from service.ink import copybook
from service.ink.reading import Recogniser, TextReader
from service.machine import machine_class

_log = structlog.get_logger(__name__)

VERSION = "0.1.0"
SEED_BITS = 53  # a seed made here survives a trip through JavaScript's numbers
_PRIMERS = ("\n", " ")
_UNNAMED_HANDS = 8
_ADVANCE = 1.6  # of a character in IAM-OnDB, in x-heights


class CatalogueError(Exception):
    """The service cannot start with the bundles it was given; the message says which and why."""


@dataclass(frozen=True, eq=False)
class Served:
    """A bundle and what is needed to run it; `TextModel` and `InkModel` make sequences of requests.

    Attributes:
        bundle: its checked facts.
        hierarchy: reads its trace bytes.
        lane: steps it.
    """

    bundle: Bundle
    hierarchy: Hierarchy
    lane: Lane[Any]

    @property
    def name(self) -> str:
        """The name clients use."""
        return self.bundle.name

    @property
    def fingerprint(self) -> str:
        """Which code, which weights and what sort of machine answer: where all are equal, so are the bytes."""
        machine = hashlib.sha256(f"{machine_class()} {self.lane.runner.stepper}".encode()).hexdigest()
        return f"copyist-{VERSION}-{self.bundle.fingerprint[:12]}-{machine[:8]}"


@dataclass(frozen=True, eq=False)
class TextModel(Served):
    """A bundle that writes characters."""

    codec: TextCodec

    def sequences(
        self,
        prompts: Seq[str | Seq[int]],
        params: TextParams,
        n: int,
        *,
        boundaries: bool,
        whole: bool,
        part: Part = WHOLE,
        param: str = "prompt",
    ) -> list[TextSequence]:
        """Return n completions of each prompt, ready for the engine; their choices count through all of them.

        Args:
            prompts: texts, or ids of symbols.
            params: how to draw.
            n: choices of each prompt.
            boundaries: whether to tell z and operations of each character.
            whole: whether to tell everything at the end only.
            part: of the stream that is asked for.
            param: the field that the prompts came in.

        Raises:
            InvalidRequestError: the bundle has no such symbol.
        """
        self._check_ids([token for token, _ in params.logit_bias], "logit_bias")
        names = [f"{param}[{index}]" for index in range(len(prompts))] if len(prompts) > 1 else [param]
        inputs = [self.encode(prompt, name) for prompt, name in zip(prompts, names, strict=True)]
        # Each choice of an echo reads its prompt, which it has to tell; of others the first reads it for all.
        shares = n > 1 and not params.echo
        made: list[TextSequence] = []
        for choice in range(n * len(inputs)):
            is_first = choice % n == 0
            made.append(
                TextSequence(
                    self.codec,
                    inputs[choice // n],
                    self.primer,
                    params,
                    boundaries=boundaries,
                    whole=whole,
                    choice=choice,
                    part=part,
                    shares=shares and is_first,
                    leader=made[choice - choice % n] if shares and not is_first else None,
                )
            )
        return made

    def encode(self, prompt: str | Seq[int], param: str) -> list[int]:
        """Return the ids of a text, or ids themselves once they were checked.

        Raises:
            InvalidRequestError: the codec refuses a character, or an id is none; names the field `param`.
        """
        if not isinstance(prompt, str):
            self._check_ids(prompt, param)
            return list(prompt)
        try:
            ids: list[int] = self.codec.encode(prompt).tolist()
        except UnknownSymbolError as error:
            raise InvalidRequestError(
                f"{param}: this model has no symbol for U+{ord(error.character):04X} at position {error.position}.",
                param,
            ) from None
        return ids

    @cached_property
    def spellings(self) -> list[str]:
        """Each symbol as text, all different: a character, or bytes: and its hexadecimal for a byte that is none."""
        symbols = self.codec.symbols
        taken = set(symbols)
        for byte in range(self.codec.size - len(symbols)):
            plain = chr(byte)
            symbols += (plain if byte < 0x80 and plain not in taken else f"bytes:\\x{byte:02x}",)
        return list(symbols)

    def _check_ids(self, ids: Seq[int], param: str) -> None:
        if ids and not 0 <= min(ids) <= max(ids) < self.codec.size:
            raise InvalidRequestError(f"{param}: this model's symbols have the ids 0 to {self.codec.size - 1}.", param)

    @property
    def primer(self) -> int:
        """What an empty prompt reads: a line break, else a space, else the first symbol."""
        symbols = self.codec.symbols
        known = [symbol for symbol in _PRIMERS if symbol in symbols or self.codec.unknown == "bytes"]
        return int(self.codec.encode(known[0])[0]) if known else 0


@dataclass(frozen=True, eq=False)
class InkModel(Served):
    """A bundle that writes freely with a pen."""

    codec: InkCodec

    def sequence(self, params: InkParams, *, whole: bool, prime: Seq[Offset] = (), part: Part = WHOLE) -> InkSequence:
        """Return a drawing that is ready for the engine; it starts as every line of the data does, at rest.

        Args:
            params: how to draw.
            whole: whether to tell everything at the end only.
            prime: standardised offsets that are read before.
            part: of the stream that is asked for.
        """
        dx, dy, pen_up = self.codec.encode(np.zeros((1, 3)))[0].tolist()
        start: Offset = (dx, dy, pen_up)
        return InkSequence(start, params, whole=whole, prime=prime, part=part)


@dataclass(frozen=True)
class Hand:
    """A hand that a bundle writes in.

    Attributes:
        name: that clients use.
        writer: number of its vector.
        description: in a few words.
        scale: brings its letters to the common size.
        advance: of a character, in x-heights at that size.
    """

    name: str
    writer: int
    description: str
    scale: float
    advance: float


@dataclass(frozen=True, eq=False)
class LineModel(Served):
    """A bundle that writes given texts with a pen, line by line."""

    codec: HandwritingCodec
    reader: TextReader
    hands: Mapping[str, Hand]
    recogniser: Recogniser | None

    def line(self, text: str, hand: Hand, prime: Seq[Offset] = (), prime_text: str = "") -> Line:
        """Return a text as the network reads it.

        Args:
            text: one line, for which there is room.
            hand: to write it in; beside a prime, whose hand it is taken for.
            prime: standardised offsets that are read first.
            prime_text: what they say, with what parts it from the text.
        """
        ids = self.codec.encode_text(prime_text + text)
        return Line(len(ids), self.reader.read(ids, hand.writer), prime, 1 + len(prime_text))

    @property
    def longest(self) -> int:
        """Characters of a line that there is room for."""
        return self.reader.slots - 2

    @property
    def start(self) -> Offset:
        """The first point of every line: at rest."""
        dx, dy, pen_up = self.codec.encode(np.zeros((1, 3)))[0].tolist()
        return (dx, dy, pen_up)


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


def fresh_seed() -> int:
    """Return a seed for a request that names none."""
    return secrets.randbits(SEED_BITS)


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
