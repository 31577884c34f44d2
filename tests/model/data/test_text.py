"""Text corpora: the documented splits to the character, and one clear sentence for whatever is wrong."""

import hashlib
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.codec import REPLACEMENT, TextCodec, UnknownSymbolError
from model.data import text as text_module
from model.data.errors import DataError
from model.data.known import TEXTS, KnownText
from model.data.text import TextCorpus, load_text

ENGLISH = "It was in July, 1805, and the speaker was the well-known Anna Pavlovna Scherer.\n" * 20
BYTES = TextCodec((), "bytes")


def whole(corpus: TextCorpus) -> str:
    """Return the three splits of a corpus as one text."""
    return "".join(corpus.codec.decode(split) for split in (corpus.train, corpus.valid, corpus.test))


def write(path: Path, text: str | bytes) -> Path:
    """Write a file as it is, packed if its name says so."""
    raw = text.encode() if isinstance(text, str) else text
    path.write_bytes(lzma.compress(raw) if path.suffix == ".xz" else raw)
    return path


class TestAnyText:
    def test_the_fixture_comes_back_whole_in_three_splits(self, fixtures: Path) -> None:
        """Nothing is lost, 90/5/5 of it, as uint16 ids below the codec's size."""
        corpus = load_text(fixtures / "text.txt")
        text = (fixtures / "text.txt").read_text(encoding="utf-8")
        assert whole(corpus) == text
        assert len(corpus.train) == len(text) * 90 // 100
        assert len(corpus.train) + len(corpus.valid) == len(text) * 95 // 100
        for split in (corpus.train, corpus.valid, corpus.test):
            assert split.dtype == np.uint16
            assert split.max() < corpus.codec.size

    def test_facts_say_what_was_read(self, fixtures: Path) -> None:
        """Facts are JSON and hold name, path, checksum, counts, split rule, licence and use."""
        facts = load_text(fixtures / "text.txt").facts
        assert json.loads(json.dumps(facts)) == facts
        assert facts["name"] == facts["path"] == "text.txt"
        assert facts["sha256"] == hashlib.sha256((fixtures / "text.txt").read_bytes()).hexdigest()
        assert sum(facts["characters"].values()) == sum(facts["ids"].values()) == 79_876
        assert {"split", "licence", "use"} <= facts.keys()

    def test_packed_and_plain_are_the_same(self, tmp_path: Path, fixtures: Path) -> None:
        """An .xz, known by its suffix or its first bytes, gives the same ids and checksum as the plain file."""
        plain = load_text(fixtures / "text.txt")
        packed = write(tmp_path / "packed.xz", (fixtures / "text.txt").read_bytes())
        unnamed = write(tmp_path / "unnamed", packed.read_bytes())
        for path in (packed, unnamed):
            corpus = load_text(path)
            assert np.array_equal(corpus.train, plain.train)
            assert corpus.facts["sha256"] == plain.facts["sha256"]

    def test_a_folder_is_its_text_files_in_order(self, tmp_path: Path) -> None:
        """Text files are joined in the order of their names, three newlines apart; others are left alone."""
        write(tmp_path / "b.txt", "second " * 40)
        write(tmp_path / "a.txt.xz", "first " * 40)
        write(tmp_path / "c.json", "{}")
        assert whole(load_text(tmp_path)) == "first " * 40 + "\n\n\n" + "second " * 40

    def test_a_byte_order_mark_is_no_character(self, tmp_path: Path) -> None:
        """U+FEFF at the start of a file is left out."""
        assert whole(load_text(write(tmp_path / "mark.txt", "\ufeff" + ENGLISH))) == ENGLISH

    def test_cuts_fall_between_characters(self, tmp_path: Path) -> None:
        """Where a cut hits the inside of a character it moves behind it."""
        for extra in range(4):
            text = "a" * extra + "漢字€𝄞é" * 40
            assert whole(load_text(write(tmp_path / "text.txt", text))) == text

    @given(st.text(st.characters(codec="utf-8"), min_size=200, max_size=240), st.integers(1, 9))
    def test_pieces_do_not_show(self, text: str, piece: int) -> None:
        """A text is read in pieces of bytes, and wherever they end it comes out the same."""
        # No tmp_path: Hypothesis runs many examples in one test.
        source = text_module._Source(text.encode(), (0, 0), "", "", None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_module, "_PIECE", piece)
            pieces = list(text_module._pieces(Path("x"), source, (0, len(source.raw))))
        assert "".join(pieces) == text

    def test_a_given_codec_is_used(self, tmp_path: Path) -> None:
        """With a byte codec the ids are the bytes, and facts count characters and ids apart."""
        text = "é" * 200
        corpus = load_text(write(tmp_path / "text.txt", text), BYTES)
        assert corpus.codec is BYTES
        assert np.concatenate([corpus.train, corpus.valid, corpus.test]).tolist() == list(text.encode())
        assert sum(corpus.facts["characters"].values()) == 200
        assert sum(corpus.facts["ids"].values()) == 400

    def test_a_given_codec_keeps_its_policy(self, tmp_path: Path) -> None:
        """A codec that wants an error for an unknown character raises it."""
        with pytest.raises(UnknownSymbolError):
            load_text(write(tmp_path / "text.txt", ENGLISH), TextCodec(("a",), "error"))

    def test_a_codec_beyond_16_bits_is_refused(self, tmp_path: Path) -> None:
        """Ids are uint16, so they may not wrap around in silence."""
        codec = TextCodec(tuple(map(chr, range(0xE000, 0x1E000 + 1))), "error")
        with pytest.raises(ValueError, match="16 bits"):
            load_text(write(tmp_path / "text.txt", ENGLISH), codec)


class TestVocabulary:
    def test_a_small_text_keeps_every_symbol_of_train(self, tmp_path: Path) -> None:
        """What train has seen once has an id; what only test has seen is U+FFFD, and facts count it."""
        corpus = load_text(write(tmp_path / "text.txt", "q" + "ab" * 500 + "zz"))
        assert corpus.codec.symbols == ("a", "b", "q", REPLACEMENT)
        assert corpus.facts["replaced"] == {"train": 0, "valid": 0, "test": 2}
        assert corpus.codec.decode(corpus.test).endswith(REPLACEMENT * 2)

    def test_a_large_text_drops_rare_symbols(self, tmp_path: Path) -> None:
        """In over a million characters of train, 100 times make a symbol and 99 do not."""
        text = "x" * 99 + "y" * 100 + "ab" * 600_000
        codec = load_text(write(tmp_path / "text.txt", text)).codec
        assert set(codec.symbols) == {"a", "b", "y", REPLACEMENT}

    def test_at_most_4096_symbols(self, tmp_path: Path) -> None:
        """The most frequent ones, with U+FFFD among them."""
        text = "".join(map(chr, range(0x4E00, 0x4E00 + 5000))) + "".join(map(chr, range(0x4E00, 0x4E00 + 4095)))
        codec = load_text(write(tmp_path / "text.txt", text)).codec
        assert codec.size == 4096
        assert codec.symbols[-1] == REPLACEMENT


class TestKnownText:
    @pytest.fixture
    def known(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Return a function that writes bytes and makes them a known text with these cuts."""

        def write_known(raw: bytes, cuts: tuple[int, int], *, whole_alphabet: bool = False) -> Path:
            entry = KnownText("Known", cuts, "a rule", "a licence", "a use", whole_alphabet)
            monkeypatch.setitem(TEXTS, hashlib.md5(raw, usedforsecurity=False).hexdigest(), entry)
            return write(tmp_path / "renamed.txt", raw)

        return write_known

    def test_the_content_decides_not_the_name(self, known: Any) -> None:
        """A known text has its own cuts, name, licence and use under any file name."""
        corpus = load_text(known(ENGLISH.encode(), (100, 150)))
        assert corpus.facts["characters"] == {"train": 100, "valid": 50, "test": len(ENGLISH) - 150}
        assert [corpus.facts[key] for key in ("name", "split", "licence", "use")] == [
            "Known",
            "a rule",
            "a licence",
            "a use",
        ]

    def test_a_text_cut_within_its_last_character_is_read(self, known: Any) -> None:
        """The Hutter Prize's files are so many bytes of a larger one, whatever character that ends in."""
        corpus = load_text(known(("é" * 200).encode()[:-1], (300, 350)))
        assert sum(corpus.facts["characters"].values()) == 200

    def test_without_a_test_split_test_is_valid(self, known: Any) -> None:
        """A second cut at the end means that valid stands for test."""
        corpus = load_text(known(ENGLISH.encode(), (100, len(ENGLISH))))
        assert np.array_equal(corpus.test, corpus.valid)
        assert len(corpus.valid) == len(ENGLISH) - 100

    def test_a_benchmark_keeps_its_alphabet(self, known: Any) -> None:
        """A symbol seen once stays, however large the text, where the alphabet belongs to the benchmark."""
        raw = b"q" + b"ab" * 600_000
        corpus = load_text(known(raw, (1_100_000, 1_150_000), whole_alphabet=True))
        assert set(corpus.codec.symbols) == {"a", "b", "q", REPLACEMENT}


class TestPennTreebank:
    def test_spaces_at_line_ends_go(self, tmp_path: Path) -> None:
        """Each file is a split; each line loses its outer spaces and ends with one newline."""
        write(tmp_path / "ptb.train.txt.xz", " aa bb \n  cc\n")
        write(tmp_path / "ptb.valid.txt", " aa \n\n")
        write(tmp_path / "ptb.test.txt", " bb")
        corpus = load_text(tmp_path)
        splits = (corpus.train, corpus.valid, corpus.test)
        assert [corpus.codec.decode(split) for split in splits] == ["aa bb\ncc\n", "aa\n\n", "bb\n"]
        assert corpus.facts["use"] != "research"

    def test_all_three_files_are_needed(self, tmp_path: Path) -> None:
        """The sentence names the file that is missing."""
        write(tmp_path / "ptb.train.txt", ENGLISH)
        write(tmp_path / "ptb.test.txt", ENGLISH)
        with pytest.raises(DataError, match=r"ptb\.valid\.txt"):
            load_text(tmp_path)


class TestWrongFiles:
    @pytest.mark.parametrize(
        "name, content, reason",
        [
            ("empty.txt", b"", "empty"),
            ("empty.xz", lzma.compress(b""), "empty"),
            ("nothing.xz", b"", "empty"),
            ("truncated.xz", lzma.compress(ENGLISH.encode())[:-40], "truncated or damaged"),
            ("damaged.xz", lzma.compress(ENGLISH.encode())[:30] + bytes(40), "truncated or damaged"),
            ("plain.xz", ENGLISH.encode(), "truncated or damaged"),
            ("latin.txt", ENGLISH.encode() + b"caf\xe9 " * 3, "expected UTF-8 text, but byte 0xe9 at 1,603"),
            ("utf16.txt", ENGLISH.encode("utf-16"), "expected UTF-8 text, but byte 0xff at 0"),
            ("halved.txt", ENGLISH.encode() + "é".encode()[:1], "expected UTF-8 text"),
            ("binary.txt", bytes([0x80]) * 500, "expected UTF-8 text"),
            ("short.txt", b"too short", "at least 200"),
        ],
    )
    def test_one_sentence_names_file_and_expectation(
        self, tmp_path: Path, name: str, content: bytes, reason: str
    ) -> None:
        """Each wrong file is a DataError of one line with its path and what was expected."""
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=reason) as caught:
            load_text(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "expected" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_missing_path_is_named(self, tmp_path: Path) -> None:
        """A path that leads nowhere is told, with what could have been there."""
        with pytest.raises(DataError, match=r"nowhere: no such file or folder; expected"):
            load_text(tmp_path / "nowhere")

    def test_a_folder_without_text_is_named(self, tmp_path: Path) -> None:
        """A folder with other files only is no corpus."""
        write(tmp_path / "image.png", b"x")
        with pytest.raises(DataError, match="expected text files"):
            load_text(tmp_path)

    def test_a_split_of_one_character_is_refused(self, tmp_path: Path) -> None:
        """A model needs a character to read and one to score."""
        for split, text in (("train", ENGLISH), ("valid", ""), ("test", ENGLISH)):
            write(tmp_path / f"ptb.{split}.txt", text or "\n")
        with pytest.raises(DataError, match="at least 2 characters in the valid split, found 1"):
            load_text(tmp_path)

    def test_a_file_that_may_not_be_read_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The system's reason is passed on in the sentence."""
        path = write(tmp_path / "text.txt", ENGLISH)

        def refuse(_: Path) -> bytes:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(DataError, match=r"text\.txt: cannot be read \(Permission denied\)"):
            load_text(path)


DOCUMENTED = [
    ("ptb", "Penn Treebank, characters", (5_017_482, 393_042, 442_423), 51, "research"),
    ("tinyshakespeare", "tinyshakespeare", (1_003_854, 111_540, 111_540), 66, "any"),
    ("warpeace", "War and Peace", (2_556_965, 319_623, 319_623), None, "any"),
    ("zh_poetry/tang.txt.xz", "Tang poems", None, None, "any"),
    ("zh_poetry/song_ci.txt.xz", "Song ci", None, None, "any"),
    pytest.param("zhwiki24", "zhwiki24", None, None, "any, with", marks=pytest.mark.slow),
    pytest.param("novels", "novels", None, 98, "any", marks=pytest.mark.slow),
    pytest.param("enwiki27", "enwiki27", (90_000_000, 5_000_000, 5_000_000), 28, "any, with", marks=pytest.mark.slow),
    pytest.param("enwiki100", "enwiki100", None, None, "any, with", marks=pytest.mark.slow),
]
BYTE_SPLITS = {
    "Tang poems": (11_598_558, 12_455_331 - 11_598_558, 13_137_650 - 12_455_331),
    "Song ci": (5_204_199, 5_432_519 - 5_204_199, 5_734_701 - 5_432_519),
    "zhwiki24": (21_600_000, 22_799_999 - 21_600_000, 24_000_000 - 22_799_999),
    "novels": (68_756_536, 70_694_590 - 68_756_536, 73_360_484 - 70_694_590),
    "enwiki100": (90_000_000, 5_000_000, 5_000_000),
}
TOTALS = {
    "Tang poems": 4_688_351,
    "Song ci": 2_059_792,
    "zhwiki24": 8_891_876,
    "novels": 73_353_084,
    "enwiki100": 99_836_841,
}


@pytest.mark.parametrize("path, name, characters, size, use", DOCUMENTED)
def test_a_known_corpus_has_its_documented_counts(
    corpora: Path, path: str, name: str, characters: tuple[int, ...] | None, size: int | None, use: str
) -> None:
    """Names, splits and alphabet of the data sets are those of their documentation, to the character."""
    if not (corpora / path).exists():
        pytest.skip(f"needs {path} among the data sets")
    corpus = load_text(corpora / path)
    facts = corpus.facts
    assert facts["name"] == name
    assert facts["use"].startswith(use)
    if characters:
        assert tuple(facts["characters"].values()) == characters
    else:
        assert tuple(facts["bytes"].values()) == BYTE_SPLITS[name]
        assert sum(facts["characters"].values()) == TOTALS[name]
    assert tuple(facts["ids"].values()) == tuple(len(s) for s in (corpus.train, corpus.valid, corpus.test))
    assert corpus.codec.size <= 4096
    if size:
        assert corpus.codec.size == size
