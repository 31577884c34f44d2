"""Streams for browsers: a URL that holds the request, and events with ids from which the stream can be resumed.

`EventSource` can only GET, and comes back by itself with the id of the last event it saw. So a request is posted once
and becomes a token; whoever has its URL reads the stream, from any position, on any replica that knows the key, and
nothing is remembered in between. An event's id is the number of characters or points sent with it and before it; the
last one's is `end`, and a browser that comes back with that gets a 204: there is no more.
"""

import zlib
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Path, Query, Request
from pydantic import ValidationError
from starlette.responses import Response
from structlog.contextvars import bind_contextvars

from service.access.seal import Purpose, token_chars
from service.api.deps import Here, Service, tenant_of
from service.api.openapi import PROBLEMS
from service.api.responses.sse import END
from service.api.resume import Resumption
from service.api.routes.completions import follow_completion
from service.api.routes.handwriting import follow_handwriting
from service.api.schemas.completions import CompletionRequest, check_limits
from service.api.schemas.fields import MAX_RESUME
from service.api.schemas.handwriting import HandwritingRequest
from service.api.schemas.streams import StreamReply, StreamRequest
from service.engine.sampling import fresh_seed
from service.errors import InvalidRequestError, InvalidTokenError, StreamNotFoundError

MAX_TOKEN_BYTES = 4400  # its token has less than 6,000 characters, which every proxy takes in a URL

EVENTS = {
    "text/event-stream": {
        "schema": {"type": "string"},
        "example": 'retry: 1000\nid: 2\ndata: {"choices":[{"index":0,"text":"an"}]}\n\n'
        'id: end\ndata: {"choices":[{"index":0,"text":"d","finish_reason":"length"}]}\n\ndata: [DONE]\n\n',
    }
}

router = APIRouter()


@router.post("/v1/streams", summary="Make a stream for a browser", responses=PROBLEMS)
async def make_stream(body: StreamRequest, request: Request, here: Here) -> StreamReply:
    """Check a request and return a URL at which `EventSource` reads its reply; nothing is written until it is read."""
    tenant = tenant_of(request)
    bodies = {"completion": body.completion, "handwriting": body.handwriting}
    given = {name: asked for name, asked in bodies.items() if asked is not None}
    if len(given) != 1:
        raise InvalidRequestError("completion: either this or handwriting is required, and not both.", "completion")
    ((name, asked),) = given.items()
    asked = asked.model_copy(update={"stream": True})
    seed = _seed(here, asked, tenant)
    fixed = asked.model_dump(mode="json", exclude_unset=True) | {"seed": seed, "stream": True}
    content = zlib.compress(orjson.dumps({"tenant": tenant, name: fixed}))
    if len(content) > MAX_TOKEN_BYTES:
        raise InvalidRequestError(f"{name}: too long for a URL; POST it with stream instead.", name)
    return StreamReply(object="stream", url=f"/v1/streams/{here.sealer.seal(Purpose.STREAM, content)}", seed=seed)


@router.get(
    "/v1/streams/{token}",
    summary="Read a stream in a browser",
    response_class=Response,
    responses={
        200: {"description": "Events with ids.", "content": EVENTS},
        204: {"description": "All was sent before."},
        **PROBLEMS,
        404: {**PROBLEMS[404], "description": "There is no such stream, or no longer; the code says why."},
    },
)
async def read_stream(
    token: Annotated[str, Path(max_length=token_chars(MAX_TOKEN_BYTES))],
    request: Request,
    here: Here,
    last_event_id: Annotated[str, Header(pattern=rf"^([0-9]{{1,8}}|{END})$")] = "0",
    resume_at: Annotated[int, Query(ge=0, le=MAX_RESUME)] = 0,
) -> Response:
    """Write the reply that the token asks for, from the position at which it was cut."""
    tenant, asked = _open(here, token)
    if last_event_id == END:
        return Response(status_code=204)
    position = int(last_event_id) or resume_at
    if position:
        asked = asked.model_copy(update={"resume_at": position})
    request.state.tenant = tenant  # EventSource cannot send a key: who made the stream asks for it, and pays
    if tenant:
        bind_contextvars(key=tenant)
    if isinstance(asked, HandwritingRequest):
        return await follow_handwriting(asked, request, here, has_ids=True)
    return await follow_completion(asked, request, here, has_ids=True)


def _seed(here: Service, asked: CompletionRequest | HandwritingRequest, tenant: str) -> int:
    """Check a request and return its seed, which stays the same whenever the stream is read.

    Raises:
        CopyistError: the request cannot be served.
    """
    if isinstance(asked, HandwritingRequest):
        asked.check(here.settings)
        if asked.text is not None:
            return fresh_seed() if asked.seed is None else asked.seed
        return Resumption.of(asked, here.keeper(here.registry.ink(asked.model)), tenant).seed
    model = here.registry.text(asked.model)
    check_limits(asked, here.settings)
    if asked.num_choices > 1:
        raise InvalidRequestError("completion: a stream has one choice.", "completion")
    for prompt in asked.prompt:
        model.encode(prompt, "completion")
    return Resumption.of(asked, here.keeper(model), tenant).seed


def _open(here: Service, token: str) -> tuple[str, CompletionRequest | HandwritingRequest]:
    """Return the tenant of the request in a token, and the request.

    Raises:
        StreamNotFoundError: it is not a token for a stream, or its client is not let in any more.
    """
    try:
        content = here.sealer.open(Purpose.STREAM, token, MAX_TOKEN_BYTES, "token")
        held: dict[str, Any] = orjson.loads(zlib.decompress(content))
        kind = HandwritingRequest if "handwriting" in held else CompletionRequest
        asked = kind.model_validate(held["handwriting" if kind is HandwritingRequest else "completion"])
    except InvalidTokenError as error:
        raise StreamNotFoundError(error.message, error.code) from None
    except ValidationError:  # sealed by a version that took what this one does not
        raise StreamNotFoundError("token: made by another version of the service.", "invalid_token_version") from None
    if here.keys and held["tenant"] not in here.keys.names:
        raise StreamNotFoundError("token: its client is not let in any more.", "invalid_token_tenant")
    return held["tenant"], asked
