"""The endpoints: check, submit, follow."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import asdict
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response
from structlog.contextvars import bind_contextvars

from service.access.rate_limits import RateLimits
from service.access.seal import Sealer
from service.course import Course
from service.description import COMPLETION_EVENTS, PROBLEMS
from service.engine.loop import Engine
from service.engine.sequences.base import Delta
from service.engine.sequences.text import TextParams
from service.engine.streams import Choices
from service.errors import NotReadyError
from service.handwriting.copybook import writer as copybook
from service.ink.styles import card as copybook_card
from service.registry.registry import ModelRegistry
from service.registry.served import InkModel, ServedModel, TextModel
from service.replies import CompletionReply
from service.requests import CompletionRequest, DetokenizeRequest, TokenizeRequest, check_limits
from service.schemas import CompletionReply as CompletionSchema
from service.schemas import Health, ModelCard, ModelList, Text, TokenizerInfo, Tokens
from service.settings import Settings
from service.state import StateKeeper
from service.streaming import EventStream, WholeReply
from service.telemetry.peers import Peers, Silence

_log = structlog.get_logger(__name__)

SEED_HEADER = "x-seed"


class Service:
    """What the endpoints work with; made once, at start.

    Args:
        settings: of the operator.
        registry: of bundles.
        engine: that steps them.
        rates: what each key may ask of it; to be charged before it is asked.
        siblings: the other processes of the service.

    Attributes:
        keys: that are let in.
        sealer: of state and stream tokens.
    """

    def __init__(
        self, settings: Settings, registry: ModelRegistry, engine: Engine, rates: RateLimits, siblings: Peers
    ) -> None:
        self.settings, self.registry, self.engine, self.rates = settings, registry, engine, rates
        self.siblings = siblings
        self.keys = settings.keys
        if not settings.state_secrets:
            _log.info("no state keys: state and stream tokens are good until this service ends")
        self.sealer = Sealer(settings.state_secrets or [siblings.secret], settings.state_ttl_s)

    def keeper(self, model: TextModel | InkModel) -> StateKeeper:
        """Return what makes and reads the state tokens of a model."""
        return StateKeeper(self.sealer, model.bundle.fingerprint, model.codec, model.lane.runner)


async def _service(request: Request) -> Service:  # not async, FastAPI would call it on another thread
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(_service)]

router = APIRouter()

_REFUSALS: dict[int | str, dict[str, Any]] = {status: PROBLEMS[status] for status in (400, 404, 408, 413, 415)}


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
    course = Course.of(body, here.keeper(model), tenant_of(request))
    params = _text_params(body, course.seed, body.most_tokens(here.settings))
    boundaries, is_streamed = body.boundaries, body.stream
    sequences = model.sequences(
        body.prompt, params, body.n, boundaries=boundaries, whole=not is_streamed, part=course.part
    )
    options = body.stream_options
    reply = CompletionReply(
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


@router.post("/tokenize", summary="Turn text into ids", responses=_REFUSALS)
async def tokenize(body: TokenizeRequest, here: Here) -> Tokens:
    """Return the ids of a text, one per character, or more where characters become bytes."""
    model = here.registry.text(body.model)
    tokens = model.encode(body.prompt, "prompt")
    return Tokens(model=model.name, count=len(tokens), tokens=tokens)


@router.post("/detokenize", summary="Turn ids into text", responses=_REFUSALS)
async def detokenize(body: DetokenizeRequest, here: Here) -> Text:
    """Return the text of ids."""
    model = here.registry.text(body.model)
    return Text(model=model.name, prompt=model.codec.decode(model.encode(body.tokens, "tokens")))


@router.get("/tokenizer_info", summary="What the symbols are", responses={n: PROBLEMS[n] for n in (400, 404)})
async def tokenizer_info(
    here: Here, model: Annotated[str | None, Query(max_length=64, description="Name of a text bundle.")] = None
) -> TokenizerInfo:
    """Return the symbols of a text bundle; `model` may be left out where there is but one."""
    found = here.registry.text(model)
    return TokenizerInfo(
        model=found.name,
        tokenizer_class="TextCodec",
        bos_token=found.codec.decode([found.primer]),
        eos_token=None,
        pad_token=None,
        unknown=found.codec.unknown,
        vocabulary=found.spellings,
    )


@router.get("/v1/models", summary="What is served")
async def models(here: Here) -> ModelList:
    """Return every bundle with its facts, and the copybook."""
    return ModelList(object="list", data=[*(_card(model) for model in here.registry), copybook_card()])


@router.get("/v1/models/{name}", summary="One of them", responses={404: PROBLEMS[404]})
async def model_by_name(name: str, here: Here) -> ModelCard:
    """Return a bundle's facts, or the copybook's."""
    return copybook_card() if name == copybook.NAME else _card(here.registry.find(name))


@router.get("/healthz", summary="Whether the service lives", responses={503: PROBLEMS[503]})
async def healthz(here: Here) -> Health:
    """Answer 200 as long as the engine's thread runs, whatever the load."""
    if not here.engine.is_alive:
        raise NotReadyError("The engine has stopped.")
    return _health(here.engine, "ok")


@router.get("/readyz", summary="Whether to send requests", responses={503: PROBLEMS[503]})
async def readyz(here: Here) -> Health:
    """Answer 200 as long as the engine of each process moves: work without a step, or a shutdown begun, is 503."""
    if trouble := here.engine.trouble or await _trouble_elsewhere(here.siblings):
        raise NotReadyError(trouble)
    return _health(here.engine, "ready")


def submit(here: Service, model: ServedModel, sequences: Seq[Any]) -> tuple[Choices, dict[str, str]]:
    """Submit the sequences of a request, all or none; return what follows them, and the headers of its response."""
    bind_contextvars(model=model.name)
    # Nothing else is submitted meanwhile, so that a place for all is all that the first has to ask for.
    streams = [
        here.engine.submit(model.lane, sequence, followers)
        for sequence, followers in zip(sequences, reversed(range(len(sequences))), strict=True)
    ]
    return Choices(streams), {SEED_HEADER: str(sequences[0].params.seed)}


def tenant_of(request: Request) -> str:
    """Name of the client's key, "" without keys."""
    name: str = getattr(request.state, "tenant", "")
    return name


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


async def _trouble_elsewhere(siblings: Peers) -> str | None:
    """What is the matter with another process that connections are dealt out to."""
    for told in (await siblings.ask("trouble")).values():
        if isinstance(told, Silence):
            return "A process of the service does not answer."
        if told:
            return str(told)
    return None


def _health(engine: Engine, status: str) -> Health:
    return Health(status=status, running=engine.num_running, waiting=engine.num_waiting, **asdict(engine.gauges))


def _card(model: ServedModel) -> ModelCard:
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
