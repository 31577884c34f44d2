"""Lines with their texts: the right text and hand with each line, what is left out, and one sentence for bad files."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.codec import END, START, HandwritingCodec
from model.data import captions as module
from model.data.batches import Caption, InkStreams, evaluation_lines
from model.data.errors import DataError
from model.data.ink import load_ink

Arrays = dict[str, NDArray[Any]]


def arrays_of(texts: list[str], points: int = 10, **more: NDArray[Any]) -> Arrays:
    """Lines of `points` points a character with these texts."""
    lengths = [points * max(len(text), 1) for text in texts]
    random = np.random.RandomState(1)
    total, encoded = sum(lengths), [text.encode() for text in texts]
    arrays: Arrays = {
        "dx": random.randint(-40, 60, total).astype(np.int16),
        "dy": random.randint(-30, 30, total).astype(np.int16),
        "eos": (random.rand(total) < 0.1).astype(np.uint8),
        "offsets": np.cumsum([0, *lengths]),
        "text": np.frombuffer(b"".join(encoded), np.uint8),
        "text_offsets": np.cumsum([0, *map(len, encoded)]),
    }
    arrays.update(more)
    return arrays


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Arrays], Path]:
    """Return a function that writes arrays to an .npz."""

    def write_arrays(arrays: Arrays) -> Path:
        np.savez(tmp_path / "strokes.npz", **arrays)  # type: ignore[arg-type]
        return tmp_path / "strokes.npz"

    return write_arrays


def spoken(codec: HandwritingCodec, caption: Caption) -> str:
    """The text of a caption, after checking its sentinels."""
    assert (caption.text[0], caption.text[-1]) == (START, END)
    assert (caption.text > 0).all()
    return codec.text.decode(caption.text[1:-1] - 3)


def test_each_line_keeps_its_own_text_and_hand(fixtures: Path) -> None:
    """Whatever the split's order, a line's caption is what the file says of that line."""
    corpus = load_ink(fixtures / "ink.npz", texts=True)
    codec = corpus.codec
    assert isinstance(codec, HandwritingCodec)
    with np.load(fixtures / "ink.npz") as file:
        content, offsets = file["text"].tobytes(), file["text_offsets"]
        names, writers = [name.decode() for name in file["name"]], file["writer"]
    said = {name: content[a:b].decode() for name, a, b in zip(names, offsets, offsets[1:], strict=False)}
    wrote = dict(zip(names, writers.tolist(), strict=True))
    assert codec.writers == (0, 1, 2)
    for split in ("train", "valid", "test"):
        lines = getattr(corpus, split)
        assert len(lines) == len(corpus.captions[split]) == len(corpus.ids[split]) > 0
        for name, caption in zip(corpus.ids[split], corpus.captions[split], strict=True):
            unknown = set(codec.unsupported(said[name]))
            assert spoken(codec, caption) == "".join("�" if c in unknown else c for c in said[name])
            assert caption.writer == wrote[name] + 1
    assert corpus.facts["captions"]["left_out"] == {"train": 0, "valid": 0, "test": 0}


def test_train_loses_what_would_teach_something_wrong(write: Callable[[Arrays], Path]) -> None:
    """No text, a "#", a mark, a jump, too many points: out of train; valid and test lose only lines without a text."""
    texts = ["", "a # b", "marked", "jumps", "dense", "good one", "", "# stays", "good two", "", "# is kept"]
    split = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 3, 3], np.uint8)
    arrays = arrays_of(texts, split=split, low_likelihood=(np.arange(len(texts)) == 2).astype(np.uint8))
    arrays["dx"][arrays["offsets"][3] + 4] = 1600
    arrays["text"] = arrays["text"].copy()
    corpus = load_ink(write(arrays | {"text_offsets": arrays["text_offsets"]}), protocol="official", texts=True)
    assert corpus.ids == {"train": ["4", "5"], "valid": ["7", "8"], "test": ["10"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PLAUSIBLE_POINTS_PER_CHARACTER", (11, 45))
        with pytest.raises(DataError, match="lines with a text in train, found none"):
            load_ink(write(arrays), protocol="official", texts=True)


def test_spaces_before_punctuation_are_a_tokenisers(write: Callable[[Arrays], Path]) -> None:
    """`Mr . Gaitskell ,` is written `Mr. Gaitskell,`."""
    corpus = load_ink(write(arrays_of(["Mr . Gaitskell ,"] * 4)), texts=True)
    assert isinstance(corpus.codec, HandwritingCodec)
    assert spoken(corpus.codec, corpus.captions["train"][0]) == "Mr. Gaitskell,"


def test_scarce_characters_are_seen_more_often(
    write: Callable[[Arrays], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a large set, a line with a known but scarce character comes several times, and a rare one has no symbol."""
    for name, value in (("LARGE", 10), ("MIN_COUNT", 3), ("SCARCE", 6), ("REPEATS", 4)):
        monkeypatch.setattr(module, name, value)
    texts = ["eeee eeee"] * 30 + ["eee 777"] + ["eee Q"]
    split = np.array([0] * 28 + [1, 3] + [0, 0], np.uint8)
    corpus = load_ink(write(arrays_of(texts, split=split)), protocol="official", texts=True)
    codec = corpus.codec
    assert isinstance(codec, HandwritingCodec)
    seen = Counter(spoken(codec, caption) for caption in corpus.captions["train"])
    assert seen == {"eeee eeee": 28, "eee 777": 4, "eee �": 1}
    assert len(corpus.train) == 33
    assert corpus.facts["captions"]["repeats"] == 3
    assert codec.unsupported("e7QüQ") == ["Q", "ü"]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"text": None}, "an .npz with text and text_offsets"),
        ({"text_offsets": np.array([0, 4, 3, 8, 12])}, "text_offsets from 0 to"),
        ({"text_offsets": np.arange(3)}, "text_offsets from 0 to"),
        ({"text": np.full(16, 255, np.uint8)}, "UTF-8"),
        ({"text": np.arange(16.0)}, "text as bytes"),
        ({"writer": np.arange(3)}, "one writer"),
    ],
)
def test_bad_captions_are_one_sentence(change: dict[str, Any], reason: str, write: Callable[[Arrays], Path]) -> None:
    """A file whose texts do not fit its lines is named with what was expected."""
    arrays = arrays_of(["abcd"] * 4) | change
    path = write({name: array for name, array in arrays.items() if array is not None})
    load_ink(path)  # without texts it does not matter
    with pytest.raises(DataError, match=reason):
        load_ink(path, texts=True)


def test_an_inkml_folder_has_no_texts(fixtures: Path) -> None:
    """It is said what is needed."""
    with pytest.raises(DataError, match="text and text_offsets"):
        load_ink(fixtures / "inkml", texts=True)


def test_streams_show_each_line_with_its_text_to_its_last_point() -> None:
    """Over a pass every point is read, every offset scored once, and each line ends where `last` says."""
    lengths = (5, 9, 8)
    lines = [np.full((n, 3), number, np.float32) for number, n in enumerate(lengths)]
    captions = [Caption(np.array([1, 5 + number, 2])[: 3 - (number == 0)], number) for number in range(3)]
    streams = InkStreams(lines, 2, 4, 0, captions)
    read, ends, scored = Counter[int](), Counter[int](), 0
    while streams.passes < 3:
        window = streams.next()
        for row in range(2):
            number = int(window.writer[row])
            assert window.text[row].tolist()[: len(captions[number].text)] == captions[number].text.tolist()
            inside = (window.weight[:, row] + window.last[:, row]) > 0
            assert (window.inputs[inside, row] == number).all()
            assert window.text.shape == (2, 3)
            read[number] += int(inside.sum())
            ends[number] += int(window.last[:, row].sum())
            scored += int(window.weight[:, row].sum())
    assert set(ends) == {0, 1, 2}
    for number, length in enumerate(lengths):
        assert ends[number] >= 2
        assert ends[number] * length <= read[number] <= (ends[number] + 2) * length
    assert scored == sum(read.values()) - sum(ends.values())


def test_evaluation_gives_each_line_whole_with_its_text() -> None:
    """The shortest first; text, hand and end belong to the line beside which they stand."""
    lines = [np.full((n, 3), n, np.float32) for n in (7, 3, 5)]
    captions = [Caption(np.arange(1, n), n) for n in (7, 3, 5)]
    (window,) = evaluation_lines(lines, 8, captions)
    assert window.writer.tolist() == [3, 5, 7]
    assert window.inputs[0, :, 0].tolist() == [3, 5, 7]
    assert window.last.argmax(0).tolist() == [2, 4, 6]
    assert window.weight.sum(0).tolist() == [2, 4, 6]
    assert [np.count_nonzero(text) for text in window.text] == [2, 4, 6]
