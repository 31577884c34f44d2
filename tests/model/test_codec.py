"""Codecs: what can be encoded comes back unchanged, and what cannot is reported."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.codec import (
    REPLACEMENT,
    HandwritingCodec,
    InkCodec,
    TextCodec,
    UnknownSymbolError,
    codec_from_json,
)

LETTERS = "abcxyz é€𝄞漢\n"
texts = st.text(max_size=60)
mixed = st.text(st.one_of(st.sampled_from(LETTERS), st.characters(codec="utf-8")), max_size=60)
symbol_sets = st.lists(st.characters(codec="utf-8"), unique=True, max_size=12).map(tuple)
offset_arrays = st.lists(
    st.tuples(st.integers(-3000, 3000), st.integers(-3000, 3000), st.integers(0, 1)), min_size=1, max_size=40
).map(lambda rows: np.array(rows, np.int16))


class TestTextRoundTrip:
    @given(texts, symbol_sets)
    def test_bytes_keep_every_character(self, text: str, symbols: tuple[str, ...]) -> None:
        """With byte fallback, any text comes back, whichever symbols there are."""
        codec = TextCodec(symbols, "bytes")
        assert codec.decode(codec.encode(text)) == text

    @given(texts)
    def test_a_codec_without_symbols_is_utf8(self, text: str) -> None:
        """A byte codec's ids are the bytes of UTF-8."""
        assert TextCodec((), "bytes").encode(text).tolist() == list(text.encode())

    @given(mixed)
    def test_replace_keeps_known_characters_and_the_length(self, text: str) -> None:
        """Unknown characters become U+FFFD, one for one."""
        codec = TextCodec((*"abc é𝄞", REPLACEMENT), "replace")
        expected = "".join(c if c in codec.symbols else REPLACEMENT for c in text)
        assert len(codec.encode(text)) == len(text)
        assert codec.decode(codec.encode(text)) == expected

    @given(mixed)
    def test_error_names_the_first_unknown_character(self, text: str) -> None:
        """The policy "error" keeps a known text and names the character and its place otherwise."""
        codec = TextCodec(tuple(LETTERS), "error")
        unknown = [(i, c) for i, c in enumerate(text) if c not in LETTERS]
        if not unknown:
            assert codec.decode(codec.encode(text)) == text
            return
        with pytest.raises(UnknownSymbolError, match="has no symbol") as caught:
            codec.encode(text)
        assert (caught.value.position, caught.value.character) == unknown[0]

    @given(texts, symbol_sets)
    def test_ids_are_int64_below_the_size(self, text: str, symbols: tuple[str, ...]) -> None:
        """Ids are int64 in 0 .. size-1."""
        codec = TextCodec(symbols, "bytes")
        ids = codec.encode(text)
        assert ids.dtype == np.int64
        assert codec.size == len(symbols) + 256
        assert ((ids >= 0) & (ids < codec.size)).all()

    @pytest.mark.parametrize("unknown", ["replace", "bytes"])
    def test_a_lone_surrogate_becomes_the_replacement_character(self, unknown: Any) -> None:
        """JSON can carry half a surrogate pair, which is no character: it never crashes a codec."""
        codec = TextCodec(("a", REPLACEMENT), unknown)
        assert codec.decode(codec.encode("a\ud800a")) == f"a{REPLACEMENT}a"

    def test_a_lone_surrogate_is_an_error_where_that_is_the_policy(self) -> None:
        """Half a surrogate pair has no symbol."""
        with pytest.raises(UnknownSymbolError, match=r"U\+DC00\) at position 1"):
            TextCodec(("a",), "error").encode("a\udc00")

    def test_encode_gives_fresh_arrays(self) -> None:
        """Writing into the result leaves the codec alone."""
        codec = TextCodec(("a",), "error")
        codec.encode("aa")[:] = 7
        assert codec.encode("aa").tolist() == [0, 0]


class TestTextDecoder:
    @given(symbol_sets, st.data())
    def test_one_by_one_equals_the_whole(self, symbols: tuple[str, ...], data: st.DataObject) -> None:
        """Whatever the ids, even broken bytes, pushing them singly gives what decoding them at once gives."""
        codec = TextCodec(symbols, "bytes")
        ids = data.draw(st.lists(st.integers(0, codec.size - 1), max_size=30))
        decoder = codec.decoder()
        assert "".join(map(decoder.push, ids)) + decoder.flush() == codec.decode(ids)

    @given(texts)
    def test_only_whole_characters_come_out(self, text: str) -> None:
        """A character appears with its last byte, and nothing appears before."""
        codec = TextCodec((), "bytes")
        decoder = codec.decoder()
        for character in text:
            *first, last = codec.encode(character).tolist()
            assert [decoder.push(i) for i in first] == [""] * len(first)
            assert decoder.push(last) == character
        assert decoder.flush() == ""

    def test_flush_tells_an_unfinished_character_and_starts_afresh(self) -> None:
        """What never became a character is U+FFFD, once."""
        codec = TextCodec(("a",), "bytes")
        decoder = codec.decoder()
        assert decoder.push(int(codec.encode("€")[0])) == ""
        assert decoder.flush() == REPLACEMENT
        assert decoder.flush() == ""
        assert decoder.push(0) == "a"

    @pytest.mark.parametrize("token_id", [-1, 2, 300])
    def test_an_id_outside_is_refused(self, token_id: int) -> None:
        """An id that the codec does not have is an error, not another symbol."""
        codec = TextCodec(("a", "b"), "error")
        with pytest.raises(ValueError, match=f"id {token_id} is outside 0 .. 1"):
            codec.decode([0, token_id])
        with pytest.raises(ValueError, match=f"id {token_id} is outside 0 .. 1"):
            codec.decoder().push(token_id)


class TestTextCodecFromText:
    @given(mixed, st.integers(1, 3), st.integers(1, 6))
    def test_the_most_frequent_come_first(self, text: str, min_count: int, max_size: int) -> None:
        """Symbols are in the order of falling count, then code point, cut by both limits."""
        ranked = sorted(set(text), key=lambda c: (-text.count(c), c))
        wanted = tuple(c for c in ranked if text.count(c) >= min_count)[:max_size]
        codec = TextCodec.from_text(text, min_count, max_size, "bytes")
        assert codec.symbols == wanted

    @given(st.lists(mixed, max_size=4))
    def test_pieces_count_as_one_text(self, pieces: list[str]) -> None:
        """A text may come in pieces."""
        assert TextCodec.from_text(iter(pieces)) == TextCodec.from_text("".join(pieces))

    @given(mixed, st.integers(1, 6))
    def test_replace_has_its_symbol_within_the_bound(self, text: str, max_size: int) -> None:
        """With "replace", U+FFFD is one of at most max_size symbols."""
        codec = TextCodec.from_text(text, max_size=max_size)
        assert codec.symbols.count(REPLACEMENT) == 1
        assert codec.size <= max_size

    def test_a_replacement_character_in_the_text_keeps_its_rank(self) -> None:
        """A text may hold U+FFFD itself."""
        assert TextCodec.from_text(REPLACEMENT * 3 + "aab").symbols == (REPLACEMENT, "a", "b")

    def test_surrogates_get_no_symbol(self) -> None:
        """What is no character is no symbol."""
        assert TextCodec.from_text("a\ud800").symbols == ("a", REPLACEMENT)


class TestTextCodecAsValue:
    @given(symbol_sets, st.sampled_from(["bytes", "replace"]))
    def test_json_gives_it_back(self, symbols: tuple[str, ...], unknown: Any) -> None:
        """A codec survives JSON, also after it was used."""
        codec = TextCodec(symbols if unknown == "bytes" else (*set(symbols) - {REPLACEMENT}, REPLACEMENT), unknown)
        codec.encode("a b")
        assert codec_from_json(json.loads(json.dumps(codec.to_json()))) == codec

    @pytest.mark.parametrize(
        "values, reason",
        [
            (None, "kind"),
            ([], "kind"),
            ({}, "kind"),
            ({"kind": "image"}, "image"),
            ({"kind": "text", "symbols": ["a"]}, "keys"),
            ({"kind": "text", "symbols": ["a"], "unknown": "error", "more": 1}, "keys"),
            ({"kind": "text", "symbols": "ab", "unknown": "error"}, "list"),
            ({"kind": "text", "symbols": [1], "unknown": "error"}, "list"),
            ({"kind": "text", "symbols": ["ab"], "unknown": "error"}, "one character"),
            ({"kind": "text", "symbols": ["\ud800"], "unknown": "error"}, "surrogate"),
            ({"kind": "text", "symbols": ["a", "a"], "unknown": "error"}, "once"),
            ({"kind": "text", "symbols": ["a"], "unknown": "skip"}, "unknown must be"),
            ({"kind": "text", "symbols": ["a"], "unknown": ["bytes"]}, "unknown must be"),
            ({"kind": "text", "symbols": ["a"], "unknown": "replace"}, "FFFD"),
            ({"kind": "text", "symbols": [], "unknown": "error"}, "nothing"),
            ({"kind": "ink", "mean": [0, 0]}, "keys"),
            ({"kind": "ink", "mean": [0, 0], "std": [1]}, "two"),
            ({"kind": "ink", "mean": [0, "0"], "std": [1, 1]}, "two"),
            ({"kind": "ink", "mean": [0, True], "std": [1, 1]}, "two"),
            ({"kind": "ink", "mean": [0, math.nan], "std": [1, 1]}, "finite"),
            ({"kind": "ink", "mean": [0, 0], "std": [1, 0]}, "greater than 0"),
            ({"kind": "ink", "mean": [0, 0], "std": [1, math.inf]}, "finite"),
        ],
    )
    def test_a_wrong_description_is_refused_with_the_reason(self, values: Any, reason: str) -> None:
        """A damaged or foreign codec is a ValueError that says why."""
        with pytest.raises(ValueError, match=reason):
            codec_from_json(values)

    @pytest.mark.parametrize("kind", [TextCodec, InkCodec])
    def test_each_codec_refuses_the_other_kind(self, kind: type[TextCodec | InkCodec]) -> None:
        """The kind is checked by the class as well."""
        with pytest.raises(ValueError, match="expected a codec of kind"):
            kind.from_json({"kind": "image"})

    def test_separators_are_white_space(self) -> None:
        """Spaces and line ends separate, as symbols and as bytes, and letters do not."""
        codec = TextCodec((" ", "a", "\n", "\u3000", "\xa0"), "bytes")
        assert codec.separators.tolist()[:5] == [True, False, True, True, True]
        assert [b for b in range(256) if codec.separators[5 + b]] == [9, 10, 11, 12, 13, 28, 29, 30, 31, 32]
        assert codec.separators.shape == (codec.size,)


class TestInkCodec:
    @given(offset_arrays)
    def test_decode_undoes_encode(self, offsets: NDArray[np.int16]) -> None:
        """Raw offsets come back to a thousandth of a unit; float32 holds about 7 digits of +-3,000."""
        codec = InkCodec((8.2, 0.1), (42.4, 37.1))
        encoded = codec.encode(offsets)
        assert encoded.dtype == codec.decode(encoded).dtype == np.float32
        np.testing.assert_allclose(codec.decode(encoded), offsets, atol=1e-3)

    def test_what_it_was_measured_on_becomes_standard(self) -> None:
        """Each axis by itself gets mean 0 and std 1, outliers included."""
        random = np.random.default_rng(0)
        lines = [np.column_stack([random.normal(8, 40, n), random.normal(0, 9, n), np.zeros(n)]) for n in (50, 70)]
        lines[0][3, 0] = 5000
        codec = InkCodec.from_offsets(lines)
        encoded = np.concatenate([codec.encode(line) for line in lines])
        np.testing.assert_allclose(encoded[:, :2].mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(encoded[:, :2].std(0), 1, atol=1e-5)
        assert InkCodec.from_offsets(np.concatenate(lines)) == codec

    def test_the_pen_is_0_or_1(self) -> None:
        """pen_up is kept beside the numbers and never scaled."""
        codec = InkCodec((1, 2), (3, 4))
        assert codec.encode([[1, 2, 0], [1, 2, 1]]).tolist() == [[0, 0, 0], [0, 0, 1]]

    def test_log_scale_turns_densities(self) -> None:
        """A density in standardised units, divided by std_x * std_y, is the density in raw units."""
        codec = InkCodec((5, -3), (42.4, 37.1))
        raw, standard = np.array([[30.0, 2.0, 0]]), codec.encode([[30.0, 2.0, 0]])

        def log_normal(values: NDArray[Any], mean: Any, std: Any) -> float:
            return float((-0.5 * ((values - mean) / std) ** 2 - np.log(std * math.sqrt(2 * math.pi))).sum())

        assert log_normal(standard[0, :2], 0.0, np.ones(2)) - codec.log_scale == pytest.approx(
            log_normal(raw[0, :2], np.array(codec.mean), np.array(codec.std)), abs=1e-5
        )

    def test_json_gives_it_back(self) -> None:
        """Every bit of the four figures survives JSON."""
        codec = InkCodec((8.1979805839, 1 / 3), (42.0, 37.1))
        assert codec_from_json(json.loads(json.dumps(codec.to_json()))) == codec

    @pytest.mark.parametrize(
        "offsets, reason",
        [
            ([], "no offsets"),
            (np.zeros((0, 3)), "no offsets"),
            (np.zeros((4, 3)), "greater than 0"),
            ([np.ones((4, 2))], r"shape \(n, 3\)"),
            (np.full((4, 3), math.nan), "finite"),
        ],
    )
    def test_what_cannot_be_measured_is_refused(self, offsets: Any, reason: str) -> None:
        """Statistics need offsets that vary along both axes."""
        with pytest.raises(ValueError, match=reason):
            InkCodec.from_offsets(offsets)

    @pytest.mark.parametrize("wrong", [np.zeros(3), np.zeros((2, 2)), np.zeros((1, 2, 3))])
    def test_another_shape_is_refused(self, wrong: NDArray[Any]) -> None:
        """Offsets are (n, 3)."""
        codec = InkCodec((0, 0), (1, 1))
        with pytest.raises(ValueError, match="shape"):
            codec.encode(wrong)
        with pytest.raises(ValueError, match="shape"):
            codec.decode(wrong)


class TestHandwritingCodec:
    CODEC = HandwritingCodec(InkCodec((1, 2), (3, 4)), TextCodec(("a", "b", REPLACEMENT)), (7, 3))

    def test_text_stands_between_sentinels(self) -> None:
        """Ids begin with 1 and end with 2, symbols count from 3, and none is 0."""
        assert self.CODEC.encode_text("ba").tolist() == [1, 4, 3, 2]
        assert self.CODEC.encode_text("aé").tolist() == [1, 3, 5, 2]
        assert self.CODEC.num_characters == 6

    def test_what_has_no_symbol_is_named(self) -> None:
        """Each once, in order; the replacement itself is no character one can ask for."""
        assert self.CODEC.unsupported("xaéxb�") == ["x", "é", REPLACEMENT]

    def test_hands_are_numbered_from_one(self) -> None:
        """0 is a hand that is not known."""
        assert [self.CODEC.hand(writer) for writer in (7, 3, -1, 8)] == [1, 2, 0, 0]
        assert self.CODEC.num_hands == 3

    def test_json_gives_it_back(self) -> None:
        """Written and read, it is the same codec."""
        assert codec_from_json(json.loads(json.dumps(self.CODEC.to_json()))) == self.CODEC

    @pytest.mark.parametrize(
        "change, reason",
        [
            ({"writers": [1, 1]}, "once"),
            ({"writers": ["x"]}, "whole numbers"),
            ({"text": {"kind": "text", "symbols": ["a"], "unknown": "error"}}, "policy"),
            ({"ink": None}, "ink"),
            ({"more": 1}, "keys"),
        ],
    )
    def test_anything_else_is_refused(self, change: dict[str, Any], reason: str) -> None:
        """With a sentence."""
        with pytest.raises(ValueError, match=reason):
            codec_from_json(self.CODEC.to_json() | change)
