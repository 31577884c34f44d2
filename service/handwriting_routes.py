"""The endpoints for handwriting: check, write, follow."""

from collections.abc import AsyncIterator

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse
from structlog.contextvars import bind_contextvars

from service.course import Course
from service.description import HANDWRITING_EVENTS, PROBLEMS
from service.engine.sampling import fresh_seed
from service.engine.sequences.base import Delta, End
from service.engine.sequences.free_ink import InkParams
from service.errors import EngineFailureError, InvalidRequestError, QueueFullError
from service.handwriting.copybook import writer as copybook
from service.handwriting.drawing import formats
from service.ink.reply import FreeReply, TextReply
from service.ink.schemas import HandwritingReply, HandwritingRequest, StyleList
from service.ink.styles import all_styles
from service.registry.served import InkModel, LineModel
from service.routes import SEED_HEADER, Here, Service, submit, tenant_of
from service.streaming import DONE, EVENT_STREAM, EventIds, EventStream, WholeReply
from service.writing_reply import follow_writing, network_styles

_log = structlog.get_logger(__name__)

_THREADS = 2  # that draw at a time: the engine's thread must not wait for the interpreter

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
    body: HandwritingRequest, request: Request, here: Service, ids: EventIds | None = None
) -> Response:
    """Return the response that writes what is asked for.

    Args:
        body: what is asked for.
        request: that asks; its tenant owns the state tokens.
        here: what there is to work with.
        ids: of the events, if they have any.
    """
    body.check(here.settings)
    if body.text is None:
        return await _free(body, request, here, ids)
    model = _network_for(body, here)
    if model is not None:
        return await follow_writing(model, body, request, here, ids)
    if body.prime is not None:
        raise InvalidRequestError("prime: only for networks; the copybook has hands of its own.", "prime")
    if body.candidates is not None:
        raise InvalidRequestError("candidates: only for networks; the copybook writes a text once.", "candidates")
    return await _text(body, request, here, ids)


def _network_for(body: HandwritingRequest, here: Service) -> LineModel | None:
    """Return the bundle that writes a text: by its name, or by that of one of its hands; None for the copybook."""
    if body.model is not None:
        return None if body.model == copybook.NAME else here.registry.lines(body.model)
    is_copybooks = body.style is None or body.style in copybook.STYLES
    return None if is_copybooks or body.style is None else here.registry.writer_of(body.style)


@router.get("/v1/handwriting/styles", summary="The hands there are")
async def styles(here: Here) -> StyleList:
    """Return every hand with a sample of its writing, the copybook's first."""
    found = await to_thread.run_sync(all_styles)
    return StyleList(object="list", data=[*found.data, *await network_styles(here)])


async def _free(body: HandwritingRequest, request: Request, here: Service, ids: EventIds | None) -> Response:
    """Let an ink bundle write on its own."""
    if body.model == copybook.NAME:
        raise InvalidRequestError("text: the copybook needs one; ink bundles write freely.", "text")
    model: InkModel = here.registry.ink(body.model)
    prime = await to_thread.run_sync(body.read_first, model.codec, here.settings)
    course = Course.of(body, here.keeper(model), tenant_of(request))
    params = InkParams(course.seed, body.most_points(here.settings), body.bias)
    reply = FreeReply(model, params, body, course)
    sequence = model.sequence(params, whole=not body.stream, prime=prime, part=course.part)
    await here.rates.charge(request, len(prime) + params.max_points)
    choices, headers = submit(here, model, [sequence])
    if body.stream:
        return EventStream(choices, reply, here.settings.heartbeat_s, headers, ids)
    return _DrawnReply(choices, reply, headers)


class _DrawnReply(WholeReply):
    """A whole reply that is drawn beside the event loop."""

    async def _render(self, delta: Delta, end: End) -> bytes | None:
        return await to_thread.run_sync(self._reply.whole, delta, end)


async def _text(body: HandwritingRequest, request: Request, here: Service, ids: EventIds | None) -> Response:
    """Let the copybook write a text."""
    bind_contextvars(model=copybook.NAME)
    limiter = _limiter(request)
    if limiter.statistics().tasks_waiting >= here.settings.queue:
        raise QueueFullError(f"{here.settings.queue} requests wait for the copybook already, as many as may.")
    await here.rates.charge(request, len(body.text or ""))
    seed = fresh_seed() if body.seed is None else body.seed
    reply = await to_thread.run_sync(TextReply, body, seed, here.settings.max_pages, limiter=limiter)
    headers = {SEED_HEADER: str(seed), **reply.headers}
    if body.stream:
        no_store = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(_frames(reply, limiter, ids), headers=headers | no_store, media_type=EVENT_STREAM)
    content = await to_thread.run_sync(reply.whole, limiter=limiter)
    return Response(content, headers=headers, media_type=reply.media_type)


async def _frames(reply: TextReply, limiter: CapacityLimiter, ids: EventIds | None) -> AsyncIterator[bytes]:
    """Frame events as they are written; an error is the last one, and [DONE] ends them all."""
    events = reply.events()
    try:
        while (event := await to_thread.run_sync(next, events, None, limiter=limiter)) is not None:
            label = ids.at(reply.position, has_ended=reply.has_ended) if ids else b""
            yield label + b"data: " + event + b"\n\n"
    except Exception as error:  # noqa: BLE001 - the status is sent: whatever went wrong is told in the stream
        _log.error("unforeseen", exc_info=error)
        yield b"data: " + EngineFailureError("The service failed to write on.").body + b"\n\n"
    yield DONE


def _limiter(request: Request) -> CapacityLimiter:
    """The one limiter of this application's drawing threads, made where the event loop runs."""
    state = request.app.state
    if not hasattr(state, "drawing"):
        state.drawing = CapacityLimiter(_THREADS)
    limiter: CapacityLimiter = state.drawing
    return limiter
