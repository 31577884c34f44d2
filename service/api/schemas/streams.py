from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.completions import CompletionRequest
from service.api.schemas.fields import StrictRequest
from service.api.schemas.handwriting import HandwritingRequest


class StreamRequest(StrictRequest):
    """A request whose reply is to be read as a stream at a URL of its own."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"type": "object"}}} for name in ("completion", "handwriting")
            ],
            "examples": [
                {"completion": {"model": "prose", "prompt": "It was a dark ", "max_tokens": 80}},
                {"handwriting": {"text": "Dear Ada, it works."}},
            ],
        }
    )

    completion: CompletionRequest | None = Field(None, description="As for /v1/completions, with one choice.")
    handwriting: HandwritingRequest | None = Field(None, description="As for /v1/handwriting, with the format strokes.")


class StreamReply(BaseModel):
    """Where to read a stream."""

    object: Literal["stream"]
    url: str = Field(description="For EventSource. Whoever has it can read the stream: it is a secret.")
    seed: int = Field(description="The seed that is used.")
