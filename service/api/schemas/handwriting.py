"""Handwriting: requests, as they are checked and documented, and replies."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from model.codec import InkCodec
from service.api.schemas.completions import MAX_BIAS, SEED_NEEDED, lowered
from service.api.schemas.fields import WHOLE, ResumeAt, ReturnState, Seed, StateToken, StrictRequest, Work
from service.engine.sequences.base import Offset
from service.errors import InvalidRequestError
from service.handwriting import priming
from service.handwriting.candidates import MAX_CANDIDATES
from service.handwriting.copybook import writer as copybook
from service.handwriting.drawing.document import Look
from service.handwriting.drawing.formats import Format, Making
from service.handwriting.drawing.layout import PAPERS, Align, Layout, LayoutError
from service.handwriting.priming import PrimedInk
from service.settings import Settings

Paper = Literal["fit", "a4", "a5", "a6", "letter", "legal"]
assert set(get_args(Paper)) == {"fit", *PAPERS}
Side = Annotated[float, Field(ge=20, le=5000)]
MAX_PRIME_CHARS = 40
USUAL_CANDIDATES = 4
_FIT_MARGIN_MM, _PAPER_MARGIN_MM = 4.0, 20.0
_PARTS = ("state", "return_state", "resume_at")
_ONLY_WITH_TEXT = ("style", "unsupported", "align", "wobble", "candidates", "prime_text")


class PrimeColumns(StrictRequest):
    """Ink as columns, as replies have them; y grows downwards, in any unit."""

    x: list[float]
    y: list[float]
    pen: list[Annotated[int, Field(ge=0, le=1), WHOLE]] = Field(description="1 where the pen lifts after the point.")


GivenInk = PrimeColumns | str


def read_ink(ink: GivenInk, field: str, codec: InkCodec, settings: Settings) -> PrimedInk:
    """Return what a network reads of a client's ink, as columns or as InkML.

    Raises:
        InvalidRequestError: it is no ink that can be read; names the field that it came in.
    """
    try:
        strokes = priming.from_inkml(ink) if isinstance(ink, str) else priming.from_columns(ink.x, ink.y, ink.pen)
        return priming.read(strokes, codec, settings.max_prime_points)
    except priming.PrimeError as error:
        raise InvalidRequestError(f"{field}: {error}.", field) from None


def offsets_of(ink: PrimedInk) -> list[Offset]:
    """Return primed ink as the engine takes it."""
    return [(dx, dy, pen_up) for dx, dy, pen_up in ink.offsets.tolist()]


class HandwritingRequest(StrictRequest):
    """What to write with the pen, and how."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "Dear Ada, it works.", "style": "quick", "seed": 1},
                {"text": "Dear Ada, it works.", "stream": True},
                {"text": "Dear Ada,\nit works.", "style": "school", "page": "a5", "format": "svg"},
                {"max_points": 600, "bias": 0.5, "seed": 1},
            ]
        }
    )

    model: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="Who writes; without a name, the copybook a text, and the first ink bundle freely."
    )
    text: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="What to write; without one, an ink bundle writes freely. A reply at once takes fewer characters "
        "than a stream.",
    )
    style: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="The hand; GET /v1/handwriting/styles shows them."
    )
    candidates: Annotated[int, Field(ge=1, le=MAX_CANDIDATES)] | None = Field(
        None,
        description="A network writes each line of a text so often, and its recogniser chooses. Without a number, once "
        "in a stream, so that points come as they are drawn, and else four times.",
    )
    unsupported: Literal["substitute", "skip", "error"] = Field(
        "substitute", description="What to do with characters that cannot be drawn; the reply lists them in any case."
    )
    max_points: Annotated[int, WHOLE] = Field(600, ge=1, description="Points of free writing, about 22 to a letter.")
    prime: GivenInk | None = Field(
        None,
        description="Ink of your own, as columns or as InkML: a network reads it first and continues in that hand. It "
        "leans towards it; it does not copy it. With a text, prime_text says what the ink says.",
    )
    prime_text: Annotated[str, Field(min_length=1, max_length=MAX_PRIME_CHARS)] | None = Field(
        None, description="What the prime says, where a network is to write a text in its hand."
    )
    bias: float = Field(1.0, ge=0, le=MAX_BIAS, description="0 writes as learned, more writes neater.")
    seed: Seed | None = Field(None, description="The same seed gives the same drawing; without one, one is made up.")
    stream: bool = Field(False, description="Send events as points come; only with the format strokes.")
    state: StateToken = None
    return_state: ReturnState = False
    resume_at: ResumeAt = 0
    format: Format = Field("strokes", description="JSON columns of points, a picture, or a file for a machine.")
    page: Paper | Annotated[list[Side], Field(min_length=2, max_length=2)] = Field(
        "fit", description="Paper, by name or as [width, height] in mm; fit is as much as the ink needs."
    )
    margin_mm: Annotated[float, Field(ge=0, le=500)] | None = Field(
        None, description="On all sides of the page; without one, 20 on paper and 4 around the ink."
    )
    line_width_mm: Annotated[float, Field(ge=10, le=5000)] | None = Field(
        None, description="Width of the lines; without one, all that the margins leave, and 160 without paper."
    )
    x_height_mm: float = Field(2.5, ge=0.5, le=50, description="Height of a lower-case x.")
    line_spacing: float = Field(1.0, ge=0.4, le=5, description="1 is ordinary: four x-heights from line to line.")
    align: Align = Field("left", description="Where lines stand that are shorter than their width.")
    wobble: float = Field(1.0, ge=0, le=5, description="How far the line drifts; 0 keeps it straight.")
    pen_mm: float = Field(0.4, ge=0.05, le=5, description="Width of the pen.")
    color: Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")] | None = Field(
        None, description="Of the ink, as #rrggbb; without one, black, and the text's colour in an SVG."
    )
    outline: bool = Field(
        False, description="Draw strokes as outlines that are broad where the pen is slow: svg, png and pdf."
    )
    dpi: Annotated[int, WHOLE] = Field(150, ge=30, le=1200, description="Pixels to an inch of a png.")
    feed_mm_min: Annotated[int, WHOLE] = Field(
        1500, ge=10, le=30_000, description="Feed of the lowered pen in gcode, in mm a minute."
    )

    def most_points(self, settings: Settings) -> int:
        """Return max_points; its default is lowered to the limit of the settings."""
        return min(self.max_points, settings.max_points)

    def layout(self) -> Layout:
        """Return how lines are put on paper.

        Raises:
            InvalidRequestError: there is no room for a line.
        """
        paper = None if self.page == "fit" else PAPERS.get(self.page) if isinstance(self.page, str) else self.page
        usual = _FIT_MARGIN_MM if paper is None else _PAPER_MARGIN_MM
        layout = Layout(
            paper=(paper[0], paper[1]) if paper else None,
            margin=usual if self.margin_mm is None else self.margin_mm,
            line_width=self.line_width_mm,
            x_height=self.x_height_mm,
            line_spacing=self.line_spacing,
            align=self.align,
        )
        try:
            layout.check()
        except LayoutError as error:
            raise refusal(error) from None
        return layout

    def look(self) -> Look:
        """Return how ink is drawn."""
        return Look(self.pen_mm, self.color, self.outline)

    def making(self) -> Making:
        """Return what single formats need to know."""
        return Making(self.dpi, self.feed_mm_min)

    def hand(self) -> copybook.Style:
        """Return the style of the copybook.

        Raises:
            InvalidRequestError: there is none of this name.
        """
        name = self.style or copybook.DEFAULT_STYLE
        if name not in copybook.STYLES:
            raise InvalidRequestError(
                f"style: there is none of this name; there are: {', '.join(copybook.STYLES)}.", "style"
            )
        return copybook.STYLES[name]

    def read_first(self, codec: InkCodec, settings: Settings) -> list[Offset]:
        """Return the offsets of the prime, in the units of a network; none without one.

        Raises:
            InvalidRequestError: it is no ink that can be read.
        """
        return [] if self.prime is None else offsets_of(read_ink(self.prime, "prime", codec, settings))

    def check(self, settings: Settings) -> None:
        """Check what depends on the settings, or on two fields at once.

        Raises:
            InvalidRequestError: names the field and the limit.
        """
        if self.stream and self.format != "strokes":
            raise InvalidRequestError("stream: a picture is sent whole; stream the format strokes.", "stream")
        self._check_part()
        if self.text is None:
            if "max_points" in self.model_fields_set and self.max_points > settings.max_points:
                raise InvalidRequestError(f"max_points: at most {settings.max_points} are served here.", "max_points")
            for field in _ONLY_WITH_TEXT:
                if self._asks_for(field):
                    raise InvalidRequestError(f"{field}: only with text.", field)
        else:
            if (self.prime is None) != (self.prime_text is None):
                message = "prime_text: says what the prime says; with a text, give both or neither."
                raise InvalidRequestError(message, "prime_text")
            if self._asks_for("max_points"):
                raise InvalidRequestError("max_points: only for free writing; a text ends by itself.", "max_points")
            limit = settings.max_streamed_text_chars if self.stream else settings.max_text_chars
            if len(self.text) > limit:
                hint = "" if self.stream else f", and {settings.max_streamed_text_chars} in a stream"
                raise InvalidRequestError(f"text: at most {limit} characters are written here{hint}.", "text")

    def _asks_for(self, field: str) -> bool:
        """Whether a field is given at another value than its default, which changes nothing."""
        return bool(getattr(self, field) != type(self).model_fields[field].default)

    @property
    def num_candidates(self) -> int:
        """How often a network writes each line."""
        return self.candidates or (1 if self.stream else USUAL_CANDIDATES)

    def _check_part(self) -> None:
        """Check the part of a stream that is asked for.

        Raises:
            InvalidRequestError: a text has no state, and a picture has no parts.
        """
        asked = [field for field in _PARTS if getattr(self, field)]
        if asked and self.format != "strokes":
            raise InvalidRequestError(f"{asked[0]}: only with the format strokes.", asked[0])
        if self.text is not None and asked and asked[0] != "resume_at":
            raise InvalidRequestError(f"{asked[0]}: only for free writing; a text is written anew.", asked[0])
        if asked and self.prime is not None and self.state is not None:
            raise InvalidRequestError("prime: a state has read it already.", "prime")
        if self.text is not None and self.resume_at and self.seed is None:
            raise InvalidRequestError(SEED_NEEDED, "resume_at")


def refusal(error: LayoutError) -> InvalidRequestError:
    """Return the error for a request that leaves no room for its text."""
    return InvalidRequestError(f"{error.field}: {error}.", error.field)


def ink_limits(settings: Settings) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the limits of the settings as additions to the JSON schemas: schema name, field, keyword."""
    longest = max(settings.max_text_chars, settings.max_streamed_text_chars)
    return {
        "HandwritingRequest": {
            "max_points": lowered(HandwritingRequest, "max_points", settings.max_points),
            "text": {"maxLength": longest},
        },
    }


class Drawn(BaseModel):
    """What was drawn."""

    points: int
    strokes: int


class InkUsage(Work, Drawn):
    """What a drawing took."""


class Substituted(BaseModel):
    """A character that could not be drawn."""

    index: int = Field(description="Of the character in the text, in code points.")
    code_point: str = Field(description="As U+0041.")
    drawn: str = Field(description="What stands in its place; empty for nothing.")


class LineReport(BaseModel):
    """How a network's line of a text went."""

    line: int = Field(description="Index of the line on the sheet.")
    written: int = Field(description="How often it was written before one was taken.")
    complete: bool = Field(description="Whether the network ended it itself, at the end of its text.")
    nats: float | None = Field(
        description="How improbable the bundle's recogniser finds the text, for each character; null without one."
    )


class PageBox(BaseModel):
    """Where a page lies on the sheet, in mm."""

    left: float
    top: float
    width: float
    height: float


class HandwritingReply(BaseModel):
    """A drawing, or an event of one, as columns with one entry per point."""

    object: Literal["handwriting", "handwriting.chunk"]
    model: str
    system_fingerprint: str
    seed: int | None = None
    style: str | None = Field(None, description="The hand, where the model has several.")
    start: int = Field(description="Index of the first point given here.")
    x: list[float] = Field(description="In mm.")
    y: list[float] = Field(description="In mm, growing downwards; pages lie below each other.")
    t: list[float] = Field(description="In seconds.")
    pen: list[int] = Field(description="1 where the pen lifts after the point.")
    character: list[int] | None = Field(
        None, description="Of a text: index of the character that the point belongs to, in code points."
    )
    word: list[int] | None = Field(None, description="Of a text: index of the word.")
    line: list[int] = Field(description="Index of the line on the sheet.")
    z: list[list[int]] = Field(description="For each layer with a detector, from layer 1 up, 0 or 1 per point.")
    op: list[str] = Field(description="For each layer a string with a letter per point: U, C or F.")
    segment: list[list[int]] = Field(description="For each layer with a detector, the segment a point lies in.")
    state: str | None = Field(
        None, description="With return_state: the token to continue from; in a stream, at the end."
    )
    finish_reason: Literal["stop", "length"] | None
    pages: list[PageBox] | None = Field(None, description="On the last event: pages of paper, or the box of the ink.")
    substituted: list[Substituted] | None = Field(None, description="On the last event of a text.")
    lines: list[LineReport] | None = Field(None, description="On the last event of a text that a network wrote.")
    usage: InkUsage | Drawn | None = None


class StyleCard(BaseModel):
    """A hand."""

    id: str
    object: Literal["handwriting.style"]
    model: str
    description: str
    joined: bool = Field(description="Whether letters are joined.")
    licence: str
    use: str = Field(description="What its handwriting may be used for.")
    preview: str = Field(description="An SVG.")


class StyleList(BaseModel):
    """All hands."""

    object: Literal["list"]
    data: list[StyleCard]
