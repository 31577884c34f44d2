"""`POST /v1/segment`: reads a text or ink and returns its segments."""

from anyio import to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.deps import Here, Service, submit
from service.api.openapi import PROBLEMS
from service.api.responses.choices import ChoicesReply
from service.api.responses.segments import SegmentRenderer
from service.api.responses.sse import WholeReply
from service.api.schemas.completions import at_most
from service.api.schemas.handwriting import GivenInk, offsets_of, read_ink
from service.api.schemas.segments import InkSegmentation, SegmentRequest, TextSegmentation
from service.engine.sequences.free_ink import InkParams
from service.engine.sequences.text import TextParams
from service.errors import InvalidRequestError

router = APIRouter()


@router.post(
    "/v1/segment",
    summary="Find the boundaries of a text or of ink",
    response_model=TextSegmentation | InkSegmentation,
    responses=PROBLEMS,
)
async def segment(body: SegmentRequest, request: Request, here: Here) -> Response:
    """Read a text or ink; return what each layer did at each step, and the segments within segments that it found."""
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
    return WholeReply(ChoicesReply(choices, SegmentRenderer.of_text(model, text)), headers)


async def _ink(ink: GivenInk, name: str | None, request: Request, here: Service) -> Response:
    """Read ink."""
    model = here.registry.ink(name)
    primed = await to_thread.run_sync(read_ink, ink, "ink", model.codec, here.settings)
    sequence = model.sequence(InkParams(seed=0, max_points=0), whole=True, prime=offsets_of(primed))
    await here.rates.charge(request, sequence.num_prompt)
    choices, headers = submit(here, model, [sequence])
    return WholeReply(ChoicesReply(choices, SegmentRenderer.of_ink(model, primed)), headers)
