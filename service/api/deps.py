"""What the endpoints depend on: the service's parts, the client's tenant, and a way into the engine's queue."""

from collections.abc import Sequence as Seq
from typing import Annotated, Any

import structlog
from fastapi import Depends, Request
from structlog.contextvars import bind_contextvars

from service.access.rate_limits import RateLimits
from service.access.seal import Sealer
from service.api.state_tokens import StateKeeper
from service.engine.loop import Engine
from service.engine.streams import Choices
from service.registry.registry import ModelRegistry
from service.registry.served import InkModel, ServedModel, TextModel
from service.settings import Settings
from service.telemetry.peers import Peers

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
        return StateKeeper(self.sealer, model.bundle.fingerprint, model.codec, model.executor.runner)


async def _service(request: Request) -> Service:  # not async, FastAPI would call it on another thread
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(_service)]


def submit(here: Service, model: ServedModel, sequences: Seq[Any]) -> tuple[Choices, dict[str, str]]:
    """Submit the sequences of a request, all or none; return what follows them, and the headers of its response."""
    bind_contextvars(model=model.name)
    # Nothing else is submitted meanwhile, so that a place for all is all that the first has to ask for.
    streams = [
        here.engine.submit(model.executor, sequence, followers)
        for sequence, followers in zip(sequences, reversed(range(len(sequences))), strict=True)
    ]
    return Choices(streams), {SEED_HEADER: str(sequences[0].params.seed)}


def tenant_of(request: Request) -> str:
    """Name of the client's key, "" without keys."""
    name: str = getattr(request.state, "tenant", "")
    return name
