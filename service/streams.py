"""Streams for browsers: a URL that holds the request, and events with ids at which it can be taken up again.

`EventSource` can only GET, and comes back by itself with the id of the last event it saw. So a request is posted once
and becomes a token; whoever has its URL reads the stream, from any position, on any replica that knows the key, and
nothing is remembered in between. An event's id is the number of characters or points told with it and before it; the
last one's is `end`, and a browser that comes back with that is told that there is no more (204).
"""

import zlib
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Header, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from service.course import Course
from service.description import PROBLEMS
from service.engine.sequence import Delta
from service.errors import InvalidRequestError
from service.routes import Here, Service, follow_completion, tenant_of
from service.schemas import MAX_RESUME, CompletionRequest, _Strict, check_limits
from service.seal import Purpose, token_chars

END = "end"
RETRY_MS = 1000
MAX_TOKEN_BYTES = 4400  # its token has less than 6,000 characters, which every proxy takes in a URL

EVENTS = {
    "text/event-stream": {
        "schema": {"type": "string"},
        "example": 'retry: 1000\nid: 2\ndata: {"choices":[{"index":0,"text":"an"}]}\n\n'
        'id: end\ndata: {"choices":[{"index":0,"text":"d","finish_reason":"length"}]}\n\ndata: [DONE]\n\n',
    }
}

router = APIRouter()


class StreamRequest(_Strict):
    """A request whose reply is to be read as a stream at a URL of its own."""

    completion: CompletionRequest = Field(description="As for /v1/completions, with one choice.")


class StreamReply(BaseModel):
    """Where to read a stream."""

    object: Literal["stream"]
    url: str = Field(description="For EventSource. Whoever has it can read the stream: it is a secret.")
    seed: int = Field(description="The seed that is used.")


class EventIds:
    """Labels events with the position that they reach.

    Args:
        position: characters or points told before.
    """

    def __init__(self, position: int) -> None:
        self._position = position
        self._hint = b"retry: %d\n" % RETRY_MS

    def __call__(self, delta: Delta) -> bytes:
        """Return the lines that go before the data of a delta's last event."""
        self._position += len(delta.news.items)
        name = END if delta.end else str(self._position)
        hint, self._hint = self._hint, b""
        return hint + b"id: %s\n" % name.encode()


@router.post("/v1/streams", summary="Make a stream for a browser", responses=PROBLEMS)
async def make_stream(body: StreamRequest, request: Request, here: Here) -> StreamReply:
    """Check a request and return a URL at which `EventSource` reads its reply; nothing is written until it is read."""
    wish, tenant = body.completion, tenant_of(request)
    model = here.catalogue.text(wish.model)
    check_limits(wish, here.settings)
    if wish.num_choices > 1:
        raise InvalidRequestError("completion: a stream has one choice.", "completion")
    for prompt in wish.prompt:
        model.encode(prompt, "completion")
    seed = Course.of(wish, here.keeper(model), tenant).seed
    fixed = wish.model_dump(mode="json", exclude_unset=True) | {"seed": seed, "stream": True}
    content = zlib.compress(orjson.dumps({"tenant": tenant, "completion": fixed}))
    if len(content) > MAX_TOKEN_BYTES:
        raise InvalidRequestError(
            "completion: too long for a URL; POST it to /v1/completions with stream instead.", "completion"
        )
    return StreamReply(object="stream", url=f"/v1/streams/{here.sealer.seal(Purpose.STREAM, content)}", seed=seed)


@router.get(
    "/v1/streams/{token}",
    summary="Read a stream in a browser",
    response_class=Response,
    responses={
        200: {"description": "Events with ids.", "content": EVENTS},
        204: {"description": "All was told before."},
        **PROBLEMS,
    },
)
async def read_stream(
    token: Annotated[str, Path(max_length=token_chars(MAX_TOKEN_BYTES))],
    request: Request,
    here: Here,
    last_event_id: Annotated[str | None, Header(pattern=rf"^([0-9]{{1,8}}|{END})$")] = None,
    resume_at: Annotated[int, Query(ge=0, le=MAX_RESUME)] = 0,
) -> Response:
    """Write the reply that the token asks for, from the position at which it was cut on."""
    tenant, wish = _open(here, token)
    if last_event_id == END:
        return Response(status_code=204)
    position = int(last_event_id) if last_event_id else resume_at
    if position:
        wish = wish.model_copy(update={"resume_at": position})
    check_limits(wish, here.settings)
    request.state.tenant = tenant  # EventSource cannot send a key: who made the stream asks for it
    return await follow_completion(here, wish, request, EventIds(wish.resume_at))


def _open(here: Service, token: str) -> tuple[str, CompletionRequest]:
    """Whose request a token holds, and the request.

    Raises:
        InvalidTokenError: it is not a token for a stream.
    """
    content = here.sealer.open(Purpose.STREAM, token, MAX_TOKEN_BYTES, "token")
    held = orjson.loads(zlib.decompress(content))
    return held["tenant"], CompletionRequest.model_validate(held["completion"])
