"""What a network wrote, as a reply: one body, or an event for each piece; and a sample of each of its hands."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import structlog
from anyio import to_thread
from fastapi import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from service.errors import CopyistError, EngineFailureError
from service.ink.reply import Author, TextReply
from service.ink.schemas import HandwritingRequest, StyleCard
from service.registry.served import Hand, LineModel
from service.routes import SEED_HEADER, Service
from service.streaming import DONE, EVENT_STREAM, PING, EventIds
from service.writing import Writing, scribe_of, wish_of

_log = structlog.get_logger(__name__)

_PREVIEW = "The quick brown fox, 0123"


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
    frames = _frames(writing, ids, here.settings.heartbeat_s, is_live=is_live)
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


async def _frames(writing: Writing, ids: EventIds | None, heartbeat_s: float, *, is_live: bool) -> AsyncIterator[bytes]:
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
