"""What a sequence publishes, and when: whole characters, aligned columns, nothing of a stop string."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from model.codec import REPLACEMENT, TextCodec
from service.engine.sampling import FAILED, SMALLEST, uniforms
from service.engine.sequences.base import Delta, Score
from service.engine.sequences.free_ink import InkParams, InkSequence
from service.engine.sequences.snapshot import Snapshot, StreamPart
from service.engine.sequences.text import TextParams, TextSequence

LETTERS = TextCodec(("a", "b", "c", "\n", REPLACEMENT), "replace")
BYTES = TextCodec((), "bytes")


def run(sequence: TextSequence, tokens: list[int], taken_at: set[int] | None = None) -> list[Delta]:
    """Advance with these tokens as draws until the sequence ends, and take its items at the steps named."""
    deltas = []
    drawn = iter(tokens)
    for step in range(10_000):
        has_prompt = len(sequence._trace) + 1 < len(sequence._inputs)
        needs_draw = not has_prompt and not sequence._closing
        choice = next(drawn, 0) if needs_draw else FAILED
        if sequence.wants_score:
            token = sequence.upcoming(choice)
            sequence.score = Score(token, -float(token), [(token, -float(token))])
            choice = token  # a row whose likelihoods are known has not failed
        sequence.advance(step % 4, choice)
        if sequence.reason:
            break
        if taken_at is None or step in taken_at:
            deltas.append(sequence.take())
    deltas.append(sequence.take())
    return deltas


def joined(deltas: list[Delta]) -> Delta:
    """Join deltas."""
    whole = Delta()
    for delta in deltas:
        whole.extend(delta)
    return whole


@given(
    st.lists(st.integers(0, 255), max_size=9),
    st.lists(st.integers(0, 255), max_size=12),
    st.booleans(),
    st.sets(st.integers(0, 60)),
)
@example([], [237, 160], False, set())  # two characters at the end
@example([237], [160, 97], True, {1})
def test_echo_and_scores_fit_the_text(
    prompt: list[int], tokens: list[int], boundaries: bool, taken_at: set[int]
) -> None:
    """Of any bytes, broken ones too, the echo is their text, and each character has the scores of its own symbols."""
    params = TextParams(seed=0, max_tokens=len(tokens), echo=True, logprobs=1)
    deltas = run(TextSequence(BYTES, prompt, 65, params, boundaries=boundaries), tokens, taken_at)
    whole = joined(deltas)
    assert "".join(whole.items) == BYTES.decode(prompt + tokens)
    assert all(len(delta.scores) == len(delta.items) for delta in deltas)
    assert all(len(delta.trace) == (len(delta.items) if boundaries else 0) for delta in deltas)
    scores = [score for item in whole.scores for score in item]
    assert [score.token for score in scores] == prompt + tokens
    expected = [None, *(-float(token) for token in prompt[1:])] if prompt else []
    assert [score.logprob for score in scores] == [*expected, *(-float(token) for token in tokens)]
    for character, item in zip(whole.items, whole.scores, strict=True):
        spelt = bytes(score.token for score in item)
        assert character == (REPLACEMENT if character == REPLACEMENT else spelt.decode())
        assert spelt
    assert whole.end is not None
    assert (whole.end.num_prompt, whole.end.num_drawn, whole.end.reason) == (len(prompt), len(tokens), "length")
    if boundaries:
        # A character's byte is that of the step which read its last symbol; a broken one is known a step later.
        for index, character in enumerate(whole.items):
            end = sum(map(len, whole.scores[: index + 1])) - 1
            assert character == REPLACEMENT or whole.trace[index] == (end + (not prompt)) % 4


@given(st.text("abc", max_size=6), st.lists(st.integers(0, 2), min_size=1, max_size=20), st.text("abc", min_size=1))
def test_a_stop_string_takes_its_scores_with_it(prompt: str, tokens: list[int], stop: str) -> None:
    """A stop string is looked for in what was drawn, never in the echo, and what it takes away has no scores."""
    params = TextParams(seed=0, max_tokens=len(tokens), stop=(stop,), echo=True, logprobs=0)
    whole = joined(run(TextSequence(LETTERS, LETTERS.encode(prompt).tolist(), 3, params), tokens))
    text = LETTERS.decode(tokens)
    assert "".join(whole.items) == prompt + (text[: text.find(stop)] if stop in text else text)
    assert len(whole.scores) == len(whole.items)


def test_without_echo_only_what_is_drawn_has_scores() -> None:
    """The prompt is neither published nor scored, and the first score is that of the first symbol drawn."""
    sequence = TextSequence(LETTERS, [0, 1, 2], 3, TextParams(seed=0, max_tokens=2, logprobs=1))
    whole = joined(run(sequence, [1, 2]))
    assert "".join(whole.items) == "bc"
    assert [[score.token for score in item] for item in whole.scores] == [[1], [2]]


def test_penalties_follow_what_was_drawn() -> None:
    """A symbol loses presence once and frequency for each time it was drawn; the prompt counts for nothing."""
    params = TextParams(
        seed=0, max_tokens=9, logit_bias=((0, 5.0), (2, -100.0)), presence_penalty=0.5, frequency_penalty=0.25
    )
    sequence = TextSequence(LETTERS, [1], 3, params)
    assert sequence.bias is not None
    assert sequence.bias.tolist() == [5, 0, -100, 0, 0]
    for token in (0, 1, 0):
        sequence.advance(0, token)
    assert sequence.bias.tolist() == [5 - 0.5 - 2 * 0.25, -0.5 - 0.25, -100, 0, 0]
    assert TextSequence(LETTERS, [1], 3, TextParams(seed=0, max_tokens=1)).bias is None


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=40),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=4),
    st.booleans(),
    st.sets(st.integers(0, 50)),
    st.text("abc", max_size=5),
)
def test_tells_the_text_up_to_the_first_stop(
    tokens: list[int], stops: list[str], boundaries: bool, taken_at: set[int], prompt: str
) -> None:
    """The text is what precedes the stop string that is complete first, however it is cut, with or without z."""
    params = TextParams(seed=0, max_tokens=len(tokens), stop=tuple(stops))
    ids = LETTERS.encode(prompt).tolist()
    sequence = TextSequence(LETTERS, ids, 3, params, boundaries=boundaries)
    whole = joined(run(sequence, tokens, taken_at))
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
def test_bytes_become_whole_characters(text: str, boundaries: bool, taken_at: set[int]) -> None:
    """A character of several bytes is published when its last byte has come, with one trace byte."""
    tokens = list(text.encode())
    sequence = TextSequence(BYTES, [65], 65, TextParams(seed=0, max_tokens=len(tokens)), boundaries=boundaries)
    deltas = run(sequence, tokens, taken_at)
    whole = joined(deltas)
    assert "".join(whole.items) == text
    for delta in deltas:
        assert len(delta.trace) == (len("".join(delta.items)) if boundaries else 0)


def test_a_character_broken_by_a_prompt_takes_no_scores_of_others() -> None:
    """Where a prompt follows half a character, its replacement has no scores, and later characters have their own."""
    part = StreamPart(Snapshot(b"", 226, 1, unfinished=bytes([226])))
    params = TextParams(seed=0, max_tokens=2, logprobs=1)
    whole = joined(run(TextSequence(BYTES, [97], 65, params, part=part), [98, 99]))
    assert "".join(whole.items) == "\ufffdbc"
    assert [[score.token for score in scores] for scores in whole.scores] == [[], [98], [99]]


def test_an_unfinished_character_becomes_one_replacement() -> None:
    """A text that ends within a character's bytes has U+FFFD for it, with its trace byte."""
    sequence = TextSequence(BYTES, [65], 65, TextParams(seed=0, max_tokens=2), boundaries=True)
    whole = joined(run(sequence, list("\N{SNOWMAN}".encode())))
    assert whole.items == [REPLACEMENT]
    assert len(whole.trace) == 1


def test_an_empty_prompt_reads_the_primer() -> None:
    """Without a prompt the primer is read, and it is not counted as one."""
    sequence = TextSequence(LETTERS, [], 3, TextParams(seed=0, max_tokens=1))
    assert sequence.next_input == 3
    end = joined(run(sequence, [0])).end
    assert end is not None
    assert (end.num_prompt, end.num_drawn, len(end.trace)) == (0, 1, 1)


def test_a_failed_draw_ends_the_sequence() -> None:
    """An output that is not finite ends the sequence with an error, after what it had."""
    sequence = TextSequence(LETTERS, [0], 3, TextParams(seed=0, max_tokens=9))
    whole = joined(run(sequence, [1, FAILED]))
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
    expected = uniforms(seed, choice, 0, 150)[:, 0].tolist()
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


def test_ink_reads_a_prime_and_tells_none_of_it() -> None:
    """The prime is read in its order, what is drawn meanwhile counts for nothing, and the drawing begins at rest."""
    prime = [(0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (2.0, 2.0, 1.0)]
    start, first, second = (-0.2, 0.0, 0.0), (5.0, 6.0, 1.0), (7.0, 8.0, 0.0)
    sequence = InkSequence(start, InkParams(seed=0, max_points=2), prime=prime)
    read = []
    for choice in [(9.0, 9.0, 0.0), (9.0, 9.0, 0.0), first, second, (9.0, 9.0, 0.0)]:
        read.append(sequence.next_input)
        assert sequence.draw()[0] == uniforms(0, 0, max(0, len(read) - 3), 1)[0, 0]
        sequence.advance(len(read), choice)
    assert read == [*prime, first, second]
    delta = sequence.take()
    assert delta.items == [(-0.2, 0.0, 1.0), second]
    assert delta.trace == bytes([4, 5])
    assert delta.end is not None
    assert (delta.end.reason, delta.end.num_prompt, delta.end.num_drawn) == ("length", 3, 2)
    assert len(delta.end.trace) == 5


def test_ink_that_is_not_finite_ends_with_an_error() -> None:
    """A broken offset is not published."""
    sequence = InkSequence((0.0, 0.0, 0.0), InkParams(seed=0, max_points=9))
    sequence.advance(0, [float("nan")] * 3)
    delta = sequence.take()
    assert delta.end is not None
    assert delta.end.reason == "error"
    assert len(delta.items) == 1


def test_the_likeliest_needs_no_luck() -> None:
    """At temperature 0 all numbers are 0, so of equally likely symbols the first is taken whatever the seed."""
    greedy = TextSequence(LETTERS, [1], 3, TextParams(seed=7, max_tokens=9, temperature=0.0))
    assert greedy.draw() == SMALLEST
    assert TextSequence(LETTERS, [1], 3, TextParams(seed=7, max_tokens=9)).draw() != SMALLEST
