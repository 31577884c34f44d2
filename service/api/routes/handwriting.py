"""The endpoints for handwriting: check, write, follow."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import cache

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from service.api.deps import SEED_HEADER, Here, Service, submit, tenant_of
from service.api.openapi import HANDWRITING_EVENTS, PROBLEMS
from service.api.responses.free_ink import FreeReply
from service.api.responses.sse import DONE, EVENT_STREAM, PING, EventIds, EventStream, WholeReply
from service.api.responses.written_text import Author, TextReply
from service.api.resume import Resumption
from service.api.schemas.handwriting import HandwritingReply, HandwritingRequest, StyleCard, StyleList
from service.engine.sampling import fresh_seed
from service.engine.sequences.base import Delta, End
from service.engine.sequences.free_ink import InkParams
from service.errors import CopyistError, EngineFailureError, InvalidRequestError, QueueFullError
from service.handwriting.candidates import Wish, Writing
from service.handwriting.copybook import writer as copybook
from service.handwriting.drawing import formats
from service.handwriting.network_writer import NetworkWriter
from service.registry.served import Hand, InkModel, LineModel

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
    course = Resumption.of(body, here.keeper(model), tenant_of(request))
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


_PREVIEW = "The quick brown fox, 0123"


@cache
def all_styles() -> StyleList:
    """Return every hand; the samples are drawn once."""
    cards = []
    for style in copybook.STYLES.values():
        wish = HandwritingRequest(text=_PREVIEW, style=style.name, format="svg", line_width_mm=300)
        cards.append(
            StyleCard(
                id=style.name,
                object="handwriting.style",
                model=copybook.NAME,
                description=style.description,
                joined=style.joins,
                licence=copybook.LICENCE,
                use=copybook.USE,
                preview=TextReply(wish, seed=1, max_pages=1).whole().decode(),
            )
        )
    return StyleList(object="list", data=cards)


LONGEST_PIECE = 56  # characters; the data's longest line has 64


async def wish_of(model: LineModel, body: HandwritingRequest, here: Service) -> Wish:
    """Return what a request wants written.

    Raises:
        InvalidRequestError: there is no such hand, or a wish cannot be met.
    """
    name = body.style or next(iter(model.hands))
    if name not in model.hands:
        raise InvalidRequestError(
            f"style: {model.name} has none of this name; it has: {', '.join(model.hands)}.", "style"
        )
    seed = fresh_seed() if body.seed is None else body.seed
    wish = Wish(model, model.hands[name], seed, body.bias, body.num_candidates)
    if body.prime is None or body.prime_text is None:
        return wish
    prime = await to_thread.run_sync(body.read_first, model.codec.ink, here.settings)
    unknown = model.codec.unsupported(body.prime_text)
    if unknown:
        raise InvalidRequestError(f"prime_text: this model does not know U+{ord(unknown[0]):04X}.", "prime_text")
    return replace(wish, prime=prime, prime_text=body.prime_text.strip() + " ")


def scribe_of(wish: Wish, body: HandwritingRequest) -> NetworkWriter:
    """Return who turns the points of a wish into ink, piece by piece of the text."""
    longest = min(LONGEST_PIECE, wish.model.longest - len(wish.prime_text))
    hand, skips = wish.hand, body.unsupported == "skip"
    text = body.text or ""
    return NetworkWriter(
        text, wish.model.codec, hand.scale, hand.advance, longest, body.wobble, skips_unsupported=skips
    )


async def follow_writing(
    model: LineModel, body: HandwritingRequest, request: Request, here: Service, ids: EventIds | None
) -> Response:
    """Return the response that writes a text with a network.

    Raises:
        InvalidRequestError: there is no such hand, or a wish cannot be met.
        QueueFullError: as many wait for this model as may.
    """
    wish = await wish_of(model, body, here)
    scribe = scribe_of(wish, body)
    about = {"model": model.name, "system_fingerprint": model.fingerprint, "style": wish.hand.name}
    author = Author(scribe, about, model.hierarchy)
    reply = await to_thread.run_sync(TextReply, body, wish.seed, here.settings.max_pages, author)
    await here.rates.charge(request, len(body.text or "") * wish.candidates)
    writing = Writing(here, wish, scribe, reply, body.text or "")
    writing.begin()
    headers = {SEED_HEADER: str(wish.seed), **reply.headers}
    if not body.stream:
        return _WholeText(writing, headers, reply.media_type)
    is_live = wish.candidates == 1 and body.align == "left"
    no_store = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    frames = _network_frames(writing, ids, here.settings.heartbeat_s, is_live=is_live)
    return StreamingResponse(frames, headers=headers | no_store, media_type=EVENT_STREAM)


class _WholeText(Response):
    """A text as one body, sent when it is written."""

    def __init__(self, writing: Writing, headers: dict[str, str], media_type: str) -> None:
        super().__init__(headers=headers, media_type=media_type)
        self._writing = writing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body, or nothing if the client leaves first.

        Raises:
            CopyistError: the engine could not finish it, or the sheet is too large.
        """
        task = asyncio.create_task(self._body())
        watch = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                return
            self.body = task.result()
        finally:
            watch.cancel()
            task.cancel()
            self._writing.cancel()
        self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)

    async def _body(self) -> bytes:
        inks = [ink async for ink in self._writing.lines()]
        tail = self._writing.last()
        return await to_thread.run_sync(self._writing.reply.whole_of, inks, tail)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _network_frames(
    writing: Writing, ids: EventIds | None, heartbeat_s: float, *, is_live: bool
) -> AsyncIterator[bytes]:
    """Frame events as they come; a comment keeps a silent stream alive, an error is the last event."""
    reply = writing.reply
    inks = writing.live() if is_live else writing.lines()
    following = asyncio.ensure_future(anext(inks, None))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=heartbeat_s)
            if not done:
                yield PING
                continue
            ink = following.result()
            if ink is None:
                break
            following = asyncio.ensure_future(anext(inks, None))
            for event in reply.tell(ink):
                yield _framed(event, reply, ids)
        yield _framed(reply.last(writing.last()), reply, ids)
    except CopyistError as error:
        yield b"data: " + error.body + b"\n\n"
    except Exception as error:  # noqa: BLE001 - the status is sent: whatever went wrong is told in the stream
        _log.error("unforeseen", exc_info=error)
        yield b"data: " + EngineFailureError("The service failed to write on.").body + b"\n\n"
    finally:
        following.cancel()
        writing.cancel()
    yield DONE


def _framed(event: bytes, reply: TextReply, ids: EventIds | None) -> bytes:
    label = ids.at(reply.position, has_ended=reply.has_ended) if ids else b""
    return label + b"data: " + event + b"\n\n"


async def network_styles(here: Service) -> list[StyleCard]:
    """Return the hands of all networks; each sample is written once, one after the other."""
    kept: dict[tuple[str, str], StyleCard] = here.__dict__.setdefault("samples", {})
    for model, hand in _hands(here):
        if (model.name, hand.name) not in kept:
            kept[model.name, hand.name] = await _card(model, hand, here)
    return [kept[model.name, hand.name] for model, hand in _hands(here)]


def _hands(here: Service) -> Iterator[tuple[LineModel, Hand]]:
    for model in here.registry:
        if isinstance(model, LineModel):
            yield from ((model, hand) for hand in model.hands.values())


async def _card(model: LineModel, hand: Hand, here: Service) -> StyleCard:
    body = HandwritingRequest(
        text=_PREVIEW, model=model.name, style=hand.name, format="svg", seed=1, bias=1.0, line_width_mm=300
    )
    wish = await wish_of(model, body, here)
    scribe = scribe_of(wish, body)
    reply = TextReply(body, 1, 1, Author(scribe, {}, model.hierarchy))
    writing = Writing(here, wish, scribe, reply, _PREVIEW)
    inks = [ink async for ink in writing.lines()]
    return StyleCard(
        id=hand.name,
        object="handwriting.style",
        model=model.name,
        description=hand.description,
        joined=True,
        licence=str(model.bundle.data["licence"]),
        use=str(model.bundle.data["use"]),
        preview=reply.whole_of(inks, {}).decode(),
    )
