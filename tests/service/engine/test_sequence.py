"""What a sequence tells, and when: whole characters, aligned columns, nothing of a stop string."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from model.codec import REPLACEMENT, TextCodec
from service.engine.sequence import Delta, InkParams, InkSequence, TextParams, TextSequence
from service.sampling import FAILED, uniforms

LETTERS = TextCodec(("a", "b", "c", "\n", REPLACEMENT), "replace")
BYTES = TextCodec((), "bytes")


def run(sequence: TextSequence, tokens: list[int], told_at: set[int] | None = None) -> list[Delta]:
    """Advance with these tokens as draws until the sequence ends, taking what it tells at the steps named."""
    deltas = []
    drawn = iter(tokens)
    for step in range(10_000):
        has_prompt = len(sequence._trace) + 1 < len(sequence._inputs)
        needs_draw = not has_prompt and not sequence._closing
        sequence.advance(step % 4, next(drawn) if needs_draw else FAILED)
        if sequence.reason:
            break
        if told_at is None or step in told_at:
            deltas.append(sequence.take())
    deltas.append(sequence.take())
    return deltas


def told(deltas: list[Delta]) -> Delta:
    """Join all that was told."""
    whole = Delta()
    for delta in deltas:
        whole.extend(delta)
    return whole


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=40),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=4),
    st.booleans(),
    st.sets(st.integers(0, 50)),
    st.text("abc", max_size=5),
)
def test_tells_the_text_up_to_the_first_stop(
    tokens: list[int], stops: list[str], boundaries: bool, told_at: set[int], prompt: str
) -> None:
    """The text told is that before the stop string which is complete first, however it is cut and with or without z."""
    params = TextParams(seed=0, max_tokens=len(tokens), stop=tuple(stops))
    ids = LETTERS.encode(prompt).tolist()
    sequence = TextSequence(LETTERS, ids, 3, params, boundaries=boundaries)
    whole = told(run(sequence, tokens, told_at))
    text = LETTERS.decode(tokens)
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    expected = text[: min(ends)[1]] if ends else text
    assert "".join(whole.items) == expected
    assert whole.end is not None
    assert whole.end.reason == ("stop" if ends else "length")
    assert whole.end.num_drawn == (min(ends)[0] if ends else len(tokens))
    assert len(whole.trace) == (len(expected) if boundaries else 0)
    num_inputs = max(1, len(prompt))
    if boundaries:
        # A character's byte is that of the step which read it, and that step is run for the last one too.
        assert list(whole.trace) == [(num_inputs + index) % 4 for index in range(len(expected))]
    assert len(whole.end.trace) >= num_inputs + whole.end.num_drawn - 1


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    st.booleans(),
    st.sets(st.integers(0, 60)),
)
def test_bytes_become_whole_characters(text: str, boundaries: bool, told_at: set[int]) -> None:
    """A character of several bytes is told when its last byte has come, with one trace byte."""
    tokens = list(text.encode())
    sequence = TextSequence(BYTES, [65], 65, TextParams(seed=0, max_tokens=len(tokens)), boundaries=boundaries)
    deltas = run(sequence, tokens, told_at)
    whole = told(deltas)
    assert "".join(whole.items) == text
    for delta in deltas:
        assert len(delta.trace) == (len("".join(delta.items)) if boundaries else 0)


def test_an_unfinished_character_is_told_as_one_replacement() -> None:
    """A text that ends within a character's bytes tells U+FFFD for it, with its trace byte."""
    sequence = TextSequence(BYTES, [65], 65, TextParams(seed=0, max_tokens=2), boundaries=True)
    whole = told(run(sequence, list("\N{SNOWMAN}".encode())))
    assert whole.items == [REPLACEMENT]
    assert len(whole.trace) == 1


def test_an_empty_prompt_reads_the_primer() -> None:
    """Without a prompt the primer is read, and it is not counted as one."""
    sequence = TextSequence(LETTERS, [], 3, TextParams(seed=0, max_tokens=1))
    assert sequence.next_input == 3
    end = told(run(sequence, [0])).end
    assert end is not None
    assert (end.num_prompt, end.num_drawn, len(end.trace)) == (0, 1, 1)


def test_a_failed_draw_ends_the_sequence() -> None:
    """An output that is not finite ends the sequence with an error, after what it had."""
    sequence = TextSequence(LETTERS, [0], 3, TextParams(seed=0, max_tokens=9))
    whole = told(run(sequence, [1, FAILED]))
    assert whole.items == ["b"]
    assert whole.end is not None
    assert whole.end.reason == "error"


def test_the_first_reason_stays() -> None:
    """A sequence that was cancelled does not become finished by a step that was under way."""
    sequence = TextSequence(LETTERS, [0], 3, TextParams(seed=0, max_tokens=1))
    sequence.finish("cancelled")
    sequence.advance(0, 1)
    assert sequence.reason == "cancelled"


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 3))
def test_draws_belong_to_the_position(seed: int, choice: int) -> None:
    """The draw for the n-th symbol is that of position n, asked once or often, across blocks."""
    expected = uniforms(seed, choice, 0, 150).tolist()
    params = TextParams(seed=seed, max_tokens=150)
    sequence = TextSequence(LETTERS, [0, 1, 2], 3, params, choice=choice)
    for _ in range(2):
        assert sequence.draw() == expected[0]
        sequence.advance(0, FAILED)
    for position in range(150):
        assert sequence.draw() == sequence.draw() == expected[position]
        sequence.advance(0, 1)


def test_ink_starts_with_its_fixed_point_and_has_as_many_as_asked() -> None:
    """The first point is where the pen is set down, and each point comes with the byte of the step that read it."""
    start: Any = (0.0, 0.0, 0.0)
    sequence = InkSequence(start, InkParams(seed=0, max_points=3))
    drawn = [[1.0, 2.0, 0.0], [3.0, 4.0, 1.0], [9.0, 9.0, 9.0]]
    for step, offset in enumerate(drawn):
        assert sequence.reason is None
        sequence.advance(step, offset)
    delta = sequence.take()
    assert delta.items == [start, *drawn[:2]]
    assert delta.trace == bytes([0, 1, 2])
    assert delta.end is not None
    assert (delta.end.reason, delta.end.num_drawn) == ("length", 2)


def test_ink_that_is_not_finite_ends_with_an_error() -> None:
    """A broken offset is not told."""
    sequence = InkSequence((0.0, 0.0, 0.0), InkParams(seed=0, max_points=9))
    sequence.advance(0, [float("nan")] * 3)
    delta = sequence.take()
    assert delta.end is not None
    assert delta.end.reason == "error"
    assert len(delta.items) == 1
