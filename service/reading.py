"""The endpoint that reads what is there already, a text or ink, and tells its segments."""

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field, field_validator
from starlette.responses import Response

from service.description import PROBLEMS
from service.engine.sequences.free_ink import InkParams
from service.engine.sequences.text import TextParams
from service.errors import InvalidRequestError
from service.ink.schemas import GivenInk, offsets_of, read_ink
from service.replies import SegmentReply
from service.requests import StrictRequest, at_most
from service.routes import Here, Service, submit
from service.schemas import InkSegmentation, TextSegmentation
from service.streaming import WholeReply

router = APIRouter()


class SegmentRequest(StrictRequest):
    """Text or ink to read and cut into segments."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["text"], "properties": {"text": {"type": "string"}, "ink": {"type": "null"}}},
                {
                    "required": ["ink"],
                    "properties": {"ink": {"type": ["object", "string"]}, "text": {"type": "null"}},
                },
            ],
            "examples": [
                {"model": "prose", "text": "It was a dark and stormy night."},
                {
                    "ink": {
                        "x": [0, 4, 8, 9, 6, 3, 7, 11, 14, 16, 18, 20],
                        "y": [9, 2, 1, 5, 9, 10, 9, 4, 1, 0, 5, 9],
                        "pen": [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1],
                    }
                },
            ],
        }
    )

    model: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="Who reads; may be left out where one bundle writes text, and for ink is the first that does."
    )
    text: str | None = Field(
        None,
        description="A text, in any script; it is read from a fresh state. Either this or ink.",
        json_schema_extra={"minLength": 1},
    )
    ink: GivenInk | None = Field(
        None,
        description="Ink, as columns or as InkML, y downwards, in any unit. It is brought to the size and to the even "
        "spacing of points that the network knows, and read from a fresh state.",
    )

    @field_validator("text")
    @classmethod
    def _is_not_empty(cls, text: str | None) -> str | None:
        """Checked here, as pydantic's own check refuses half a character, which is read as an unknown one."""
        if text == "":
            raise ValueError("must have at least 1 character")
        return text


@router.post(
    "/v1/segment",
    summary="Find the boundaries of a text or of ink",
    response_model=TextSegmentation | InkSegmentation,
    responses=PROBLEMS,
)
async def segment(body: SegmentRequest, request: Request, here: Here) -> Response:
    """Read what is given and tell what each layer did at each step, and the segments within segments that it found."""
    if body.text is not None and body.ink is None:
        return await _text(body.text, body.model, request, here)
    if body.ink is not None and body.text is None:
        return await _ink(body.ink, body.model, request, here)
    raise InvalidRequestError("text: either this or ink is required, and not both.", "text")


async def _text(text: str, name: str | None, request: Request, here: Service) -> Response:
    """Read a text."""
    model = here.registry.text(name)
    at_most("text", len(text), here.settings.max_prompt_chars, " characters")
    params = TextParams(seed=0, max_tokens=0)
    sequences = model.sequences([text], params, 1, boundaries=False, whole=True, param="text")
    await here.rates.charge(request, sequences[0].num_prompt)
    choices, headers = submit(here, model, sequences)
    return WholeReply(choices, SegmentReply.of_text(model, text), headers)


async def _ink(ink: GivenInk, name: str | None, request: Request, here: Service) -> Response:
    """Read ink."""
    model = here.registry.ink(name)
    reading = await to_thread.run_sync(read_ink, ink, "ink", model.codec, here.settings)
    sequence = model.sequence(InkParams(seed=0, max_points=0), whole=True, prime=offsets_of(reading))
    await here.rates.charge(request, sequence.num_prompt)
    choices, headers = submit(here, model, [sequence])
    return WholeReply(choices, SegmentReply.of_ink(model, reading), headers)
