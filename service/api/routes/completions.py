"""`POST /v1/completions`: text, whole or streamed."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.deps import Here, Service, submit, tenant_of
from service.api.openapi import COMPLETION_EVENTS, PROBLEMS
from service.api.responses.choices import StreamedReply
from service.api.responses.completions import CompletionRenderer
from service.api.responses.sse import EventStream, WholeReply
from service.api.resume import Resumption
from service.api.schemas.completions import CompletionReply as CompletionSchema
from service.api.schemas.completions import CompletionRequest, check_limits
from service.engine.sequences.text import TextParams

router = APIRouter()


@router.post(
    "/v1/completions",
    summary="Write text",
    response_model=CompletionSchema,
    responses={**PROBLEMS, 200: {"description": "The text, or events.", "content": COMPLETION_EVENTS}},
)
async def completions(body: CompletionRequest, request: Request, here: Here) -> Response:
    """Continue a prompt, character by character; with `boundaries` say what each layer did at each character."""
    return await follow_completion(body, request, here)


async def follow_completion(
    body: CompletionRequest, request: Request, here: Service, *, has_ids: bool = False
) -> Response:
    """Submit a completion and return the response that sends it.

    Args:
        body: what is asked for.
        request: carries it; its id becomes the reply's, and its tenant owns the state tokens.
        here: the service's parts.
        has_ids: whether events say their position, so that a browser can resume.
    """
    model = here.registry.text(body.model)
    check_limits(body, here.settings)
    resumption = Resumption.of(body, here.keeper(model), tenant_of(request))
    params = _text_params(body, resumption.seed, body.most_tokens(here.settings))
    boundaries, is_streamed = body.boundaries, body.stream
    sequences = model.sequences(
        body.prompt, params, body.n, boundaries=boundaries, whole=not is_streamed, part=resumption.part
    )
    options = body.stream_options
    renderer = CompletionRenderer(
        model,
        request.state.request_id,
        params,
        n=body.n,
        num_choices=len(sequences),
        boundaries=boundaries,
        include_usage=options is not None and options.include_usage,
        seal=resumption.seal,
    )
    readers = sequences if body.echo else sequences[:: body.n]  # the other choices start from the state after it
    await here.rates.charge(request, sum(each.num_prompt for each in readers) + params.max_tokens * len(sequences))
    choices, headers = submit(here, model, sequences)
    reply = StreamedReply(choices, renderer, position=body.resume_at)
    if is_streamed:
        return EventStream(reply, here.settings.heartbeat_s, headers, has_ids=has_ids)
    return WholeReply(reply, headers)


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
