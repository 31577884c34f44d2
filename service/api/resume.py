"""Which part of a stream a request asks for, as the engine and the replies need it."""

from dataclasses import dataclass
from typing import Protocol

from service.api.schemas.completions import SEED_NEEDED
from service.api.state_tokens import State, StateKeeper
from service.engine.sampling import fresh_seed
from service.engine.sequences.snapshot import Snapshot, StreamPart
from service.errors import InvalidRequestError


class Resumable(Protocol):
    """The fields of a request that say where its stream starts and ends."""

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

    def __call__(self, snapshot: Snapshot, index: int, note: bytes = b"") -> str:
        """Return the token of a snapshot.

        Args:
            snapshot: of a sequence that has ended.
            index: of its choice.
            note: what the reply leaves for the one that continues it.
        """
        ...


@dataclass(frozen=True)
class Resumption:
    """Where a request's stream starts, and how the state at its end becomes a token.

    Attributes:
        part: of the stream, for the engine.
        seed: of the draws: the request's, else the state's, else a fresh one.
        note: what the earlier reply left for this one.
        seal: makes the token of the state at the end.
    """

    part: StreamPart
    seed: int
    note: bytes
    seal: Seal

    @classmethod
    def of(cls, request: Resumable, keeper: StateKeeper, tenant: str) -> "Resumption":
        """Return where a request's stream starts.

        Args:
            request: what is asked for.
            keeper: reads and makes the state tokens of its model.
            tenant: name of the client's key; its states are its own.

        Raises:
            InvalidTokenError: the state of the request cannot be continued here.
            InvalidRequestError: it resumes a stream without saying which.
        """
        state = None if request.state is None else keeper.open(request.state, tenant)
        if request.resume_at and request.seed is None and state is None:
            raise InvalidRequestError(SEED_NEEDED, "resume_at")
        given = request.seed if request.seed is not None else state.seed if state else None
        seed = fresh_seed() if given is None else given
        choice = state.choice if state else 0
        part = StreamPart(state.snapshot if state else None, choice, request.resume_at, request.return_state)

        def seal(snapshot: Snapshot, index: int, note: bytes = b"") -> str:
            return keeper.seal(State(snapshot, seed, choice + index, note), tenant)

        return cls(part, seed, state.note if state else b"", seal)
