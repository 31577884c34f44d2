"""Pen strokes: the published protocol to the line, and one clear sentence for whatever is wrong."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.codec import InkCodec
from model.data import ink as ink_module
from model.data.errors import DataError
from model.data.ink import load_ink

Arrays = dict[str, NDArray[Any]]
ROOT = Path(__file__).resolve().parents[3]


def arrays_of(lengths: list[int]) -> Arrays:
    """Return strokes in the .npz format: lines of these lengths, whose offsets wander."""
    total = sum(lengths)
    random = np.random.RandomState(1)
    eos = (random.rand(total) < 0.1).astype(np.uint8)
    return {
        "dx": random.randint(-40, 60, total).astype(np.int16),
        "dy": random.randint(-30, 30, total).astype(np.int16),
        "eos": eos,
        "offsets": np.cumsum([0, *lengths]),
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes arrays to an .npz."""

    def write_arrays(arrays: dict[str, Any]) -> Path:
        path = tmp_path / "strokes.npz"
        np.savez_compressed(path, **arrays)
        return path

    return write_arrays


class TestFixture:
    def test_every_line_is_kept_raw(self, fixtures: Path) -> None:
        """Decoded, the three splits are the file's lines, each once, float32 and in full length."""
        corpus = load_ink(fixtures / "ink.npz")
        with np.load(fixtures / "ink.npz") as file:
            raw = np.stack([file["dx"], file["dy"], file["eos"]], 1)
            wanted = np.split(raw, file["offsets"][1:-1])
        lines = corpus.train + corpus.valid + corpus.test
        assert {line.dtype for line in lines} == {np.dtype(np.float32)}
        found = {np.rint(corpus.codec.decode(line)).astype(np.int16).tobytes() for line in lines}
        assert found == {line.astype(np.int16).tobytes() for line in wanted}
        assert len(lines) == len(wanted) == 24

    def test_train_is_standardised_without_first_points(self, fixtures: Path) -> None:
        """Over train's offsets that have a predecessor, each axis has mean 0 and std 1."""
        corpus = load_ink(fixtures / "ink.npz")
        scored = np.concatenate([line[1:, :2] for line in corpus.train])
        np.testing.assert_allclose(scored.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(scored.std(0), 1, atol=1e-5)
        start = corpus.codec.encode([[0, 0, 0]])[0, :2]
        assert all(np.array_equal(line[0, :2], start) for line in corpus.train + corpus.valid + corpus.test)

    def test_the_official_split_is_the_files_own(self, fixtures: Path) -> None:
        """Codes 0, 1 and 3 are train, valid and test; the second validation set is left out."""
        facts = load_ink(fixtures / "ink.npz", protocol="official").facts
        assert facts["lines"] == {"train": 16, "valid": 3, "test": 4}
        assert facts["seed"] is None

    def test_a_given_codec_is_used(self, fixtures: Path) -> None:
        """A checkpoint's codec standardises other data, too, and facts tell its figures."""
        codec = InkCodec((1, 2), (3, 4))
        corpus = load_ink(fixtures / "ink.npz", codec)
        assert corpus.codec is codec
        assert corpus.facts["std"] == [3, 4]

    def test_facts_say_what_was_read(self, fixtures: Path) -> None:
        """Facts are JSON and hold name, checksum, counts, protocol, the constants of the scale, licence and use."""
        corpus = load_ink(fixtures / "ink.npz", seed=4)
        facts = corpus.facts
        assert json.loads(json.dumps(facts)) == facts
        assert facts["log_scale"] == corpus.codec.log_scale
        assert facts["points"]["train"] == sum(map(len, corpus.train))
        assert (facts["protocol"], facts["seed"], facts["min_points"]) == ("paper", 4, 300)
        assert {"name", "path", "sha256", "order_sha256", "split", "licence", "use"} <= facts.keys()

    def test_the_seed_decides_the_split(self, fixtures: Path) -> None:
        """Same seed, same split; another seed, another one."""
        orders = [load_ink(fixtures / "ink.npz", seed=seed).facts["order_sha256"] for seed in (0, 0, 1)]
        assert orders[0] == orders[1] != orders[2]

    def test_inkml_gives_the_same_lines(self, fixtures: Path) -> None:
        """The InkML files are the first lines of the .npz, so either way they are the same offsets."""
        codec = InkCodec((0, 0), (1, 1))
        folder, file = load_ink(fixtures / "inkml", codec), load_ink(fixtures / "ink.npz", codec)
        known = {line.tobytes() for line in file.train + file.valid + file.test}
        lines = folder.train + folder.valid + folder.test
        assert len(lines) == 4
        assert {line.tobytes() for line in lines} <= known
        assert folder.facts["min_points"] == 2


class TestWhichLinesAreKept:
    def test_short_lines_go_where_twenty_long_ones_are(self, write: Callable[..., Path]) -> None:
        """A line of 300 points stays and one of 299 goes."""
        facts = load_ink(write(arrays_of([300] * 20 + [299, 5]))).facts
        assert sum(facts["lines"].values()) == 20
        assert (facts["lines_read"], facts["min_points"]) == (22, 300)

    def test_a_small_set_keeps_what_can_be_scored(self, write: Callable[..., Path]) -> None:
        """With nineteen long lines, all of 2 points or more stay; facts say so."""
        facts = load_ink(write(arrays_of([300] * 19 + [2, 1, 0]))).facts
        assert sum(facts["lines"].values()) == 20
        assert facts["min_points"] == 2

    @given(st.integers(3, 400))
    def test_sizes_are_90_5_5(self, count: int) -> None:
        """Each split has a line, each line a split; from 20 lines on train and valid are 90 and 5 % rounded down."""
        parts = ink_module._paper_split(np.arange(count) * 2, seed=0)
        sizes = {name: len(part) for name, part in parts.items()}
        assert min(sizes.values()) >= 1
        assert sorted(np.concatenate(list(parts.values()))) == list(range(0, 2 * count, 2))
        if count >= 20:
            assert (sizes["train"], sizes["valid"]) == (count * 9 // 10, count // 20)

    def test_a_first_point_has_no_offset(self, write: Callable[..., Path]) -> None:
        """Whatever a file holds in a line's first dx and dy, a line begins where it begins."""
        corpus = load_ink(write(arrays_of([4, 5, 6])), InkCodec((0, 0), (1, 1)))
        assert all(line[0, :2].tolist() == [0, 0] for line in corpus.train + corpus.valid + corpus.test)


class TestWrongFiles:
    @pytest.mark.parametrize(
        "change, reason",
        [
            ({"dx": None}, "but dx is missing"),
            ({"offsets": None, "eos": None}, "but eos, offsets is missing"),
            ({"dx": np.array([{}] * 30, object)}, "Object arrays cannot be loaded"),
            ({"dx": np.zeros((30, 1))}, "dx to be a flat array"),
            ({"dx": np.array(["1"] * 30)}, "dx to be a flat array"),
            ({"dy": np.full(30, np.nan)}, "dy to be a flat array of finite numbers"),
            ({"dy": np.zeros(29)}, "one length, found 30, 29 and 30"),
            ({"eos": np.full(30, 2)}, "0 or 1 in eos"),
            ({"offsets": np.array([0.0, 30.0])}, "integer offsets"),
            ({"offsets": np.array([], int)}, "integer offsets"),
            ({"offsets": np.array([0, 10, 20])}, "integer offsets from 0 to the number of points, 30"),
            ({"offsets": np.array([0, 20, 10, 30])}, "never fall"),
            ({"offsets": np.array([0, 15, 30])}, "at least 3 lines of 2 or more points, found 2"),
            ({"split": np.array([0])}, "one split code for each of 3 lines, found 1"),
            ({"dx": np.zeros(30)}, "move along both axes"),
        ],
    )
    def test_wrong_arrays_are_named(self, write: Callable[..., Path], change: dict[str, Any], reason: str) -> None:
        """Each wrong array is a DataError of one line with the file, the array and what was expected."""
        arrays = {name: array for name, array in (arrays_of([10] * 3) | change).items() if array is not None}
        path = write(arrays)
        with pytest.raises(DataError, match=reason) as caught:
            load_ink(path)
        assert str(caught.value).startswith(f"{path}: expected ")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.9, 0.999])
    def test_a_truncated_file_is_named(self, tmp_path: Path, fixtures: Path, kept: float) -> None:
        """However much of an .npz is left, it is refused by name."""
        content = (fixtures / "ink.npz").read_bytes()
        path = tmp_path / "cut.npz"
        path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
        with pytest.raises(DataError, match=r"cut\.npz: expected"):
            load_ink(path)

    def test_damage_inside_is_named(self, tmp_path: Path, fixtures: Path) -> None:
        """Bytes overwritten within an array do not pass as numbers."""
        content = bytearray((fixtures / "ink.npz").read_bytes())
        content[200:260] = bytes(60)
        path = tmp_path / "damaged.npz"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"damaged\.npz: expected"):
            load_ink(path)

    def test_a_member_that_is_no_array_is_named(self, tmp_path: Path) -> None:
        """A zip of other things is no stroke file."""
        path = tmp_path / "zip.npz"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in ("dx", "dy", "eos", "offsets"):
                archive.writestr(name, b"1 2 3")
        path.write_bytes(buffer.getvalue())
        with pytest.raises(DataError, match="dx to be a flat array"):
            load_ink(path)

    def test_another_kind_of_file_is_named(self, fixtures: Path) -> None:
        """A text is no stroke file."""
        with pytest.raises(DataError, match=r"text\.txt: expected an \.npz of strokes"):
            load_ink(fixtures / "text.txt")

    def test_a_missing_path_is_named(self, tmp_path: Path) -> None:
        """A path that leads nowhere is told, with what could have been there."""
        with pytest.raises(DataError, match="nowhere: no such file or folder; expected strokes"):
            load_ink(tmp_path / "nowhere")

    def test_a_folder_without_inkml_is_named(self, tmp_path: Path) -> None:
        """A folder needs .inkml files."""
        with pytest.raises(DataError, match=r"expected \.inkml files"):
            load_ink(tmp_path)

    def test_an_empty_inkml_file_is_named(self, tmp_path: Path) -> None:
        """The sentence names the file in the folder, not the folder."""
        (tmp_path / "one.inkml").write_bytes(b"")
        with pytest.raises(DataError, match=r"one\.inkml: expected .* the file is empty"):
            load_ink(tmp_path)

    def test_the_official_split_needs_codes(self, fixtures: Path, write: Callable[..., Path]) -> None:
        """Without a split array, or without one of the three splits in it, there is no official split."""
        with pytest.raises(DataError, match=r"needs an \.npz with an array named split"):
            load_ink(fixtures / "inkml", protocol="official")
        with pytest.raises(DataError, match=r"expected lines with split code 1 \(valid\), found none"):
            load_ink(write(arrays_of([10] * 4) | {"split": np.array([0, 0, 3, 3])}), protocol="official")

    def test_a_file_that_may_not_be_read_is_named(self, fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The system's reason is passed on in the sentence."""

        def refuse(_: Path) -> bytes:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(DataError, match=r"ink\.npz: cannot be read \(Permission denied\)"):
            load_ink(fixtures / "ink.npz")


@pytest.mark.slow
class TestIamOndb:
    @pytest.fixture
    def path(self, corpora: Path) -> Path:
        """The stroke file of the full data set."""
        path = corpora / "iam_ondb" / "iam_ondb.npz"
        if not path.exists():
            pytest.skip("needs iam_ondb among the data sets")
        return path

    def test_the_papers_protocol_is_met_exactly(self, path: Path) -> None:
        """12,195 lines, 11,628 kept, 10,465 / 581 / 582, mean 648.4 points, and the very same lines for ever."""
        corpus = load_ink(path)
        facts = corpus.facts
        assert facts["name"] == "IAM-OnDB"
        assert facts["use"] == "non-commercial research"
        assert facts["lines_read"] == 12_195
        assert facts["lines"] == {"train": 10_465, "valid": 581, "test": 582}
        assert round(sum(facts["points"].values()) / 11_628, 1) == 648.4
        assert facts["order_sha256"] == "14f5b2a1044ba49fe3469ee618a940891aea82514491227c04b1a0926c12f7aa"

    def test_the_held_out_lines_are_the_ones_written_down(self, path: Path) -> None:
        """docs/splits names the lines that the paper-sized split validates and tests on, in any order."""
        written = json.loads((ROOT / "docs" / "splits" / "iam-ondb-paper.json").read_text(encoding="utf-8"))
        corpus = load_ink(path)
        assert {name: written[name] for name in ("valid", "test")} == {
            name: sorted(corpus.ids[name]) for name in ("valid", "test")
        }
        assert written["order_sha256"] == corpus.facts["order_sha256"]
        assert not set(corpus.ids["train"]) & {*written["valid"], *written["test"]}
        assert (written["lines"]["train"], len(set(corpus.ids["train"]))) == (10_465, 10_465)

    def test_the_scale_is_the_documented_one(self, path: Path) -> None:
        """Over all lines, offsets that have a predecessor have std 42.36 and 37.12 and mean 8.21 and 0.12."""
        with np.load(path) as file:
            raw = np.stack([file["dx"], file["dy"], file["eos"]], 1)
            lines = np.split(raw, file["offsets"][1:-1])
        codec = InkCodec.from_offsets([line[1:] for line in lines])
        assert tuple(round(value, 2) for value in codec.std) == (42.36, 37.12)
        assert tuple(round(value, 2) for value in codec.mean) == (8.21, 0.12)

    def test_the_official_split_is_the_tasks(self, path: Path) -> None:
        """Lines of 300 points and more of the task's 5,364 / 1,438 / 3,859."""
        with np.load(path) as file:
            is_long = np.diff(file["offsets"]) >= 300
            wanted = {name: int((is_long & (file["split"] == code)).sum()) for name, code in OFFICIAL_CODES}
        assert load_ink(path, protocol="official").facts["lines"] == wanted


OFFICIAL_CODES = (("train", 0), ("valid", 1), ("test", 3))
