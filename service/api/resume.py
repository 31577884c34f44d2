"""Which part of a stream a request asks for, as the engine and the replies need it."""

from dataclasses import dataclass
from typing import Protocol

from service.api.schemas.completions import SEED_NEEDED
from service.api.state_tokens import State, StateKeeper
from service.engine.sampling import fresh_seed
from service.engine.sequences.snapshot import Snapshot, StreamPart
from service.errors import InvalidRequestError


class Resumable(Protocol):
    """The fields of a request that say so."""

    @property
    def seed(self) -> int | None:
        """Of the draws."""
        ...

    @property
    def state(self) -> str | None:
        """Token of an earlier reply."""
        ...

    @property
    def return_state(self) -> bool:
        """Whether the reply ends with a token."""
        ...

    @property
    def resume_at(self) -> int:
        """Characters or points that came before the reply was cut."""
        ...


class Seal(Protocol):
    """Makes a state token."""

    def __call__(self, snapshot: Snapshot, index: int, told: bytes = b"") -> str:
        """Return the token of a snapshot.

        Args:
            snapshot: of a sequence that has ended.
            index: of its choice.
            told: what the reply notes for the one that goes on.
        """
        ...


@dataclass(frozen=True)
class Resumption:
    """Where a request's stream starts and what is handed out at its end.

    Attributes:
        part: for the engine.
        seed: of the draws: the request's, else the state's, else one made up.
        told: what the reply before noted for this one.
        seal: makes the token that is handed out.
    """

    part: StreamPart
    seed: int
    told: bytes
    seal: Seal

    @classmethod
    def of(cls, body: Resumable, keeper: StateKeeper, tenant: str) -> "Resumption":
        """Return the course of a request.

        Args:
            body: the request.
            keeper: of the model that it asks for.
            tenant: name of the client's key; its states are its own.

        Raises:
            InvalidTokenError: its state cannot be gone on with here.
            InvalidRequestError: it wants to resume what it does not name.
        """
        state = None if body.state is None else keeper.open(body.state, tenant)
        if body.resume_at and body.seed is None and state is None:
            raise InvalidRequestError(SEED_NEEDED, "resume_at")
        given = body.seed if body.seed is not None else state.seed if state else None
        seed = fresh_seed() if given is None else given
        choice = state.choice if state else 0
        part = StreamPart(state.snapshot if state else None, choice, body.resume_at, body.return_state)

        def seal(snapshot: Snapshot, index: int, told: bytes = b"") -> str:
            return keeper.seal(State(snapshot, seed, choice + index, told), tenant)

        return cls(part, seed, state.told if state else b"", seal)
