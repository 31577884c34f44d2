"""Liveness and readiness."""

from dataclasses import asdict

from fastapi import APIRouter

from service.api.deps import Here
from service.api.openapi import PROBLEMS
from service.api.schemas.models import Health
from service.engine.loop import Engine
from service.errors import NotReadyError
from service.telemetry.peers import Peers, Silence

UNREADY_REASON = "unready_reason"  # question to the other processes

router = APIRouter()


@router.get("/healthz", summary="Whether the service lives", responses={503: PROBLEMS[503]})
async def healthz(here: Here) -> Health:
    """Answer 200 as long as the engine's thread runs, whatever the load."""
    if not here.engine.is_alive:
        raise NotReadyError("The engine has stopped.")
    return _health(here.engine, "ok")


@router.get("/readyz", summary="Whether to send requests", responses={503: PROBLEMS[503]})
async def readyz(here: Here) -> Health:
    """Answer 200 as long as the engine of each process moves: work without a step, or a shutdown begun, is 503."""
    if reason := here.engine.unready_reason or await _unready_peer(here.peers):
        raise NotReadyError(reason)
    return _health(here.engine, "ready")


async def _unready_peer(peers: Peers) -> str | None:
    """Return why another process that gets connections is not ready, or None."""
    for answer in (await peers.ask(UNREADY_REASON)).values():
        if isinstance(answer, Silence):
            return "A process of the service does not answer."
        if answer:
            return str(answer)
    return None


def _health(engine: Engine, status: str) -> Health:
    return Health(status=status, running=engine.num_running, waiting=engine.num_waiting, **asdict(engine.gauges))
