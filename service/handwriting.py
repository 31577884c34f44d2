"""The endpoints for handwriting: check, write, follow."""

from collections.abc import AsyncIterator, Iterator

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from service.catalogue import InkModel, fresh_seed
from service.description import HANDWRITING_EVENTS, PROBLEMS
from service.engine.sequence import Delta, End, InkParams
from service.errors import EngineFailureError, InvalidRequestError, QueueFullError
from service.ink import copybook, formats
from service.ink.reply import FreeReply, TextReply
from service.ink.schemas import HandwritingReply, HandwritingRequest, StyleList
from service.ink.styles import all_styles
from service.routes import SEED_HEADER, Here, Service
from service.streaming import DONE, EVENT_STREAM, Choices, EventStream, WholeReply

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
    body.check(here.settings)
    if body.text is None:
        return await _free(body, here)
    if body.model not in {None, copybook.NAME}:
        here.catalogue.ink(body.model)
        message = f"text: this model writes freely, without a text; {copybook.NAME} writes texts."
        raise InvalidRequestError(message, "text")
    return await _text(body, request, here)


@router.get("/v1/handwriting/styles", summary="The hands there are")
async def styles() -> StyleList:
    """Return every hand with a sample of its writing."""
    return await to_thread.run_sync(all_styles)


async def _free(body: HandwritingRequest, here: Service) -> Response:
    """Let an ink bundle write on its own."""
    if body.model == copybook.NAME:
        raise InvalidRequestError("text: the copybook needs one; ink bundles write freely.", "text")
    model: InkModel = here.catalogue.ink(body.model)
    prime = await to_thread.run_sync(body.read_first, model.codec, here.settings)
    params = InkParams(fresh_seed() if body.seed is None else body.seed, body.max_points, body.bias)
    reply = FreeReply(model, params, body)
    sequence = model.sequence(params, whole=not body.stream, prime=prime)
    stream = Choices([here.engine.submit(model.lane, sequence)])
    headers = {SEED_HEADER: str(params.seed)}
    if body.stream:
        return EventStream(stream, reply, here.settings.heartbeat_s, headers)
    return _DrawnReply(stream, reply, headers)


class _DrawnReply(WholeReply):
    """A whole reply that is drawn beside the event loop."""

    async def _render(self, delta: Delta, end: End) -> bytes | None:
        return await to_thread.run_sync(self._reply.whole, delta, end)


async def _text(body: HandwritingRequest, request: Request, here: Service) -> Response:
    """Let the copybook write a text."""
    limiter = _limiter(request)
    if limiter.statistics().tasks_waiting >= here.settings.queue:
        raise QueueFullError(f"{here.settings.queue} requests wait for the copybook already, as many as may.")
    seed = fresh_seed() if body.seed is None else body.seed
    reply = await to_thread.run_sync(TextReply, body, seed, here.settings.max_pages, limiter=limiter)
    headers = {SEED_HEADER: str(seed), **reply.headers}
    if body.stream:
        no_store = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(_frames(reply.events(), limiter), headers=headers | no_store, media_type=EVENT_STREAM)
    content = await to_thread.run_sync(reply.whole, limiter=limiter)
    return Response(content, headers=headers, media_type=reply.media_type)


async def _frames(events: Iterator[bytes], limiter: CapacityLimiter) -> AsyncIterator[bytes]:
    """Frame events as they are written; an error is the last one, and [DONE] ends them all."""
    try:
        while (event := await to_thread.run_sync(next, events, None, limiter=limiter)) is not None:
            yield b"data: " + event + b"\n\n"
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
