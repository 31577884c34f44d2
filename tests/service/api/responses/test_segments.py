"""Segments lie within each other, cover the text, and end where their layer fired, in characters and in bytes."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from model.codec import REPLACEMENT, TextCodec
from service.api.responses.segments import Offsets, tree

LETTERS = TextCodec(("a", "b", "日", REPLACEMENT), "replace")
MIXED = TextCodec(("a", "b"), "bytes")
TEXTS = st.text(st.sampled_from("ab日é\N{PILE OF POO}\ud800"), min_size=1, max_size=30)


def all_of(node: dict[str, Any]) -> list[dict[str, Any]]:
    """A segment and all within it."""
    return [node, *(inner for child in node.get("segments", ()) for inner in all_of(child))]


@given(TEXTS, st.sampled_from([LETTERS, MIXED]))
def test_offsets_are_those_of_the_steps(text: str, codec: TextCodec) -> None:
    """There is a step for each id, and both counts end where the text ends."""
    offsets = Offsets.of(text, codec)
    whole = text.encode("utf-8", "surrogatepass")
    assert len(offsets.characters) == len(offsets.utf8) == len(codec.encode(text)) + 1
    assert (offsets.characters[-1], offsets.utf8[-1]) == (len(text), len(whole))
    for character, byte in zip(offsets.characters, offsets.utf8, strict=True):
        before = len(text[:character].encode("utf-8", "surrogatepass"))
        assert before <= byte <= before + 3
        if codec is LETTERS:
            assert before == byte


@given(TEXTS, st.integers(0, 4), st.data())
def test_segments_nest_and_cover_the_text(text: str, detectors: int, data: st.DataObject) -> None:
    """At every layer the segments lie one after the other from start to end, and end where their layer fired."""
    offsets = Offsets.of(text, LETTERS)
    bits = st.lists(st.booleans(), min_size=len(text), max_size=len(text))
    z = [data.draw(bits) for _ in range(detectors)]
    for layer in range(1, detectors):  # as the network does: no boundary without one below
        z[layer] = [upper and lower for upper, lower in zip(z[layer], z[layer - 1], strict=True)]
    root = tree(["".join("01"[bit] for bit in row) for row in z], offsets.places)
    found = all_of(root)
    assert (root["layer"], root["start"], root["end"], root["complete"]) == (detectors + 1, 0, len(text), False)
    for layer in range(1, detectors + 1):
        segments = [node for node in found if node["layer"] == layer]
        ends = [index + 1 for index, fired in enumerate(z[layer - 1]) if fired]
        assert [node["end"] for node in segments if node["complete"]] == ends
        assert [node["start"] for node in segments] == [0, *(node["end"] for node in segments[:-1])]
        assert segments[-1]["end"] == len(text)
        assert all(node["complete"] for node in segments[:-1])
        assert "".join(text[node["start"] : node["end"]] for node in segments) == text
        for node in segments:
            assert len(text[: node["end"]].encode("utf-8", "surrogatepass")) == node["utf8_end"]
    for node in found:
        inner = node.get("segments", [])
        assert bool(inner) == (node["layer"] > 1)
        if inner:
            assert (inner[0]["start"], inner[-1]["end"]) == (node["start"], node["end"])
            assert all(child["layer"] == node["layer"] - 1 for child in inner)


def test_a_layer_ends_where_the_one_above_does() -> None:
    """Should an upper layer fire alone, the segments below end there as well, so that they still nest."""
    root = tree(["00010", "01000"], Offsets.of("abaab", LETTERS).places)
    assert [(node["layer"], node["start"], node["end"]) for node in all_of(root)] == [
        *[(3, 0, 5), (2, 0, 2), (1, 0, 2), (2, 2, 5), (1, 2, 4), (1, 4, 5)],
    ]


def test_a_boundary_within_a_character_is_exact_in_bytes() -> None:
    """A byte's boundary may cut a character: bytes tell where, characters give the one that is cut."""
    text = "a日b"
    root = tree(["01000"], Offsets.of(text, MIXED).places)
    first, second = root["segments"]
    assert (first["start"], first["end"], first["utf8_end"]) == (0, 1, 2)
    assert (second["start"], second["end"], second["utf8_start"], second["utf8_end"]) == (1, 3, 2, 5)
