from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

MAX_SEED = 2**63 - 1
MAX_RESUME = 10_000_000
MAX_STATE_CHARS = 2**20


def whole_number(value: Any) -> Any:
    """Return 1.0 as 1, which is the same number in JSON; anything else is returned as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(whole_number)  # after the bounds, which otherwise do not reach the JSON schema


StateToken = Annotated[
    Annotated[str, Field(max_length=MAX_STATE_CHARS)] | None,
    Field(
        description="A state token of an earlier reply: continue exactly from there, with its seed if none is given. "
        "Send the same parameters to get what one longer request would have given."
    ),
]


ReturnState = Annotated[
    bool,
    Field(
        description="End the reply with a state token. What may begin a stop string is then kept back at the end, and "
        "so are bytes of a character that is not complete; the reply that continues it sends them first."
    ),
]


ResumeAt = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_RESUME,
        description="Repeat a request whose reply was cut, with its seed and the number of characters (code points) or "
        "points that came: they are not sent again.",
    ),
    WHOLE,
]


Seed = Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED), WHOLE]


class StrictRequest(BaseModel):
    """A request: nothing is coerced, nothing unknown is let through."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        """OpenAI's clients may send null for whatever they leave to the server."""
        if not isinstance(values, dict):
            return values
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in values.items() if value is not None or name not in optional}


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
