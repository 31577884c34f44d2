"""Sealed tokens open with any known key until they expire; everything else is refused."""

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.seal import Purpose, Sealer, token_chars
from service.errors import InvalidTokenError

OLD, NEW, OTHER = "o" * 32, "n" * 32, "x" * 32
LIFETIME_S = 100
MAX_BYTES = 500


class Clock:
    """A clock that tests set."""

    now = 1_000_000.0

    def __call__(self) -> float:
        """Return unix seconds."""
        return self.now


def refusal(sealer: Sealer, token: str, purpose: Purpose = Purpose.STATE) -> tuple[str | None, str | None]:
    """Return the code and field of the error for a token."""
    with pytest.raises(InvalidTokenError) as caught:
        sealer.open(purpose, token, MAX_BYTES, "state")
    assert caught.value.status == 400
    return (caught.value.code or "").removeprefix("invalid_token_"), caught.value.param


@given(st.binary(max_size=MAX_BYTES), st.sampled_from(Purpose))
def test_what_goes_in_comes_out(content: bytes, purpose: Purpose) -> None:
    """A token fits a URL, has the predicted length, and opens in another process with the same secret."""
    token = Sealer([NEW], LIFETIME_S).seal(purpose, content)
    assert re.fullmatch("[A-Za-z0-9_-]+", token)
    assert len(token) == token_chars(len(content))
    assert Sealer([NEW], LIFETIME_S).open(purpose, token, len(content), "state") == content


def test_the_content_cannot_be_seen_and_no_token_is_like_another() -> None:
    """Tokens are encrypted; two tokens of the same content share nothing but their head."""
    sealer = Sealer([NEW], LIFETIME_S)
    first, second = (sealer.seal(Purpose.STATE, b"confidential" * 9) for _ in range(2))
    raw = [base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)) for token in (first, second)]
    assert b"confidential" not in raw[0]
    assert raw[0][:6] == raw[1][:6]
    assert raw[0][6:18] != raw[1][6:18]
    assert raw[0][18:50] != raw[1][18:50]


def test_keys_are_rotated_without_a_gap() -> None:
    """A replica with the new secret first opens old tokens, and seals tokens that need the new secret."""
    old, both, new = Sealer([OLD], LIFETIME_S), Sealer([NEW, OLD], LIFETIME_S), Sealer([NEW], LIFETIME_S)
    before = old.seal(Purpose.STATE, b"before")
    after = both.seal(Purpose.STATE, b"after")
    assert both.open(Purpose.STATE, before, MAX_BYTES, "state") == b"before"
    assert new.open(Purpose.STATE, after, MAX_BYTES, "state") == b"after"
    assert refusal(new, before) == refusal(old, after) == ("unknown_key", "state")


def test_without_a_secret_a_token_ends_with_its_process() -> None:
    """Without secrets, a token opens in its own process only."""
    sealer = Sealer([], LIFETIME_S)
    token = sealer.seal(Purpose.STATE, b"here")
    assert sealer.open(Purpose.STATE, token, MAX_BYTES, "state") == b"here"
    assert refusal(Sealer([], LIFETIME_S), token) == ("unknown_key", "state")


def test_each_kind_of_wrong_token_has_its_own_code() -> None:
    """Too long, malformed, another version or purpose, damaged, expired: six codes."""
    clock = Clock()
    sealer = Sealer([NEW], LIFETIME_S, clock)
    token = sealer.seal(Purpose.STATE, b"content")
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    next_version = base64.urlsafe_b64encode(bytes([raw[0] + 1]) + raw[1:]).rstrip(b"=").decode()
    assert refusal(sealer, "A" * (token_chars(MAX_BYTES) + 1)) == ("too_large", "state")
    assert refusal(sealer, next_version) == ("version", "state")
    assert refusal(sealer, token, Purpose.STREAM) == ("purpose", "state")
    for odd in ("", "A", "no token", "AAAA====", "\N{SNOWMAN}" * 40, token[:20], token + "=", token + "\n", "A" * 30):
        assert refusal(sealer, odd) == ("malformed", "state")
    clock.now += LIFETIME_S - 1
    assert sealer.open(Purpose.STATE, token, MAX_BYTES, "state") == b"content"
    clock.now += 1
    assert refusal(sealer, token) == ("expired", "state")


@given(st.data())
def test_no_bit_can_be_changed(data: st.DataObject) -> None:
    """A token with any bit flipped, or a piece missing, is refused."""
    sealer = Sealer([NEW], LIFETIME_S)
    token = sealer.seal(Purpose.STATE, b"some content")
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    flipped = base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode()
    refusal(sealer, flipped)
    refusal(sealer, token[: data.draw(st.integers(0, len(token) - 1))])


@given(st.text(max_size=800))
def test_any_text_is_refused_and_nothing_else_happens(text: str) -> None:
    """Arbitrary text is refused as a token."""
    refusal(Sealer([OTHER], LIFETIME_S), text)
