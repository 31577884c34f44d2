"""`POST /v1/handwriting` and the hands: check, write, send."""

from dataclasses import replace

from anyio import to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response
from structlog.contextvars import bind_contextvars

from service.api.deps import SEED_HEADER, Here, Service, submit, tenant_of
from service.api.openapi import HANDWRITING_EVENTS, PROBLEMS
from service.api.responses.choices import StreamedReply
from service.api.responses.free_ink import FreeInkRenderer
from service.api.responses.sse import EventStream, WholeReply
from service.api.responses.styles import copybook_cards
from service.api.responses.written_text import Author, CopybookReply, NetworkReply, TextRenderer, ThreadedReply
from service.api.resume import Resumption
from service.api.schemas.handwriting import HandwritingReply, HandwritingRequest, StyleList
from service.engine.sampling import fresh_seed
from service.engine.sequences.free_ink import InkParams
from service.errors import InvalidRequestError, QueueFullError
from service.handwriting.candidates import CandidateWriter, WritingParams
from service.handwriting.copybook import writer as copybook
from service.handwriting.drawing import formats
from service.registry.served import InkModel, LineModel
from service.settings import Settings

router = APIRouter()


@router.post(
    "/v1/handwriting",
    summary="Write with a pen",
    response_model=HandwritingReply,
    responses={
        **PROBLEMS,
        200: {
            "description": "The drawing, or events.",
            "content": {
                **HANDWRITING_EVENTS,
                **{
                    kind.partition(";")[0]: {"schema": {"type": "string"}}
                    for kind in sorted(set(formats.MEDIA_TYPES.values()) - {"application/json"})
                },
            },
        },
    },
)
async def handwriting(body: HandwritingRequest, request: Request, here: Here) -> Response:
    """Write a text, or freely, point by point; each point says what it belongs to."""
    return await follow_handwriting(body, request, here)


async def follow_handwriting(
    body: HandwritingRequest, request: Request, here: Service, *, has_ids: bool = False
) -> Response:
    """Return the response that writes what is asked for.

    Args:
        body: what is asked for.
        request: carries it; its tenant owns the state tokens.
        here: the service's parts.
        has_ids: whether events say their position, so that a browser can resume.
    """
    body.check(here.settings)
    if body.text is None:
        return await _write_freely(body, request, here, has_ids=has_ids)
    model = _network_for(body, here)
    if model is not None:
        return await _write_by_network(model, body, request, here, has_ids=has_ids)
    if body.prime is not None:
        raise InvalidRequestError("prime: only for networks; the copybook has hands of its own.", "prime")
    if body.candidates is not None:
        raise InvalidRequestError("candidates: only for networks; the copybook writes a text once.", "candidates")
    return await _write_by_copybook(body, request, here, has_ids=has_ids)


def _network_for(body: HandwritingRequest, here: Service) -> LineModel | None:
    """Return the bundle that writes a text: by its name, or by that of one of its hands; None for the copybook."""
    if body.model is not None:
        return None if body.model == copybook.NAME else here.registry.lines(body.model)
    is_copybooks = body.style is None or body.style in copybook.STYLES
    return None if is_copybooks or body.style is None else here.registry.writer_of(body.style)


@router.get("/v1/handwriting/styles", summary="The hands there are")
async def styles(here: Here) -> StyleList:
    """Return every hand with a sample of its writing, the copybook's first."""
    cards = await to_thread.run_sync(copybook_cards)
    return StyleList(object="list", data=[*cards, *await here.samples.cards()])


async def _write_freely(body: HandwritingRequest, request: Request, here: Service, *, has_ids: bool) -> Response:
    """Have an ink bundle write without a text."""
    if body.model == copybook.NAME:
        raise InvalidRequestError("text: the copybook needs one; ink bundles write freely.", "text")
    model: InkModel = here.registry.ink(body.model)
    prime = await to_thread.run_sync(body.read_first, model.codec, here.settings)
    resumption = Resumption.of(body, here.keeper(model), tenant_of(request))
    params = InkParams(resumption.seed, body.most_points(here.settings), body.bias)
    renderer = FreeInkRenderer(model, params, body, resumption)
    sequence = model.sequence(params, whole=not body.stream, prime=prime, part=resumption.part)
    await here.rates.charge(request, len(prime) + params.max_points)
    choices, headers = submit(here, model, [sequence])
    reply = StreamedReply(choices, renderer, position=body.resume_at, in_thread=True)
    if body.stream:
        return EventStream(reply, here.settings.heartbeat_s, headers, has_ids=has_ids)
    return WholeReply(reply, headers)


async def _write_by_copybook(body: HandwritingRequest, request: Request, here: Service, *, has_ids: bool) -> Response:
    """Have the copybook write a text.

    Raises:
        InvalidRequestError: there is no such hand, or the text cannot be written as asked.
        QueueFullError: as many requests wait for the copybook as may.
    """
    bind_contextvars(model=copybook.NAME)
    if here.drawing.statistics().tasks_waiting >= here.settings.queue:
        raise QueueFullError(f"{here.settings.queue} requests wait for the copybook already, as many as may.")
    await here.rates.charge(request, len(body.text or ""))
    seed = fresh_seed() if body.seed is None else body.seed
    text = await to_thread.run_sync(CopybookReply, body, seed, here.settings.max_pages, limiter=here.drawing)
    reply = ThreadedReply(text, here.drawing)
    headers = {SEED_HEADER: str(seed), **text.headers}
    if body.stream:
        return EventStream(reply, here.settings.heartbeat_s, headers, has_ids=has_ids)
    return WholeReply(reply, headers)


async def _write_by_network(
    model: LineModel, body: HandwritingRequest, request: Request, here: Service, *, has_ids: bool
) -> Response:
    """Have a network write a text.

    Raises:
        InvalidRequestError: there is no such hand, or the text cannot be written as asked.
        QueueFullError: as many requests wait for this model as may.
    """
    text = body.text or ""
    params = await _writing_params(model, body, here.settings)
    lines = params.writer(text, body.wobble, skips_unsupported=body.unsupported == "skip")
    about = {"model": model.name, "system_fingerprint": model.fingerprint, "style": params.hand.name}
    author = Author(about, model.hierarchy)
    renderer = await to_thread.run_sync(TextRenderer, body, params.seed, here.settings.max_pages, lines, author)
    await here.rates.charge(request, len(text) * params.candidates)
    is_live = body.stream and params.candidates == 1 and body.align == "left"
    writer = CandidateWriter(here.engine, params, lines, renderer.sheet, here.primed)
    writer.begin(is_live=is_live)
    reply = NetworkReply(renderer, writer, is_live=is_live)
    headers = {SEED_HEADER: str(params.seed), **renderer.headers}
    if body.stream:
        return EventStream(reply, here.settings.heartbeat_s, headers, has_ids=has_ids)
    return WholeReply(reply, headers)


async def _writing_params(model: LineModel, body: HandwritingRequest, settings: Settings) -> WritingParams:
    """Return how a network writes what a request asks for.

    Raises:
        InvalidRequestError: there is no such hand, or the prime cannot be read.
    """
    name = body.style or next(iter(model.hands))
    if name not in model.hands:
        raise InvalidRequestError(
            f"style: {model.name} has none of this name; it has: {', '.join(model.hands)}.", "style"
        )
    seed = fresh_seed() if body.seed is None else body.seed
    params = WritingParams(model, model.hands[name], seed, body.bias, body.num_candidates)
    if body.prime is None or body.prime_text is None:
        return params
    prime = await to_thread.run_sync(body.read_first, model.codec.ink, settings)
    unknown = model.codec.unsupported(body.prime_text)
    if unknown:
        raise InvalidRequestError(f"prime_text: this model does not know U+{ord(unknown[0]):04X}.", "prime_text")
    return replace(params, prime=prime, prime_text=body.prime_text.strip() + " ")
