"""Replies, as they are documented."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from model.codec import Unknown


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str = Field(description="One sentence; names the field and the limit where there is one.")
    type: str = Field(description="Kind of error.")
    param: str | None = Field(description="The field it is about.")
    code: str | None = Field(description="A word for programs.")


class ErrorReply(BaseModel):
    """OpenAI's error object."""

    error: ErrorBody


class Operations(BaseModel):
    """At how many steps each layer, from layer 1 up, did what."""

    U: list[int] = Field(description="UPDATE: computed, as the layer below fired.")
    C: list[int] = Field(description="COPY: not computed.")
    F: list[int] = Field(description="FLUSH: computed afresh, as it had fired itself at the step before.")


class Work(BaseModel):
    """What the network did for a request."""

    steps: int = Field(description="Steps of the network that were run for this request.")
    layer_updates: list[int] = Field(description="At how many of them each layer was computed; at the others it COPYs.")
    operations: Operations
    work_spared: float = Field(
        description="Share of the multiplications in the cells, 0 to 1, that a dense network would need and these "
        "steps did not."
    )


class Usage(Work):
    """What a completion took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Logprobs(BaseModel):
    """How likely the symbols of a text were, as columns with one entry per symbol."""

    tokens: list[str] = Field(description="The symbols: characters, or as bytes:\\xe6 a byte that is none by itself.")
    token_logprobs: list[float | None] = Field(description="In nats; null for the first symbol of an echo.")
    top_logprobs: list[dict[str, float] | None] = Field(
        description="The likeliest symbols and the symbol itself; null for the first symbol of an echo."
    )
    text_offset: list[int] = Field(description="Where in the choice's text a symbol's character begins.")


class Choice(BaseModel):
    """A text, or in an event a piece of one."""

    index: int = Field(description="Counts through the choices of the first prompt, then of the second, and so on.")
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None
    z: list[list[int]] | None = Field(
        None,
        description="With boundaries: for each layer but the top, from layer 1 up, 0 or 1 per character of text (per "
        "code point), found on reading that character.",
    )
    op: list[str] | None = Field(
        None, description="With boundaries: for each layer a string with a letter per character: U, C or F."
    )
    state: str | None = Field(None, description="With return_state: the token to go on with; in a stream, at the end.")


class CompletionReply(BaseModel):
    """A completion, or an event of one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    seed: int | None = Field(None, description="The seed that was used; in a stream, on the last event of a choice.")
    choices: list[Choice]
    usage: Usage | None = None


class Tokens(BaseModel):
    """A text as ids."""

    model: str
    count: int
    tokens: list[int]


class Text(BaseModel):
    """Ids as text."""

    model: str
    prompt: str = Field(description="The text; bytes that form no character are U+FFFD.")


class TokenizerInfo(BaseModel):
    """The symbols of a text bundle."""

    model: str
    tokenizer_class: Literal["TextCodec"]
    bos_token: str = Field(description="What is read in place of an empty prompt.")
    eos_token: None = Field(description="There is none: a text ends at a stop string or at max_tokens.")
    pad_token: None
    unknown: Unknown = Field(description="What becomes of other characters: U+FFFD, their UTF-8 bytes, or a refusal.")
    vocabulary: list[str] = Field(description="Each symbol at the index that is its id.")


class _Segment(BaseModel):
    """A stretch that ends where its layer fired; end is the first place after it."""

    layer: int = Field(description="The layer that fires at its end, from 1; the top one never does.")


class TextSegment(_Segment):
    """A stretch of text that ends where its layer fired; end is the first place after it."""

    start: int = Field(description="In characters (code points); one that a boundary cuts belongs to what follows.")
    end: int
    utf8_start: int = Field(description="In bytes of the text's UTF-8.")
    utf8_end: int
    complete: bool = Field(description="Whether its layer has fired; only what the text ends in may lack that.")
    segments: "list[TextSegment] | None" = Field(None, description="Those of the layer below, if that is one.")


class InkSegment(_Segment):
    """A stretch of ink that ends where its layer fired; end is the first place after it."""

    start: int = Field(description="In the points that were given.")
    end: int
    step_start: int = Field(description="In steps, which read a point of the columns each.")
    step_end: int
    complete: bool = Field(description="Whether its layer has fired; only what the ink ends in may lack that.")
    segments: "list[InkSegment] | None" = Field(None, description="Those of the layer below, if that is one.")


class _Segmentation(BaseModel):
    """The boundaries of what was read, as columns with one entry per step, and as a tree."""

    object: Literal["segmentation"]
    model: str
    system_fingerprint: str
    z: list[list[int]] = Field(description="For each layer but the top, from layer 1 up, 0 or 1 per step.")
    op: list[str] = Field(description="For each layer a string with a letter per step: U, C or F.")
    usage: Work


class TextSegmentation(_Segmentation):
    """The boundaries of a text, as columns with one entry per step, and as a tree."""

    char: list[int] = Field(description="Index of the character that a step reads; one of several bytes has several.")
    tree: TextSegment = Field(description="The whole text, as the one segment of the top layer.")


class InkSegmentation(_Segmentation):
    """The boundaries of ink, as columns with one entry per step, and as a tree."""

    point: list[int] = Field(description="Index of the given point that a step has come to.")
    x: list[float] = Field(description="The points that the network reads, in the unit of the ink: evenly spaced.")
    y: list[float]
    pen: list[int] = Field(description="1 where the pen lifts after the point.")
    tree: InkSegment = Field(description="All of the ink, as the one segment of the top layer.")


class ModelCard(BaseModel):
    """A bundle and its facts."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: Literal["text", "ink"]
    description: str
    fingerprint: str
    layers: list[int] = Field(description="Units of each layer, from layer 1 up.")
    parameters: int
    vocabulary: int | None = Field(description="Symbols of a text bundle.")
    data: dict[str, Any] = Field(description="Data set, its licence, and what the weights may be used for.")
    training: dict[str, Any]
    metrics: dict[str, Any] = Field(description="Figures of these very files.")


class ModelList(BaseModel):
    """All bundles served."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(BaseModel):
    """Whether the service lives, or is ready, with the engine's gauges."""

    status: str
    running: int = Field(description="Sequences that own a row.")
    waiting: int = Field(description="Sequences that wait for one.")
    steps: int = Field(description="Rounds of the engine.")
    row_steps: int = Field(description="Rows stepped, summed over all rounds.")
    finished: int
    cancelled: int
    cancel_steps_max: int = Field(description="Most rounds from a client's leaving to its row being free.")
    failures: int
