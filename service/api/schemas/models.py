"""Replies, as they are documented."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from model.codec import Unknown
from service.api.schemas.completions import SYMBOL
from service.api.schemas.fields import WHOLE, StrictRequest


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


_ONLY_ONE = "Name of a text bundle; may be left out where there is but one."


class TokenizeRequest(StrictRequest):
    """Text to turn into ids."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "prose", "prompt": "It was a dark "}]})

    model: Annotated[str, Field(max_length=64)] | None = Field(None, description=_ONLY_ONE)
    prompt: str = Field(description="The text, as long as a body may be.")
    add_special_tokens: bool = Field(False, description="Accepted; there are no special symbols to add.")


class DetokenizeRequest(StrictRequest):
    """Ids to turn into text."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "prose", "tokens": [3, 1, 4, 1, 5]}]})

    model: Annotated[str, Field(max_length=64)] | None = Field(None, description=_ONLY_ONE)
    tokens: list[Annotated[int, WHOLE, WithJsonSchema(SYMBOL)]] = Field(
        description="The ids, as many as a body may hold."
    )
