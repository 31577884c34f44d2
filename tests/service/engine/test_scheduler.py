"""The scheduler as a state machine: no row twice, first come first served, a row is free once its sequence is out."""

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.engine.scheduler import Move, Scheduler
from service.engine.sequences.base import Status


@dataclass(eq=False)
class Guest:
    """Something to schedule."""

    number: int
    status: Status = Status.WAITING
    row: int = -1
    is_ready: bool = True


class Machine(RuleBasedStateMachine):
    """Adds, admits and removes at random, with a model of what each row holds beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.capacity = 3
        self.scheduler: Scheduler[Guest] = Scheduler(self.capacity)
        self.held: list[int | None] = [None] * self.capacity
        self.guests: list[Guest] = []
        self.admitted = 0

    @rule(is_ready=st.booleans())
    def add(self, is_ready: bool) -> None:
        """Let one more wait, who could start or could not yet."""
        self.guests.append(Guest(len(self.guests), is_ready=is_ready))
        self.scheduler.add(self.guests[-1])

    @precondition(lambda self: self.guests)
    @rule(data=st.data())
    def make_ready(self, data: st.DataObject) -> None:
        """Someone can start who could not, maybe."""
        data.draw(st.sampled_from(self.guests)).is_ready = True

    @rule()
    def admit(self) -> None:
        """Rows are filled with the longest waiting that are ready, and only as many as there are."""
        waiting = [guest for guest in self.scheduler.waiting if guest.is_ready]
        free = self.capacity - len(self.scheduler.rows)
        admitted = self.scheduler.admit()
        assert admitted == waiting[:free]
        for guest in admitted:
            self.held[guest.row] = guest.number

    @precondition(lambda self: self.guests)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Removing frees what the guest occupied at once, and a second time does nothing."""
        guest = data.draw(st.sampled_from(self.guests))
        was = guest.status
        occupied = len(self.scheduler.rows), len(self.scheduler.waiting)
        move = self.scheduler.remove(guest)
        if move:
            assert was is Status.RUNNING
            self.held[move.target] = self.held[move.source]
        now = len(self.scheduler.rows), len(self.scheduler.waiting)
        assert occupied[0] - now[0] == (was is Status.RUNNING)
        assert occupied[1] - now[1] == (was is Status.WAITING)
        assert guest.status is Status.FINISHED

    @invariant()
    def rows_are_dense_and_follow_the_data(self) -> None:
        """Running guests own rows 0 .. n-1, one each, and the data of each lies in its row."""
        assert len(self.scheduler.rows) <= self.capacity
        for row, guest in enumerate(self.scheduler.rows):
            assert guest.status is Status.RUNNING
            assert guest.row == row
            assert self.held[row] == guest.number

    @invariant()
    def everyone_is_somewhere(self) -> None:
        """Each guest waits, runs or is finished, and the lists agree with its status."""
        for guest in self.guests:
            assert (guest in self.scheduler.waiting) == (guest.status is Status.WAITING)
            assert (guest in self.scheduler.rows) == (guest.status is Status.RUNNING)

    def teardown(self) -> None:
        """Everyone finishes if the running ones are retired again and again."""
        rounds = 0
        while self.scheduler.rows or self.scheduler.waiting:
            for guest in self.scheduler.waiting:
                guest.is_ready = True
            self.scheduler.admit()
            for guest in list(self.scheduler.rows):
                self.scheduler.remove(guest)
            rounds += 1
        assert all(guest.status is Status.FINISHED for guest in self.guests)
        assert rounds <= len(self.guests)


TestScheduler = Machine.TestCase


def test_the_last_row_fills_the_gap() -> None:
    """Removing from the middle moves the last row there; removing the last moves nothing."""
    scheduler: Scheduler[Guest] = Scheduler(3)
    guests = [Guest(number) for number in range(3)]
    for guest in guests:
        scheduler.add(guest)
    scheduler.admit()
    assert scheduler.remove(guests[0]) == Move(source=2, target=0)
    assert guests[2].row == 0
    assert scheduler.remove(guests[1]) is None
