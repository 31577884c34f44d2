"""`POST /v1/completions`: text, whole or streamed."""

from collections.abc import Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.deps import Here, Service, submit, tenant_of
from service.api.openapi import COMPLETION_EVENTS, PROBLEMS
from service.api.responses.completions import CompletionRenderer
from service.api.responses.sse import EventStream, WholeReply
from service.api.resume import Resumption
from service.api.schemas.completions import CompletionReply as CompletionSchema
from service.api.schemas.completions import CompletionRequest, check_limits
from service.engine.sequences.base import Delta
from service.engine.sequences.text import TextParams

router = APIRouter()


@router.post(
    "/v1/completions",
    summary="Write text",
    response_model=CompletionSchema,
    responses={**PROBLEMS, 200: {"description": "The text, or events.", "content": COMPLETION_EVENTS}},
)
async def completions(body: CompletionRequest, request: Request, here: Here) -> Response:
    """Go on from a prompt, character by character; with `boundaries` tell what each layer did at each."""
    return await follow_completion(here, body, request)


async def follow_completion(
    here: Service, body: CompletionRequest, request: Request, label: Callable[[Delta], bytes] | None = None
) -> Response:
    """Submit a completion and return the response that follows it.

    Args:
        here: what there is to work with.
        body: what is asked for.
        request: that asks; its id becomes the reply's, and its tenant owns the state tokens.
        label: of the events, if they have any.
    """
    model = here.registry.text(body.model)
    check_limits(body, here.settings)
    course = Resumption.of(body, here.keeper(model), tenant_of(request))
    params = _text_params(body, course.seed, body.most_tokens(here.settings))
    boundaries, is_streamed = body.boundaries, body.stream
    sequences = model.sequences(
        body.prompt, params, body.n, boundaries=boundaries, whole=not is_streamed, part=course.part
    )
    options = body.stream_options
    reply = CompletionRenderer(
        model,
        request.state.request_id,
        params,
        n=body.n,
        num_choices=len(sequences),
        boundaries=boundaries,
        include_usage=options is not None and options.include_usage,
        seal=course.seal,
    )
    readers = sequences if body.echo else sequences[:: body.n]  # the other choices go on from what these have read
    await here.rates.charge(request, sum(each.num_prompt for each in readers) + params.max_tokens * len(sequences))
    choices, headers = submit(here, model, sequences)
    if is_streamed:
        return EventStream(choices, reply, here.settings.heartbeat_s, headers, label)
    return WholeReply(choices, reply, headers)


def _text_params(body: CompletionRequest, seed: int, max_tokens: int) -> TextParams:
    """A completion's parameters."""
    return TextParams(
        seed=seed,
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=tuple(body.stop),
        echo=body.echo,
        logprobs=body.logprobs,
        logit_bias=tuple((int(token), value) for token, value in body.logit_bias.items()),
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
    )
