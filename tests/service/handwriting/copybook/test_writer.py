"""The copybook writes any text, reports substitutions, and is a pure function of its seed."""

import os
import unicodedata
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.handwriting.copybook.fonts.pack import SOURCES, pack
from service.handwriting.copybook.glyphs import BOX, fonts
from service.handwriting.copybook.pacing import RATE_HZ, pace, smooth
from service.handwriting.copybook.writer import STYLES, CopybookWriter, Style
from service.handwriting.drawing.document import NONE, Ink

ROOT = Path(__file__).parents[4]
ASCII = "".join(map(chr, range(32, 127)))
PLAIN = STYLES["plain"]
ANY_STYLE = st.sampled_from(list(STYLES.values()))


def write(text: str, style: Style = PLAIN, seed: int = 1, line: int = 0) -> Ink:
    """Write a text as one line."""
    return CopybookWriter(text, style, seed).write(0, len(text), line)


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_every_ascii_character_is_drawn_as_itself(style: Style) -> None:
    """Each printable character but the space has ink of its own, of a letter's size, and none is substituted."""
    writer = CopybookWriter(ASCII, style, 3)
    assert writer.substitutions() == []
    ink = writer.write(0, len(ASCII), 0)
    assert set(ink.character.tolist()) == set(range(1, len(ASCII)))
    for index in range(1, len(ASCII)):
        letter = ink.xy[ink.character == index]
        width, height = np.ptp(letter, axis=0)
        assert 0 < max(width, height) < 8, ASCII[index]
        assert -4 < letter[:, 1].min() <= letter[:, 1].max() < 2.5, ASCII[index]


@pytest.mark.parametrize("style", ["plain", "school", "penman"])
def test_accented_latin_is_composed(style: str) -> None:
    """Letters of the European and Vietnamese alphabets are drawn, precomposed or as letter and marks, as themselves."""
    latin = "".join(chr(point) for point in [*range(0xC0, 0x17F), *range(0x1EA0, 0x1EFA)])
    latin = "".join(c for c in latin if c.isalpha() and c not in "ÞþðĸŊŋŉŒœſĲĳĿŀ")
    writer = CopybookWriter(latin, STYLES[style], 1)
    assert [chr(each.code_point) for each in writer.substitutions()] == []
    apart = unicodedata.normalize("NFD", latin)
    assert CopybookWriter(apart, STYLES[style], 1).substitutions() == []
    assert len(writer.write(0, len(latin), 0).strokes()) > len(latin)


def test_marks_are_above_and_below_their_letters() -> None:
    """A caron is above the letter, a dot below is below it, and an i under a mark has no dot."""
    font = fonts()["plain"]
    for letter, mark in [("z", "\u030c"), ("T", "\u030c"), ("i", "\u0303"), ("j", "\u0302")]:
        (composed,), (plain,) = font.draw(letter + mark).glyphs, font.draw(letter).glyphs
        added = composed.strokes[-1]
        body = np.concatenate(composed.strokes[:-1])
        assert added[:, 1].max() < body[:, 1].min(), letter
        assert len(composed.strokes) == len(plain.strokes) + (letter not in "ij")
    (below,) = font.draw("s\u0323").glyphs
    assert below.strokes[-1][:, 1].min() > 0


@pytest.mark.parametrize(
    ("character", "drawn"),
    [
        ("…", "..."),
        ("’", "'"),
        ("→", "->"),
        ("ﬁ", "fi"),
        ("Ａ", "A"),
        ("你", BOX),
        ("🙂", BOX),
        ("\ud800", BOX),
        ("\x07", ""),
    ],
)
def test_what_cannot_be_drawn_is_replaced_and_listed(character: str, drawn: str) -> None:
    """Each substitution says where, what and by what; what is drawn belongs to the character it stands for."""
    writer = CopybookWriter(f"a{character}b", PLAIN, 1)
    (found,) = writer.substitutions()
    assert (found.index, found.code_point, found.drawn) == (1, ord(character), drawn)
    ink = writer.write(0, 3, 0)
    assert (1 in ink.character) == bool(drawn)
    assert {0, 2} <= set(ink.character.tolist())
    skipping = CopybookWriter(f"a{character}b", PLAIN, 1, skips_unsupported=True)
    assert [each.drawn for each in skipping.substitutions()] == [""]
    assert set(skipping.write(0, 3, 0).character.tolist()) == {0, 2}


@given(st.text(min_size=1, max_size=12), ANY_STYLE, st.integers(-(2**63), 2**63 - 1))
@settings(max_examples=60)
def test_any_text_is_written(text: str, style: Style, seed: int) -> None:
    """Whatever the text, ink is finite, ordered in time, whole strokes, and every visible character is there."""
    ink = write(text, style, seed)
    assert np.isfinite(ink.xy).all()
    assert (np.diff(ink.time) >= 0).all()
    if len(ink):
        assert ink.pen[-1] == 1
    letters = {index for index, c in enumerate(text) if unicodedata.category(c)[0] in "LNPS"}
    missing = {text[index] for index in letters - set(ink.character.tolist())}
    assert not missing


@given(ANY_STYLE, st.integers(0, 2**63 - 1), st.integers(0, 500))
@settings(max_examples=20)
def test_the_same_seed_is_the_same_bits(style: Style, seed: int, line: int) -> None:
    """Seed, style and line determine every bit; another seed gives another drawing; equal letters differ."""
    again = [write("eel", style, seed, line) for _ in range(2)]
    assert again[0].xy.tobytes() == again[1].xy.tobytes()
    assert again[0].time.tobytes() == again[1].time.tobytes()
    other = write("eel", style, seed + 1, line)
    assert other.xy.tobytes() != again[0].xy.tobytes()
    first, second = (again[0].xy[again[0].character == index] for index in (0, 1))
    size = min(len(first), len(second))
    assert not np.allclose(first[:size] - first[0], second[:size] - second[0], atol=1e-3)


def test_bias_and_wobble_calm_the_hand() -> None:
    """With more bias, letters are closer to the font's; with much bias and no wobble, lines are straight."""

    def spread(bias: float) -> float:
        heights = []
        for seed in range(6):
            ink = CopybookWriter("nnnnnnnn", PLAIN, seed, bias).write(0, 8, 0)
            heights += [np.ptp(ink.xy[ink.character == index][:, 1]) for index in range(8)]
        return float(np.std(heights))

    assert spread(0) > 1.5 * spread(2) > 0
    text = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

    def drift(wobble: float) -> float:
        feet = []
        for seed in range(6):
            ink = CopybookWriter(text, PLAIN, seed, 0.0, wobble).write(0, len(text), 0)
            feet.append(np.std([ink.xy[ink.character == index][:, 1].max() for index in range(len(text))]))
        return float(np.mean(feet))

    assert drift(4) > 2 * drift(0)


def test_joined_hands_join_and_points_belong_to_their_letters() -> None:
    """A joined style lifts the pen less than once per letter, and characters within a stroke are in order."""
    text = "minimum"
    joined, apart = write(text, STYLES["quick"]), write(text, STYLES["plain"])
    assert len(joined.strokes()) < len(text) <= len(apart.strokes())
    longest = max(joined.strokes(), key=len)
    assert len(set(longest.character.tolist())) > 2
    assert set(np.diff(longest.character).tolist()) == {0, 1}
    dots = joined.strokes()[-2:]
    assert [{text[index] for index in dot.character.tolist()} for dot in dots] == [{"i"}] * 2, "dots come last"


def test_words_are_numbered() -> None:
    """Each point has the index of its word, also across line breaks."""
    writer = CopybookWriter("one two\nthree", PLAIN, 1)
    assert sorted(set(writer.write(0, 7, 0).word.tolist())) == [0, 1]
    assert set(writer.write(8, 13, 1).word.tolist()) == {2}
    assert NONE not in writer.write(0, 7, 0).word


def test_the_pen_is_slow_in_curves_and_at_ends() -> None:
    """Points come at a steady rate, so their distance is the speed: lower at the ends and in tight curves."""
    line, times = pace(smooth(np.array([[0.0, 0.0], [4.0, 0.0]])))
    assert np.allclose(np.diff(times), times[1], rtol=1e-6)
    assert abs(float(times[1]) * RATE_HZ - 1) < 0.1
    steps = np.hypot(*np.diff(line, axis=0).T)
    assert steps[0] < 0.7 * steps.max()
    assert steps[-1] < 0.7 * steps.max()
    angles = np.linspace(0, 2 * np.pi, 40)
    circle, _ = pace(smooth(np.column_stack([np.cos(angles), np.sin(angles)]) * 0.2))
    assert np.hypot(*np.diff(circle, axis=0).T).max() < 0.8 * steps.max()


def test_curves_go_through_their_points_and_corners_stay() -> None:
    """Smoothing keeps every given point, right angles and single dots."""
    corner = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    curve = smooth(corner)
    assert all((np.hypot(*(curve - point).T) < 1e-12).any() for point in corner)
    assert float(curve[:, 0].max()) <= 1 + 1e-12
    assert smooth(np.array([[2.0, 3.0], [2.0, 3.0]])).tolist() == [[2.0, 3.0]]


def test_the_letters_come_with_their_licences() -> None:
    """The credits name the font of every style, and the licence and the acknowledgement are in the package."""
    folder = resources.files("service.handwriting.copybook.fonts")
    named = (folder / "CREDITS.txt").read_text()
    assert all(source in named or source.startswith("Hershey") for source in SOURCES.values())
    assert "Dr. A. V. Hershey" in named
    assert "SIL OPEN FONT LICENSE Version 1.1" in (folder / "OFL.txt").read_text()
    assert set(SOURCES) == set(fonts()) == {style.font for style in STYLES.values()}


def test_the_packed_letters_are_those_of_the_source() -> None:
    """The archive in the package is what the packer makes of the fonts."""
    folder = Path(os.environ.get("COPYIST_DATA", "not-given")) / "stroke_fonts"
    if not folder.is_dir():
        pytest.skip("needs the data sets: set COPYIST_DATA to their folder")
    assert pack(folder) == (resources.files("service.handwriting.copybook.fonts") / "strokes.npz").read_bytes()
