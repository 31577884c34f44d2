"""State tokens: what they hold comes back to the bit, and only to whom, where and for what it was made."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.codec import InkCodec, TextCodec
from service.access.seal import Purpose, Sealer
from service.api import state_tokens as states
from service.api.state_tokens import State, StateKeeper
from service.engine.sequences.snapshot import Snapshot
from service.errors import InvalidTokenError

SEALER = Sealer(["s" * 32], 100)
TEXT, INK = TextCodec(tuple("abc"), "bytes"), InkCodec((0.0, 0.0), (1.0, 1.0))
FINGERPRINT = "ab" * 32

float32s = st.floats(-1e6, 1e6, width=32)
snapshots = st.builds(
    Snapshot,
    row=st.binary(min_size=8, max_size=8) | st.just(b""),
    last=st.integers(0, TEXT.size - 1),
    position=st.integers(0, 2**63 - 1),
    held=st.text(st.characters(exclude_categories=["Cs"]), max_size=64),
    unfinished=st.binary(max_size=3),
    counts=st.dictionaries(st.integers(0, TEXT.size - 1), st.integers(1, 2**32 - 1), max_size=TEXT.size),
)
seeds = st.integers(-(2**63), 2**63 - 1)


class Rows:
    """Rows of eight bytes, of which one value is not sound."""

    row_bytes = 8
    stepper = "test"

    def check(self, saved: bytes) -> None:
        """Refuse it, and other sizes."""
        if len(saved) != 8 or saved == b"not fine":
            raise ValueError("no")


def keeper(codec: TextCodec | InkCodec = TEXT, fingerprint: str = FINGERPRINT) -> StateKeeper:
    """A keeper for a bundle with such rows."""
    return StateKeeper(SEALER, fingerprint, codec, Rows())


def refusal(reader: StateKeeper, token: str, tenant: str = "") -> str:
    """The last part of the code with which a token is refused."""
    with pytest.raises(InvalidTokenError) as caught:
        reader.open(token, tenant)
    assert caught.value.param == "state"
    return (caught.value.code or "").removeprefix("invalid_token_")


@given(snapshots, seeds, st.integers(0, 2**16 - 1), st.data())
def test_text_comes_back(snapshot: Snapshot, seed: int, choice: int, data: st.DataObject) -> None:
    """Every part of a text's state, another keeper of the same bundle reads as it was."""
    read = data.draw(st.integers(0, len(snapshot.held)))
    state = State(Snapshot(**{**vars(snapshot), "held_trace": bytes(range(read))}), seed, choice)
    assert keeper().open(keeper().seal(state, "someone"), "someone") == state


@given(st.tuples(float32s, float32s, float32s), st.binary(max_size=256), seeds)
def test_ink_comes_back(last: Any, told: bytes, seed: int) -> None:
    """The last offset and what the reply noted come back to the bit."""
    state = State(Snapshot(b"\1" * 8, last, 7), seed, 0, told)
    assert keeper(INK).open(keeper(INK).seal(state, ""), "") == state


def test_a_state_is_bound_to_client_bundle_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another client, another bundle, another kind of machine: each is refused with a code of its own."""
    state = State(Snapshot(b"\1" * 8, 1, 5), 3, 0)
    token = keeper().seal(state, "alice")
    assert keeper().open(token, "alice") == state
    assert refusal(keeper(), token, "bob") == refusal(keeper(), token, "") == "tenant"
    assert refusal(keeper(fingerprint="cd" * 32), token, "alice") == "model"
    assert refusal(keeper(INK), token, "alice") == "model"
    monkeypatch.setattr(states, "machine_class", lambda: "another")
    assert refusal(keeper(), token, "alice") == "machine"


def test_no_token_is_larger_than_allowed_and_no_larger_one_is_opened() -> None:
    """The fullest state there can be fits; a token of a larger network is refused unread."""
    counts = dict.fromkeys(range(TEXT.size), 2**32 - 1)
    full = State(Snapshot(b"\1" * 8, 1, 5, "\U0001f600" * 64, b"\1" * 64, b"\xf0\x9f\x98", counts), 3, 0, b"\1" * 256)
    assert keeper().open(keeper().seal(full, ""), "") == full
    assert refusal(keeper(), SEALER.seal(Purpose.STATE, b"x" * (keeper().max_bytes + 1))) == "too_large"


@given(st.data())
def test_what_was_sealed_but_is_no_state_is_refused(data: st.DataObject) -> None:
    """Content cut short or too long is refused and not half taken over."""
    state = State(Snapshot(b"\1" * 8, 1, 5, "ab", b"\1", b"\xe2", {1: 2}), 3, 0)
    content = SEALER.open(Purpose.STATE, keeper().seal(state, ""), 10**6, "state")
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    assert refusal(keeper(), SEALER.seal(Purpose.STATE, cut)) == "broken"
    assert refusal(keeper(), SEALER.seal(Purpose.STATE, content + b"\0")) == "broken"


def test_a_note_too_long_is_refused() -> None:
    """What a reply notes of itself is bounded."""
    assert refusal(keeper(INK), keeper(INK).seal(State(Snapshot(b"", (0, 0, 0), 5), 0, 0, b"1" * 257), "")) == "broken"


@pytest.mark.parametrize(
    "snapshot",
    [
        Snapshot(b"not fine", 1, 5),
        Snapshot(b"short", 1, 5),
        Snapshot(b"", TEXT.size, 5),
        Snapshot(b"", 1, 5, counts={TEXT.size: 1}),
        Snapshot(b"", 1, 2**63),
        Snapshot(b"", 1, 5, "a" * 65),
        Snapshot(b"", 1, 5, "a", b"\1\1"),
        Snapshot(b"", 1, 5, unfinished=b"\xf0\x9f\x98\x80"),
    ],
)
def test_values_that_cannot_be_are_refused(snapshot: Snapshot) -> None:
    """A row that is not sound, symbols there are not, positions beyond the last, more held than can be."""
    assert refusal(keeper(), keeper().seal(State(snapshot, 0, 0), "")) == "broken"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(number: float) -> None:
    """An offset is never NaN or infinite."""
    for last in ((0.0, number, 0.0), (number, 0.0, 0.0)):
        assert refusal(keeper(INK), keeper(INK).seal(State(Snapshot(b"", last, 5), 0, 0), "")) == "broken"


def test_held_characters_must_be_text() -> None:
    """Bytes that are no UTF-8 where characters belong."""
    content = SEALER.open(Purpose.STATE, keeper().seal(State(Snapshot(b"", 1, 5, "ab"), 0, 0), ""), 10**6, "state")
    odd = content.replace(struct.pack("<I", 2) + b"ab", struct.pack("<I", 2) + b"\xff\xff")
    assert odd != content
    assert refusal(keeper(), SEALER.seal(Purpose.STATE, odd)) == "broken"
