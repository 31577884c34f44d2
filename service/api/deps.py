"""What the endpoints depend on: the parts of the service, the client's tenant, and a way into the engine's queue."""

from collections.abc import Sequence as Seq
from typing import Annotated, Any

import structlog
from anyio import CapacityLimiter
from fastapi import Depends, Request
from structlog.contextvars import bind_contextvars

from service.access.rate_limits import RateLimits
from service.access.seal import Sealer
from service.api.responses.styles import StyleSamples
from service.api.state_tokens import StateKeeper
from service.engine.loop import Engine
from service.engine.streams import Choices, submit_all
from service.handwriting.priming import PrimedStates
from service.registry.registry import ModelRegistry
from service.registry.served import InkModel, ServedModel, TextModel
from service.settings import Settings
from service.telemetry.peers import Peers

_log = structlog.get_logger(__name__)

SEED_HEADER = "x-seed"


class Service:
    """The parts of the service that endpoints use; made once, at start.

    Args:
        settings: the service's settings.
        registry: the bundles that are served.
        engine: steps the bundles' networks.
        rates: counts the steps that each key asks for; a request is charged before it is submitted.
        peers: the other processes of the service.
        primed: cache of networks' states that have read a prime.
        samples: cards of all hands, each drawn once.
        drawing: limits the threads that the copybook writes on.

    Attributes:
        keys: of the clients that are let in.
        sealer: seals state and stream tokens.
    """

    def __init__(
        self,
        settings: Settings,
        registry: ModelRegistry,
        engine: Engine,
        rates: RateLimits,
        peers: Peers,
        primed: PrimedStates,
        samples: StyleSamples,
        drawing: CapacityLimiter,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.engine = engine
        self.rates = rates
        self.peers = peers
        self.primed = primed
        self.samples = samples
        self.drawing = drawing
        self.keys = settings.keys
        if not settings.state_secrets:
            _log.info("no state keys: state and stream tokens are good until this service ends")
        self.sealer = Sealer(settings.state_secrets or [peers.secret], settings.state_ttl_s)

    def keeper(self, model: TextModel | InkModel) -> StateKeeper:
        """Return what makes and reads the state tokens of a model."""
        return StateKeeper(self.sealer, model.bundle.fingerprint, model.codec, model.executor.runner)


async def _service(request: Request) -> Service:  # not async, FastAPI would call it on another thread
    service: Service = request.app.state.service
    return service


# An endpoint with the parameter `here: Here` is given the parts of the service.
Here = Annotated[Service, Depends(_service)]


def submit(here: Service, model: ServedModel, sequences: Seq[Any]) -> tuple[Choices, dict[str, str]]:
    """Submit the sequences of a request, all or none; return their streams, and headers of the response."""
    bind_contextvars(model=model.name)
    choices = submit_all(here.engine, model.executor, sequences)
    return choices, {SEED_HEADER: str(sequences[0].params.seed)}


def tenant_of(request: Request) -> str:
    """Return the name of the client's key, "" without keys."""
    name: str = getattr(request.state, "tenant", "")
    return name
