"""A served bundle: one that writes characters, points or given texts, and makes sequences of requests."""

import hashlib
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from export.bundle.folder import Bundle
from model.codec import HandwritingCodec, InkCodec, TextCodec, UnknownSymbolError
from service.engine.executor import Executor
from service.engine.operations import Hierarchy
from service.engine.sequences.base import Offset
from service.engine.sequences.free_ink import InkParams, InkSequence
from service.engine.sequences.ink_lines import Line
from service.engine.sequences.snapshot import WHOLE, StreamPart
from service.engine.sequences.text import TextParams, TextSequence
from service.errors import InvalidRequestError
from service.registry.fingerprint import VERSION, machine_class
from service.registry.recogniser import Recogniser
from service.registry.text_encoder import TextEncoder

_PRIMERS = ("\n", " ")


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A bundle and what runs it; its subclasses make sequences of requests.

    Attributes:
        bundle: its checked facts.
        hierarchy: decodes its trace bytes.
        executor: steps its sequences.
    """

    bundle: Bundle
    hierarchy: Hierarchy
    executor: Executor[Any]

    @property
    def name(self) -> str:
        """The name clients use."""
        return self.bundle.name

    @property
    def fingerprint(self) -> str:
        """Version of the code, weights and kind of machine; the same seed gives the same bytes where it is equal.

        That holds as long as VERSION is raised whenever the same seed gives other bytes.
        """
        machine = hashlib.sha256(f"{machine_class()} {self.executor.runner.stepper}".encode()).hexdigest()
        return f"copyist-{VERSION}-{self.bundle.fingerprint[:12]}-{machine[:8]}"


@dataclass(frozen=True, eq=False)
class TextModel(ServedModel):
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
        part: StreamPart = WHOLE,
        param: str = "prompt",
    ) -> list[TextSequence]:
        """Return n completions of each prompt, ready for the engine; their choices count through all of them.

        Args:
            prompts: texts, or ids of symbols.
            params: how to draw.
            n: choices of each prompt.
            boundaries: whether to send z and operations of each character.
            whole: whether to send everything at the end only.
            part: of the stream that is asked for.
            param: the field that the prompts came in.

        Raises:
            InvalidRequestError: the bundle has no such symbol.
        """
        self._check_ids([token for token, _ in params.logit_bias], "logit_bias")
        names = [f"{param}[{index}]" for index in range(len(prompts))] if len(prompts) > 1 else [param]
        inputs = [self.encode(prompt, name) for prompt, name in zip(prompts, names, strict=True)]
        # With echo each choice reads its prompt, because it has to return it; else the first reads it for all.
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
class InkModel(ServedModel):
    """A bundle that writes freely with a pen."""

    codec: InkCodec

    def sequence(
        self, params: InkParams, *, whole: bool, prime: Seq[Offset] = (), part: StreamPart = WHOLE
    ) -> InkSequence:
        """Return a drawing that is ready for the engine; it starts as every line of the data does, at rest.

        Args:
            params: how to draw.
            whole: whether to send everything at the end only.
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
class LineModel(ServedModel):
    """A bundle that writes given texts with a pen, line by line."""

    codec: HandwritingCodec
    reader: TextEncoder
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
