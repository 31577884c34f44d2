"""A bundle is read only when every byte of it is what its manifest says."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from export.bundle import folder as bundle
from export.bundle import manifest
from export.bundle.folder import BundleError


def small_graph(tensor: TensorProto | None = None) -> bytes:
    """A real ONNX file of one node; what it computes does not matter to the folder."""
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [2], [1.0, 2.0]) if tensor is None else tensor
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "weight"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [weight],
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString())


def text_facts() -> dict[str, Any]:
    """Facts of a two-layer text network with an alphabet of three."""
    state = [
        {"name": name, "next": f"{name}_next", "dtype": "float32", "shape": shape}
        for name, shape in [
            ("h1", ["batch", 4]),
            ("h2", ["batch", 5]),
            ("c1", ["batch", 4]),
            ("c2", ["batch", 5]),
            ("z1", ["batch"]),
            ("e2", ["batch", 6]),
        ]
    ]
    return {
        "name": "small",
        "kind": "text",
        "description": "Three letters.",
        "codec": {"kind": "text", "symbols": ["a", "b", "\N{REPLACEMENT CHARACTER}"], "unknown": "replace"},
        "model": {
            "kind": "text",
            "cell": "hmlstm",
            "vocabulary": 3,
            "embedding": 2,
            "hidden": [4, 5],
            "output": 6,
            "mixtures": 20,
            "layer_norm": True,
            "parameters": 321,
        },
        "graph": {
            "file": "step.onnx",
            "single": "single.onnx",
            "prompt": "prompt.onnx",
            "input": {"name": "token", "dtype": "int64", "shape": ["batch"]},
            "draw": [
                {"name": "temperature", "dtype": "float32", "shape": ["batch"]},
                {"name": "top_p", "dtype": "float32", "shape": ["batch"]},
                {"name": "top_k", "dtype": "int64", "shape": ["batch"]},
                {"name": "logit_bias", "dtype": "float32", "shape": ["batch", 3]},
                {"name": "noise", "dtype": "float64", "shape": ["batch"]},
            ],
            "drawn": {"name": "drawn", "dtype": "int64", "shape": ["batch"]},
            "output": {"name": "logits", "dtype": "float32", "shape": ["batch", 3]},
            "state": state,
        },
        "data": {"name": "letters", "licence": "public domain", "use": "any"},
        "training": {"steps": 10, "seed": 1, "hardware": "one core"},
        "metrics": {"test_bpc": 1.5, "z_rates": [0.25], "data_version": "letters 1"},
    }


def ink_facts() -> dict[str, Any]:
    """Facts of the same network on ink with two mixture components."""
    facts = text_facts()
    facts["kind"] = facts["model"]["kind"] = "ink"
    facts["codec"] = {"kind": "ink", "mean": [8.2, 0.1], "std": [40.2, 37.0]}
    facts["model"] |= {"vocabulary": 0, "mixtures": 2}
    facts["graph"]["input"] = {"name": "offset", "dtype": "float32", "shape": ["batch", 3]}
    facts["graph"]["output"] = {"name": "mixture", "dtype": "float32", "shape": ["batch", 13]}
    facts["graph"]["draw"] = [
        {"name": "bias", "dtype": "float32", "shape": ["batch"]},
        {"name": "noise", "dtype": "float64", "shape": ["batch", 4]},
    ]
    facts["graph"]["drawn"] = {"name": "drawn", "dtype": "float32", "shape": ["batch", 3]}
    return facts


FILES = {
    "step.onnx": small_graph(),
    "single.onnx": small_graph(),
    "prompt.onnx": small_graph(),
    "step.pt": b"script",
    "parity.json": b"{}",
    "LICENSE-DATA.txt": b"none\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound bundle on disk."""
    return bundle.write(tmp_path / "small", text_facts(), FILES).path


def reseal(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest and give it the fingerprint that fits, as a careful forger would."""
    path = folder / "bundle.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    content["fingerprint"] = manifest.fingerprint(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("facts", [text_facts(), ink_facts()], ids=["text", "ink"])
def test_what_is_written_is_read_back(tmp_path: Path, facts: dict[str, Any]) -> None:
    """Facts, bytes and shapes survive the folder unchanged."""
    bundle.write(tmp_path / "small", facts, FILES)
    loaded = bundle.load(tmp_path / "small")
    assert dict(loaded.files) == FILES
    assert loaded.graph == FILES["step.onnx"]
    assert {key: loaded.manifest[key] for key in facts} == facts
    assert (loaded.name, loaded.kind, loaded.hidden) == ("small", facts["kind"], (4, 5))
    assert [state.name for state in loaded.states] == ["h1", "h2", "c1", "c2", "z1", "e2"]
    assert loaded.states[4].shape_for(7) == (7,)
    assert loaded.output.shape_for(7) == (7, facts["graph"]["output"]["shape"][1])
    assert loaded.input.dtype == facts["graph"]["input"]["dtype"]
    assert (loaded.data["use"], loaded.training["seed"], loaded.metrics["z_rates"]) == ("any", 1, [0.25])
    assert loaded.codec == facts["codec"]
    assert loaded.model["parameters"] == 321
    assert loaded.description == "Three letters."
    assert len(loaded.fingerprint) == 64


def test_bytes_outlive_the_folder(folder: Path) -> None:
    """What was checked is what is handed out, whatever happens to the files afterwards."""
    loaded = bundle.load(folder)
    (folder / "step.onnx").write_bytes(b"something else")
    assert loaded.graph == FILES["step.onnx"]


def test_the_fingerprint_stands_for_every_byte(tmp_path: Path) -> None:
    """Equal content gives an equal fingerprint; another byte in any file or fact gives another one."""
    first = bundle.write(tmp_path / "a", text_facts(), FILES).fingerprint
    assert bundle.write(tmp_path / "b", text_facts(), FILES).fingerprint == first
    for name, content in FILES.items():
        changed = {**FILES, name: small_graph(_other()) if name.endswith(".onnx") else content + b" "}
        assert bundle.write(tmp_path / "c", text_facts(), changed).fingerprint != first
    assert bundle.write(tmp_path / "c", {**text_facts(), "description": ""}, FILES).fingerprint != first


def _other() -> TensorProto:
    return helper.make_tensor("weight", TensorProto.FLOAT, [2], [1.0, 3.0])


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: bytes([content[0] ^ 1]) + content[1:],
    ],
    ids=["cut", "longer", "one bit"],
)
def test_a_changed_file_is_refused(folder: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    """One bit of any file is enough."""
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BundleError, match=f"{name} does not have the sha256"):
        bundle.load(folder)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    """Every listed file must be there."""
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is in the manifest but not in the folder"):
        bundle.load(folder)


def test_an_unknown_file_is_refused(folder: Path) -> None:
    """Nothing rides along unseen."""
    (folder / "extra.pkl").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"'extra\.pkl' is in the folder but not in the manifest"):
        bundle.load(folder)


def test_a_linked_file_is_refused(folder: Path, tmp_path: Path) -> None:
    """A link could point anywhere, even when the content behind it fits."""
    target = tmp_path / "elsewhere"
    (folder / "step.onnx").rename(target)
    (folder / "step.onnx").symlink_to(target)
    with pytest.raises(BundleError, match=r"step\.onnx is a link"):
        bundle.load(folder)


def test_a_folder_in_place_of_a_file_is_refused(folder: Path) -> None:
    """Only plain files are read."""
    (folder / "step.pt").unlink()
    (folder / "step.pt").mkdir()
    with pytest.raises(BundleError, match=r"step\.pt is not a plain file"):
        bundle.load(folder)


def test_an_oversized_file_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file above the limit is not read to its end."""
    monkeypatch.setattr(bundle, "MAX_FILE_BYTES", len(FILES["step.onnx"]) - 1)
    with pytest.raises(BundleError, match="larger than"):
        bundle.load(folder)


def test_a_linked_folder_is_welcome(folder: Path, tmp_path: Path) -> None:
    """Operators switch versions with a link to the folder."""
    (tmp_path / "current").symlink_to(folder)
    assert bundle.load(tmp_path / "current").name == "small"


@pytest.mark.parametrize("found", ["nowhere", "empty", "foreign"])
def test_what_is_no_bundle_is_refused(tmp_path: Path, found: str) -> None:
    """A missing, an empty and a foreign folder are told apart from a broken bundle."""
    if found != "nowhere":
        (tmp_path / found).mkdir()
    if found == "foreign":
        (tmp_path / found / "config.json").write_text("{}")
    with pytest.raises(BundleError, match="cannot be read" if found == "nowhere" else "not a bundle"):
        bundle.load(tmp_path / found)


@pytest.mark.parametrize(
    "raw, reason",
    [
        (b"", "not valid JSON"),
        (b'{"format": ', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "one JSON object"),
        (b"{}", "format is None"),
        (b'{"format": "copyist-bundle/2"}', "reads 'copyist-bundle/3'; export the checkpoint again to get one"),
        (b'{"format": "copyist-bundle/3"}', "lacks the field 'name'"),
        (b'{"a": 1, "a": 2}', "given twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "out of range"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_a_manifest_that_is_no_manifest_is_refused(folder: Path, raw: bytes, reason: str) -> None:
    """Python's liberal JSON is not good enough."""
    (folder / "bundle.json").write_bytes(raw)
    with pytest.raises(BundleError, match=reason):
        bundle.load(folder)


def test_a_manifest_edited_by_hand_is_refused(folder: Path) -> None:
    """A nicer figure does not go unnoticed."""
    path = folder / "bundle.json"
    path.write_text(path.read_text().replace('"test_bpc": 1.5', '"test_bpc": 1.2'))
    with pytest.raises(BundleError, match="fingerprint does not match"):
        bundle.load(folder)


def put(value: Any, *keys: str | int) -> Callable[[dict[str, Any]], None]:
    """Return a change that sets one value deep inside a manifest."""

    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


SHA = "0" * 64


@pytest.mark.parametrize(
    "change, reason",
    [
        (put("Small!", "name"), "name has 'Small!'"),
        (put("../small", "name"), r"name has '\.\./small'"),
        (put("video", "kind"), "kind is 'video'"),
        (put("ink", "kind"), "model.kind is 'text' but kind is 'ink'"),
        (put(3, "description"), "description must be text"),
        (put("x" * 2001, "description"), "description must be text"),
        (put("\ud800", "description"), "description must be text"),
        (put(1, "surplus"), "unknown field 'surplus'"),
        (put([4, 5.0], "model", "hidden"), r"model.hidden\[1\] must be an integer"),
        (put([4, True], "model", "hidden"), r"model.hidden\[1\] must be an integer"),
        (put([], "model", "hidden"), "model.hidden must be a list of 1 to 16"),
        (put([4] * 17, "model", "hidden"), "model.hidden must be a list"),
        (put(0, "model", "output"), "model.output must be an integer from 1"),
        (put("gru", "model", "cell"), "model.cell is 'gru'"),
        (put(4, "model", "vocabulary"), "the codec has 3 symbols but model.vocabulary is 4"),
        (put(["a", "bc", "d"], "codec", "symbols"), "codec is not one: .*'bc'"),
        (put(["a", "b", "c"], "codec", "symbols"), r"codec is not one: .*U\+FFFD"),
        (put("guess", "codec", "unknown"), "codec is not one: .*'guess'"),
        (put(1, "codec", "extra"), "codec is not one: .*keys"),
        (put({"kind": "ink", "mean": [0, 0], "std": [1, 1]}, "codec"), "codec.kind is 'ink' but kind is 'text'"),
        (put("step.pkl", "graph", "file"), "must end in .onnx"),
        (put("../step.onnx", "graph", "file"), "graph.file has"),
        (put("a/step.onnx", "graph", "file"), "graph.file has"),
        (put("other.onnx", "graph", "file"), "files lacks the field 'other.onnx'"),
        (put("other.onnx", "graph", "single"), "files lacks the field 'other.onnx'"),
        (put("step.onnx", "graph", "single"), "graph.file and graph.single are both 'step.onnx'"),
        (put("step.onnx", "graph", "prompt"), "graph.file and graph.prompt are both 'step.onnx'"),
        (put("step.pkl", "graph", "single"), "graph.single is 'step.pkl' but must end in .onnx"),
        (put("chosen", "graph", "drawn", "name"), "graph.drawn.name is 'chosen' but must be 'drawn'"),
        (put([], "graph", "draw"), "graph.draw must be a list of 5 to 5"),
        (put("float32", "graph", "draw", 4, "dtype"), r"graph.draw\[4\].dtype is 'float32' but must be 'float64'"),
        (put(["batch", 4], "graph", "draw", 3, "shape"), r"graph.draw\[3\].shape"),
        (put("tokens", "graph", "input", "name"), "graph.input.name is 'tokens' but must be 'token'"),
        (put("int32", "graph", "input", "dtype"), "graph.input.dtype"),
        (put(["batch", 1], "graph", "input", "shape"), "graph.input.shape"),
        (put(["batch", 4], "graph", "output", "shape"), "graph.output.shape"),
        (put("h2", "graph", "state", 0, "name"), "one tensor name twice"),
        (put("token", "graph", "state", 0, "name"), "one tensor name twice"),
        (put("H 1", "graph", "state", 0, "name"), r"graph.state\[0\].name has 'H 1'"),
        (put("float64", "graph", "state", 0, "dtype"), r"graph.state\[0\].dtype"),
        (put(["batch", 9], "graph", "state", 0, "shape"), r"'h1' must have shape \['batch', 4\]"),
        (put([4], "graph", "state", 0, "shape"), r"graph.state\[0\].shape\[0\]"),
        (put("other", "graph", "state", 4, "name"), "lacks 'z1'"),
        (put([], "graph", "state"), "graph.state must be a list"),
        (put("", "data", "licence"), "data.licence must be text"),
        (put({"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}, "training"), "nested too deeply"),
        (put([1], "training"), "training must be an object"),
        (put({"bad key": 1}, "training"), "training has 'bad key'"),
        (put({"note": "x" * 10_001}, "training"), "training.note must be text"),
        (put({"a": 1}, "metrics", "test_bpc"), "metrics.test_bpc must be a finite number"),
        (put(True, "metrics", "test_bpc"), "metrics.test_bpc must be a finite number"),
        (put(["x"], "metrics", "z_rates"), r"metrics.z_rates\[0\] must be a finite number"),
        (put(SHA, "files", "../../etc/passwd.txt"), "files has"),
        (put(SHA, "files", "weights.pkl"), "a bundle holds only"),
        (put(SHA, "files", "bundle.json"), "lists bundle.json itself"),
        (put("xyz", "files", "step.pt"), "files.step.pt has 'xyz'"),
        (put(SHA, "files", "step.pt"), "step.pt does not have the sha256"),
        (put(SHA, "files", "more.txt"), "more.txt is in the manifest but not in the folder"),
        (lambda content: content["files"].pop("step.pt"), "'step.pt' is in the folder but not in the manifest"),
        (lambda content: content["files"].pop("parity.json"), "files lacks the field 'parity.json'"),
        (lambda content: content.pop("codec"), "lacks the field 'codec'"),
        (lambda content: content["model"].pop("hidden"), "model lacks the field 'hidden'"),
        (lambda content: content["data"].pop("use"), "data lacks the field 'use'"),
    ],
)
def test_a_forged_field_is_refused(folder: Path, change: Callable[[dict[str, Any]], object], reason: str) -> None:
    """A fingerprint that fits does not excuse a field that does not."""
    reseal(folder, change)
    with pytest.raises(BundleError, match=reason):
        bundle.load(folder)


@pytest.mark.parametrize(
    "change, reason",
    [
        (put([0.0, 1.0], "codec", "std"), "codec is not one: .*greater than 0"),
        (put([1.0], "codec", "mean"), "codec is not one: .*two finite numbers"),
        (put(["1", 2], "codec", "mean"), "codec is not one: .*two finite numbers"),
        (put(3, "model", "vocabulary"), "model.vocabulary must be an integer from 0 to 0"),
        (put(3, "model", "mixtures"), "graph.output.shape"),
    ],
)
def test_a_forged_ink_field_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], reason: str) -> None:
    """Ink has its own constants."""
    path = bundle.write(tmp_path / "small", ink_facts(), FILES).path
    reseal(path, change)
    with pytest.raises(BundleError, match=reason):
        bundle.load(path)


def leaves(value: Any, keys: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every path to a value in a manifest."""
    if isinstance(value, dict):
        return [keys, *(path for key, entry in value.items() for path in leaves(entry, (*keys, key)))]
    if isinstance(value, list):
        return [keys, *(path for index, entry in enumerate(value) for path in leaves(entry, (*keys, index)))]
    return [keys]


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5),
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_junk_anywhere_is_accepted_or_refused_but_never_crashes(data: st.DataObject) -> None:
    """Whatever JSON stands in a field, the answer is a manifest or a BundleError."""
    content: Any = {"format": manifest.FORMAT, **text_facts(), "files": dict.fromkeys(FILES, SHA), "fingerprint": SHA}
    content = copy.deepcopy(content)
    path = data.draw(st.sampled_from([keys for keys in leaves(content) if keys]))
    put(data.draw(JUNK), *path)(content)
    content["fingerprint"] = manifest.fingerprint(content)
    try:
        manifest.parse(manifest.pretty(content))
    except BundleError as error:
        reason = str(error)
    else:
        reason = ""
    assert len(reason) < 400
    assert "\n" not in reason


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_no_manifest(raw: bytes) -> None:
    """Noise is refused, not stumbled over."""
    with pytest.raises(BundleError):
        manifest.parse(raw)


def test_external_data_is_refused(tmp_path: Path) -> None:
    """A graph that names another file is refused before any runtime opens it, even deep in a branch."""
    outside = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[2])
    onnx.external_data_helper.set_external_data(_with_raw(outside), "../../etc/passwd")
    for graph in (small_graph(outside), _in_a_branch(outside)):
        with pytest.raises(BundleError, match="keeps tensors in other files"):
            bundle.write(tmp_path / "small", text_facts(), {**FILES, "step.onnx": graph})
    assert not list(tmp_path.iterdir())


def _with_raw(tensor: TensorProto) -> TensorProto:
    tensor.raw_data = b"\0" * 8
    return tensor


def _in_a_branch(tensor: TensorProto) -> bytes:
    """A model whose If branch holds a constant."""
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["y"], value=tensor)],
        "branch",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch)],
        "main",
        [helper.make_tensor_value_info("x", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])],
    )
    return bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("content", [b"", b"\x08\x07", b"PK\x03\x04 not onnx", FILES["step.onnx"][:-3]])
def test_a_graph_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    """Hashes that fit do not make an ONNX file."""
    with pytest.raises(BundleError, match=r"step\.onnx is not an ONNX graph"):
        bundle.write(tmp_path / "small", text_facts(), {**FILES, "step.onnx": content})


def test_a_bundle_replaces_a_bundle_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    """An older bundle gives way as a whole; a folder of something else is left alone."""
    bundle.write(
        folder, text_facts(), {key: FILES[key] for key in ("step.onnx", "single.onnx", "prompt.onnx", "parity.json")}
    )
    kept = ["bundle.json", "parity.json", "prompt.onnx", "single.onnx", "step.onnx"]
    assert sorted(path.name for path in folder.iterdir()) == kept
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="is not a bundle; it is left as it is"):
        bundle.write(precious, text_facts(), FILES)
    assert (precious / "thesis.txt").read_text() == "years of work"


def test_a_refused_bundle_leaves_the_old_one(folder: Path, tmp_path: Path) -> None:
    """Whole or not at all."""
    before = bundle.load(folder).fingerprint
    with pytest.raises(BundleError):
        bundle.write(folder, text_facts(), {**FILES, "step.onnx": b"no"})
    with pytest.raises(BundleError, match="not plain JSON"):
        bundle.write(folder, {**text_facts(), "training": {"loss": float("nan")}}, FILES)
    assert bundle.load(folder).fingerprint == before
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
