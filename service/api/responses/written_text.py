"""A text that is written line by line: its JSON columns piece by piece, or a picture of the whole.

A reply answered whole is the same bytes for the same request: nothing in it depends on time or place.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np
from anyio import CapacityLimiter, to_thread

from service.api.responses.ink_columns import CHUNK, WHOLE, Columns, pages_json
from service.api.responses.sse import Event
from service.api.schemas.handwriting import HandwritingRequest, refusal
from service.engine.operations import Hierarchy
from service.handwriting.candidates import CandidateWriter
from service.handwriting.copybook import writer as copybook
from service.handwriting.copybook.writer import CopybookWriter
from service.handwriting.drawing.document import Box, Document, Ink
from service.handwriting.drawing.formats import MEDIA_TYPES, render
from service.handwriting.drawing.layout import LayoutError
from service.handwriting.drawing.sheet import Sheet
from service.handwriting.writer import Substitution, TextWriter
from service.registry.fingerprint import VERSION
from service.telemetry.log import log_ends

EVENT_POINTS = 256
_LISTED = 32  # substitutions that a header names


@dataclass(frozen=True)
class Author:
    """Who writes a text, as the reply names it.

    Attributes:
        about: members of every piece of the reply.
        hierarchy: the layers of a network; None for the copybook.
    """

    about: dict[str, Any]
    hierarchy: Hierarchy | None = None


class TextRenderer:
    """Renders one text that is written line by line.

    Args:
        request: its text is set.
        seed: of the draws.
        max_pages: most pages that the text may fill.
        writer: writes the text, or measures it for the network that does.
        author: who writes.

    Attributes:
        sheet: the lines of the text, and where their ink lies.

    Raises:
        InvalidRequestError: the layout leaves no room, the text fills too many pages, or a character cannot be written
            and the request wants an error then.
    """

    def __init__(
        self, request: HandwritingRequest, seed: int, max_pages: int, writer: TextWriter, author: Author
    ) -> None:
        assert request.text is not None, "there is a text to write"
        self.media_type = MEDIA_TYPES[request.format]
        self._request = request
        self._seed = seed
        self._text = request.text
        layout = request.layout()
        self._substitutions = writer.substitutions()
        if request.unsupported == "error" and self._substitutions:
            raise refusal(_unwritable(self._substitutions[0]))
        self.sheet = Sheet(layout, self._text, layout.wrap(self._text, writer))
        num_pages = self.sheet.num_pages
        if num_pages > max_pages:
            raise refusal(LayoutError(f"it would fill {num_pages} pages; at most {max_pages} are written here", "text"))
        self._columns = Columns(author.about, author.hierarchy, has_text=True)
        self._corners: list[Any] = []

    @property
    def headers(self) -> dict[str, str]:
        """A header that lists the characters not drawn as they stand, the first of them: a picture cannot say so."""
        listed = [f"{each.index}=U+{each.code_point:04X}" for each in self._substitutions[:_LISTED]]
        return {"x-substituted": " ".join([str(len(self._substitutions)), *listed])}

    def events(self, ink: Ink) -> Iterator[Event]:
        """Yield the events that show the next ink: the very first letter alone."""
        if not len(ink):
            return
        self._corners += [ink.xy.min(axis=0), ink.xy.max(axis=0)]
        at = self._pass_over(ink)
        while at < len(ink):
            is_first = self._columns.num_points == 0
            count = int((ink.character == ink.character[0]).cumprod().sum()) if is_first else EVENT_POINTS
            data = self._columns.json(CHUNK, ink[at : at + count], None, {})
            yield Event(data, self._columns.num_points)
            at += count

    def last_event(self, tail: dict[str, Any] | None = None) -> Event:
        """Return the event that ends the text, with further members."""
        corners = np.array(self._corners or [(0.0, 0.0)])
        data = self._end(CHUNK, Ink.empty(), self.sheet.pages_around(corners), tail)
        return Event(data, self._columns.num_points, is_last=True)

    def whole(self, lines: Iterable[Ink], tail: dict[str, Any] | None = None) -> bytes:
        """Return the reply as one body.

        Args:
            lines: all of them, each where it lies on the sheet.
            tail: further members of the JSON.

        Raises:
            InvalidRequestError: the sheet is too large for the format.
        """
        ink = Ink.join(lines)
        pages = self.sheet.pages(ink)
        if self._request.format == "strokes":
            return self._end(WHOLE, ink[self._pass_over(ink) :], pages, tail)
        document = Document(ink, pages, self._text, self._text, self._request.look())
        try:
            return render(document, self._request.format, self._request.making())
        except LayoutError as error:
            raise refusal(error) from None

    def _pass_over(self, ink: Ink) -> int:
        """Count the next points that were sent before the request was repeated, and return how many they are."""
        count = min(len(ink), max(0, self._request.resume_at - self._columns.num_points))
        self._columns.pass_over(ink[:count])
        return count

    def _end(self, kind: str, ink: Ink, pages: tuple[Box, ...], more: dict[str, Any] | None = None) -> bytes:
        points, strokes = self._columns.num_points + len(ink), self._columns.num_strokes + int(ink.pen.sum())
        tail = {
            "seed": self._seed,
            "pages": pages_json(pages),
            "substituted": [
                {"index": each.index, "code_point": f"U+{each.code_point:04X}", "drawn": each.drawn}
                for each in self._substitutions
            ],
            "usage": {"points": points, "strokes": strokes},
        }
        return self._columns.json(kind, ink, "stop", tail | (more or {}))


def _unwritable(found: Substitution) -> LayoutError:
    return LayoutError(f"U+{found.code_point:04X} at position {found.index} cannot be written", "text")


class CopybookReply:
    """A text that the copybook writes.

    Args:
        request: its text is set.
        seed: of the draws.
        max_pages: most pages that the text may fill.

    Raises:
        InvalidRequestError: there is no such hand, or as for `TextRenderer`.
    """

    def __init__(self, request: HandwritingRequest, seed: int, max_pages: int) -> None:
        text, style, skips = request.text or "", request.hand(), request.unsupported == "skip"
        self._writer = CopybookWriter(text, style, seed, request.bias, request.wobble, skips_unsupported=skips)
        fingerprint = f"copyist-{VERSION}-{copybook.fingerprint()[:12]}"
        author = Author({"model": copybook.NAME, "system_fingerprint": fingerprint, "style": style.name})
        self._renderer = TextRenderer(request, seed, max_pages, self._writer, author)

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to the text."""
        return self._renderer.headers

    @property
    def media_type(self) -> str:
        """Of the whole reply."""
        return self._renderer.media_type

    def events(self) -> Iterator[Event]:
        """Write line by line and yield the events; the first is the first letter alone."""
        for ink in self._renderer.sheet.lines(self._writer):
            yield from self._renderer.events(ink)
        yield self._renderer.last_event()

    def whole(self) -> bytes:
        """Return the text as one body.

        Raises:
            InvalidRequestError: the sheet is too large for the format.
        """
        return self._renderer.whole(self._renderer.sheet.lines(self._writer))


class ThreadedReply:
    """The copybook's reply, made on other threads: it is nothing but arithmetic, which would stop the event loop.

    Args:
        reply: to make.
        limiter: of the threads.
    """

    def __init__(self, reply: CopybookReply, limiter: CapacityLimiter) -> None:
        self._reply = reply
        self._limiter = limiter

    @property
    def media_type(self) -> str:
        """Of the whole reply."""
        return self._reply.media_type

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the events, each made when the one before was sent."""
        events = self._reply.events()
        while (event := await to_thread.run_sync(next, events, None, limiter=self._limiter)) is not None:
            yield event

    async def whole(self) -> bytes:
        """Return the text as one body; errors as for the reply itself."""
        return await to_thread.run_sync(self._reply.whole, limiter=self._limiter)

    async def close(self) -> None:
        """Do nothing: a thread ends with the event that it makes."""


class NetworkReply:
    """A text that a network writes.

    Args:
        renderer: of the text.
        writer: writes it.
        is_live: whether events show ink as the pen draws it, not line by line; only with one candidate.
    """

    def __init__(self, renderer: TextRenderer, writer: CandidateWriter, *, is_live: bool) -> None:
        self._renderer = renderer
        self._writer = writer
        self._is_live = is_live

    @property
    def media_type(self) -> str:
        """Of the whole reply."""
        return self._renderer.media_type

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the events of the ink as it comes.

        Raises:
            CopyistError: the engine could not finish the text.
        """
        async with aclosing(self._writer.live() if self._is_live else self._writer.lines()) as inks:
            async for ink in inks:
                for event in self._renderer.events(ink):
                    yield event
        yield self._renderer.last_event({"lines": self._writer.report})

    async def whole(self) -> bytes:
        """Return the text as one body.

        Raises:
            CopyistError: the engine could not finish the text, or the sheet is too large for the format.
        """
        inks = [ink async for ink in self._writer.lines()]
        return await to_thread.run_sync(self._renderer.whole, inks, {"lines": self._writer.report})

    async def close(self) -> None:
        """End the sequences that still run, and add how the others ended to the request's log line."""
        self._writer.cancel()
        if self._writer.ends:
            log_ends(self._writer.ends)
