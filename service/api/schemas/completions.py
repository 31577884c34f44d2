"""Completions: requests, as they are checked and documented, and replies.

Types are strict: true is not a number, and neither is "16". An unknown field is refused, never ignored; one that
OpenAI's clients send by habit is accepted at the value that changes nothing. Limits from the settings are checked by
`check_limits` and written into the OpenAPI description by `openapi.describe`; the others stand here.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from service.api.schemas.fields import WHOLE, ResumeAt, ReturnState, Seed, StateToken, StrictRequest, Work, whole_number
from service.errors import InvalidRequestError
from service.settings import Settings

MAX_STOPS = 4
MAX_STOP_CHARS = 64
MAX_BIAS = 5.0
MAX_LOGPROBS = 5
MAX_LOGIT_BIASES = 1024
MAX_LOGIT_BIAS = 100
MAX_PENALTY = 2
SEED_NEEDED = "resume_at: needs the seed of the stream that was cut, which its header x-seed gave."
# Fields OpenAI's clients send by habit, with the one value that changes nothing. Any other is refused.
_HABITS: dict[str, Any] = {
    "include_obfuscation": False,
    "suffix": None,
}


def _habit(name: str) -> Any:
    """A field that is accepted at its neutral value, or null, and only there."""
    value = _HABITS[name]
    return Field(None, description=f"Accepted at {_json(value)}.", json_schema_extra={"enum": [value]})


def _changes_nothing(value: Any, info: ValidationInfo) -> Any:
    """Refuse any but the neutral value; True is not 1 here."""
    neutral = _HABITS[str(info.field_name)]
    if value != neutral or isinstance(value, bool) != isinstance(neutral, bool):
        raise ValueError(f"only {_json(neutral)} is supported")
    return value


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _listed(value: Any) -> Any:
    """One stop string is a list of one."""
    return [value] if isinstance(value, str) else value


_STOP_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS}
Stop = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]],
    Field(max_length=MAX_STOPS),
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [_STOP_SCHEMA, {"type": "array", "items": _STOP_SCHEMA, "maxItems": MAX_STOPS}]}),
]


SYMBOL_FORMAT = "symbol-id"  # so that a description can say how many symbols the bundles know
SYMBOL = {"type": "integer", "minimum": 0, "format": SYMBOL_FORMAT}


def _prompts(value: Any) -> list[Any]:
    """One prompt, a text or a list of ids, is a list of one."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(each, str) for each in value):
            return value
        several = [_ids(value)] if _ids(value) else [_ids(each) for each in value]
        if all(several):
            return several
    raise ValueError("must be a text, a list of texts, a list of symbol ids or a list of such lists, and no empty list")


def _ids(value: Any) -> list[int] | None:
    """A list of ids, if that is what it is."""
    ids = [whole_number(each) for each in value] if isinstance(value, list) else []
    return ids if ids and all(type(each) is int for each in ids) else None


def _prompt_schema(max_chars: int | None = None, max_choices: int | None = None) -> dict[str, Any]:
    """JSON schema of a prompt, with the limits of the settings once they are known."""
    text: dict[str, Any] = {"type": "string"} | _bound("maxLength", max_chars)
    ids = {"type": "array", "items": {**SYMBOL}, "minItems": 1} | _bound("maxItems", max_chars)
    several = {"type": "array", "minItems": 1} | _bound("maxItems", max_choices)
    return {"anyOf": [text, ids, several | {"items": text}, several | {"items": ids}]}


def _bound(keyword: str, limit: int | None) -> dict[str, int]:
    return {} if limit is None else {keyword: limit}


Prompts = Annotated[list[str | list[int]], BeforeValidator(_prompts), WithJsonSchema(_prompt_schema())]
_ID = r"^(0|[1-9][0-9]{0,8})$"
LogitBias = Annotated[
    dict[Annotated[str, Field(pattern=_ID)], Annotated[float, Field(ge=-MAX_LOGIT_BIAS, le=MAX_LOGIT_BIAS)]],
    Field(max_length=MAX_LOGIT_BIASES),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": _ID},
            "additionalProperties": {"type": "number", "minimum": -MAX_LOGIT_BIAS, "maximum": MAX_LOGIT_BIAS},
            "maxProperties": MAX_LOGIT_BIASES,
        }
    ),
]


class StreamOptions(StrictRequest):
    """Options of a streamed completion."""

    include_usage: bool = Field(False, description="Send usage in one more event, with no choices.")
    include_obfuscation: Any = _habit("include_obfuscation")

    _checks = field_validator("include_obfuscation")(_changes_nothing)


class CompletionRequest(StrictRequest):
    """A text to continue, and how."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "prose", "prompt": "It was a dark ", "max_tokens": 80, "temperature": 0.7, "seed": 1},
                {"model": "prose", "prompt": "Chapter 1", "max_tokens": 200, "stream": True, "boundaries": True},
                {"model": "prose", "prompt": ["Once", "Twice"], "n": 2, "max_tokens": 40, "logprobs": 2},
                {"model": "prose", "prompt": "How likely is this?", "echo": True, "max_tokens": 0, "logprobs": 0},
            ]
        }
    )

    model: str = Field(max_length=64, description="Name of a text bundle; GET /v1/models lists them.")
    prompt: Prompts = Field(
        description="Text to continue, or its symbols' ids, or a list of either; an empty text is continued as a new "
        "line would be. With a state it comes after what was written, and may be left out."
    )
    max_tokens: Annotated[int, WHOLE] = Field(
        16, ge=0, description="Symbols to write at most, for each choice; 0 only with echo."
    )
    temperature: float = Field(1.0, ge=0, le=2, description="0 takes the likeliest symbol always.")
    top_p: float = Field(1.0, ge=0, le=1, description="Draw from the smallest set that holds this share.")
    top_k: Annotated[int, WHOLE] = Field(
        0, ge=0, le=65_536, description="Draw from so many likeliest symbols; 0 is all."
    )
    seed: Seed | None = Field(None, description="The same seed gives the same text; without one, one is made up.")
    n: Annotated[int, WHOLE] = Field(
        1, ge=1, description="Choices of each prompt; those of the second follow those of the first."
    )
    best_of: Annotated[int, Field(ge=1), WHOLE] | None = Field(None, description="Accepted at the value of n.")
    stop: Stop = Field([], description="Up to four strings that end the text and are left out of it.")
    echo: bool = Field(False, description="Return the prompt before the text, as the network reads it.")
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), WHOLE] | None = Field(
        None,
        description="Return how likely each symbol was, and so many of the likeliest: natural logarithms of what the "
        "network itself expects, before bias, penalties and temperature.",
    )
    logit_bias: LogitBias = Field({}, description="What is added to the logits of symbols, by id.")
    presence_penalty: float = Field(
        0, ge=-MAX_PENALTY, le=MAX_PENALTY, description="Taken from the logits of symbols that were drawn before."
    )
    frequency_penalty: float = Field(
        0, ge=-MAX_PENALTY, le=MAX_PENALTY, description="Taken from them for each time that they were drawn before."
    )
    stream: bool = Field(False, description="Send events as characters come.")
    stream_options: StreamOptions | None = Field(None, description="Only with stream.")
    boundaries: bool = Field(False, description="Return z and the operation of each layer at each character.")
    state: StateToken = None
    return_state: ReturnState = False
    resume_at: ResumeAt = 0
    suffix: Any = _habit("suffix")
    user: Annotated[str, Field(max_length=256)] | None = Field(None, description="Accepted, not used, not logged.")

    _checks = field_validator("suffix")(_changes_nothing)

    @model_validator(mode="before")
    @classmethod
    def _state_needs_no_prompt(cls, values: Any) -> Any:
        """A state without a prompt is continued from where it is."""
        if isinstance(values, dict) and values.get("state") is not None and values.get("prompt") is None:
            return values | {"prompt": ""}
        return values

    def most_tokens(self, settings: Settings) -> int:
        """Return max_tokens; its default is lowered to the limit of the settings."""
        return min(self.max_tokens, settings.max_tokens)

    @property
    def num_choices(self) -> int:
        """Choices of all prompts together."""
        return len(self.prompt) * self.n


def check_limits(request: CompletionRequest, settings: Settings) -> None:
    """Check what depends on the settings, or on two fields at once.

    Raises:
        InvalidRequestError: names the field and the limit.
    """
    hint = "; a longer one is read in pieces, each from the state that the one before returned"
    at_most("prompt", sum(map(len, request.prompt)), settings.max_prompt_chars, " characters", hint)
    if "max_tokens" in request.model_fields_set:
        at_most("max_tokens", request.max_tokens, settings.max_tokens)
    max_tokens = request.most_tokens(settings)
    blamed = "n" if request.n > 1 else "prompt"
    at_most(blamed, request.num_choices, _max_choices(settings), " choices, prompts times n,")
    most = max(settings.max_total_tokens, settings.max_tokens)
    at_most("max_tokens", request.num_choices * max_tokens, most, " symbols, choices times max_tokens,")
    if request.best_of not in (None, request.n):
        raise InvalidRequestError("best_of: only the value of n is supported.", "best_of")
    if not request.max_tokens and not request.echo:
        raise InvalidRequestError("max_tokens: 0 is only allowed with echo.", "max_tokens")
    if request.resume_at and request.num_choices > 1:
        raise InvalidRequestError("resume_at: only for one choice.", "resume_at")
    if request.stream_options and not request.stream:
        raise InvalidRequestError("stream_options: only allowed when stream is true.", "stream_options")


def at_most(field: str, value: int, limit: int, unit: str = "", hint: str = "") -> None:
    """Refuse a value that is beyond a limit.

    Raises:
        InvalidRequestError: names the field and the limit.
    """
    if value > limit:
        raise InvalidRequestError(f"{field}: at most {limit}{unit} are served here{hint}.", field)


def _max_choices(settings: Settings) -> int:
    """More choices than rows and queue together hold would never find a place."""
    return min(settings.max_choices, settings.rows + settings.queue)


def configured_limits(settings: Settings) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Return the limits of `check_limits` as additions to the JSON schemas: schema name, field, keyword."""
    max_choices = {"maximum": _max_choices(settings)}
    return {
        "CompletionRequest": {
            "prompt": _prompt_schema(settings.max_prompt_chars, max_choices["maximum"]),
            "max_tokens": lowered(CompletionRequest, "max_tokens", settings.max_tokens),
            "n": max_choices,
            "best_of": max_choices,
        },
        "SegmentRequest": {"text": {"maxLength": settings.max_prompt_chars}},
    }


def lowered(request: type[BaseModel], field: str, limit: int) -> dict[str, Any]:
    """Return what a limit adds to the JSON schema of a field: itself, and the default where that would exceed it."""
    default = request.model_fields[field].default
    return {"maximum": limit} | ({"default": limit} if default > limit else {})


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
    state: str | None = Field(
        None, description="With return_state: the token to continue from; in a stream, at the end."
    )


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
