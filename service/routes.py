"""The endpoints: check, submit, follow."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import asdict
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from service.catalogue import Catalogue, InkModel, Served, TextModel, fresh_seed
from service.course import Course
from service.description import COMPLETION_EVENTS, HANDWRITING_EVENTS, PROBLEMS
from service.engine.loop import Engine, Stream
from service.engine.sequence import Delta, InkParams, TextParams
from service.errors import NotReadyError, OverloadedError
from service.replies import CompletionReply, HandwritingReply
from service.schemas import CompletionReply as CompletionSchema
from service.schemas import (
    CompletionRequest,
    HandwritingRequest,
    Health,
    ModelCard,
    ModelList,
    check_limits,
)
from service.schemas import HandwritingReply as HandwritingSchema
from service.seal import Sealer
from service.settings import Settings
from service.state import StateKeeper
from service.streaming import Choices, EventStream, WholeReply

_log = structlog.get_logger(__name__)

SEED_HEADER = "x-seed"


class Service:
    """What the endpoints work with; made once, at start.

    Args:
        settings: of the operator.
        catalogue: of bundles.
        engine: that steps them.

    Attributes:
        sealer: of state and stream tokens.
    """

    def __init__(self, settings: Settings, catalogue: Catalogue, engine: Engine) -> None:
        self.settings, self.catalogue, self.engine = settings, catalogue, engine
        if not settings.state_secrets:
            _log.info("no state keys: state and stream tokens are good for this process only")
        self.sealer = Sealer(settings.state_secrets, settings.state_ttl_s)

    def keeper(self, model: TextModel | InkModel) -> StateKeeper:
        """Return what makes and reads the state tokens of a model."""
        return StateKeeper(self.sealer, model.bundle.fingerprint, model.codec, model.lane.runner)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(_service)]

router = APIRouter()


@router.post(
    "/v1/completions",
    summary="Write text",
    response_model=CompletionSchema,
    responses={**PROBLEMS, 200: {"description": "The text, or events.", "content": COMPLETION_EVENTS}},
)
async def completions(body: CompletionRequest, request: Request, here: Here) -> Response:
    """Go on from a prompt, character by character; with `boundaries` tell what each layer did at each."""
    return follow_completion(here, body, request.state.request_id, tenant_of(request))


def follow_completion(
    here: Service, body: CompletionRequest, request_id: str, tenant: str, label: Callable[[Delta], bytes] | None = None
) -> Response:
    """Submit a completion and return the response that follows it.

    Args:
        here: what there is to work with.
        body: the request.
        request_id: unique part of the reply's id.
        tenant: whose state tokens these are.
        label: of the events, if they have any.
    """
    model = here.catalogue.text(body.model)
    check_limits(body, here.settings)
    course = Course.of(body, here.keeper(model), tenant)
    params = _text_params(body, course.seed)
    boundaries, is_streamed = body.boundaries, body.stream
    sequences = model.sequences(
        body.prompt, params, body.n, boundaries=boundaries, whole=not is_streamed, part=course.part
    )
    options = body.stream_options
    reply = CompletionReply(
        model,
        request_id,
        params,
        n=body.n,
        num_choices=len(sequences),
        boundaries=boundaries,
        include_usage=options is not None and options.include_usage,
        seal=course.seal,
    )
    return _follow(here, model, sequences, reply, is_streamed=is_streamed, label=label)


@router.post(
    "/v1/handwriting",
    summary="Write with a pen",
    response_model=HandwritingSchema,
    responses={
        **PROBLEMS,
        200: {
            "description": "The drawing, or events.",
            "content": {**HANDWRITING_EVENTS, "image/svg+xml": {"schema": {"type": "string"}}},
        },
    },
)
async def handwriting(body: HandwritingRequest, here: Here) -> Response:
    """Write freely, point by point, and tell what each layer did at each."""
    model = here.catalogue.ink(body.model)
    check_limits(body, here.settings)
    params = _ink_params(body)
    is_streamed = body.stream
    sequence = model.sequence(params, whole=not is_streamed)
    reply = HandwritingReply(model, params.seed, picture=body.format == "svg")
    return _follow(here, model, [sequence], reply, is_streamed=is_streamed)


@router.get("/v1/models", summary="What is served")
async def models(here: Here) -> ModelList:
    """Return every bundle with its facts."""
    return ModelList(object="list", data=[_card(model) for model in here.catalogue])


@router.get("/v1/models/{name}", summary="One of them", responses={404: PROBLEMS[404]})
async def model_by_name(name: str, here: Here) -> ModelCard:
    """Return a bundle's facts."""
    return _card(here.catalogue.find(name))


@router.get("/healthz", summary="Whether the service lives", responses={503: PROBLEMS[503]})
async def healthz(here: Here) -> Health:
    """Answer 200 as long as the engine's thread runs, whatever the load."""
    if not here.engine.is_alive:
        raise NotReadyError("The engine has stopped.")
    return _health(here.engine, "ok")


@router.get("/readyz", summary="Whether to send requests", responses={503: PROBLEMS[503]})
async def readyz(here: Here) -> Health:
    """Answer 200 as long as the engine moves: work without a step, or a shutdown begun, is 503."""
    if here.engine.trouble:
        raise NotReadyError(here.engine.trouble)
    return _health(here.engine, "ready")


def _follow(
    here: Service,
    model: Served,
    sequences: Seq[Any],
    reply: Any,
    *,
    is_streamed: bool,
    label: Callable[[Delta], bytes] | None = None,
) -> Response:
    """Submit the sequences of a request, all or none, and return the response that follows them."""
    streams: list[Stream] = []
    try:
        streams.extend(here.engine.submit(model.lane, sequence) for sequence in sequences)
    except OverloadedError:
        for stream in streams:
            stream.cancel()
        raise
    headers, choices = {SEED_HEADER: str(sequences[0].params.seed)}, Choices(streams)
    if is_streamed:
        return EventStream(choices, reply, here.settings.heartbeat_s, headers, label)
    return WholeReply(choices, reply, headers)


def tenant_of(request: Request) -> str:
    """Name of the client's key, "" without keys."""
    name: str = getattr(request.state, "tenant", "")
    return name


def _text_params(body: CompletionRequest, seed: int) -> TextParams:
    """A completion's parameters."""
    return TextParams(
        seed=seed,
        max_tokens=body.max_tokens,
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


def _ink_params(body: HandwritingRequest) -> InkParams:
    """A drawing's parameters."""
    return InkParams(
        seed=fresh_seed() if body.seed is None else body.seed,
        max_points=body.max_points,
        bias=body.bias,
    )


def _health(engine: Engine, status: str) -> Health:
    return Health(status=status, running=engine.num_running, waiting=engine.num_waiting, **asdict(engine.gauges))


def _card(model: Served) -> ModelCard:
    bundle = model.bundle
    return ModelCard(
        id=model.name,
        object="model",
        created=0,
        owned_by="copyist",
        kind="text" if isinstance(model, TextModel) else "ink",
        description=bundle.description,
        fingerprint=bundle.fingerprint,
        layers=list(bundle.hidden),
        parameters=bundle.model["parameters"],
        vocabulary=model.codec.size if isinstance(model, TextModel) else None,
        data=dict(bundle.data),
        training=dict(bundle.training),
        metrics=dict(bundle.metrics),
    )
