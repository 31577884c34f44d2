"""The manifest of a bundle: what `bundle.json` may say, checked field by field before anything else is used.

Neither PyTorch nor ONNX is needed here: the service reads manifests with the standard library and the codecs. An error
is one sentence that names the field and what was expected.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from export.bundle.fields import (
    BundleError,
    check_choice,
    check_facts,
    check_integer,
    check_key,
    check_list,
    check_number,
    check_pattern,
    check_record,
    check_text,
)
from model.codec import HandwritingCodec, TextCodec, codec_from_json

FORMAT = "copyist-bundle/3"
KINDS = ("text", "ink")
CELLS = ("hmlstm", "lstm")
SUFFIXES = (".onnx", ".pt", ".json", ".txt")
MAX_LAYERS = 16
MAX_WIDTH = 65_536
MAX_MIXTURES = 1_000

_BUNDLE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TENSOR_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_TOP_KEYS = ("format", "name", "kind", "description", "codec", "model", "graph", "data", "training", "metrics")


def parse(raw: bytes) -> dict[str, Any]:
    """Return the checked manifest held in the bytes of `bundle.json`.

    Raises:
        BundleError: not JSON, a field missing, unknown, of the wrong type or out of range, or the fingerprint is wrong.
    """
    manifest = _json_object(raw)
    check(manifest)
    if manifest["fingerprint"] != fingerprint(manifest):
        raise BundleError("bundle.json: the fingerprint does not match the content: the manifest was changed by hand")
    return manifest


def fingerprint(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of the canonical JSON of everything in a manifest but the fingerprint itself.

    The file hashes are part of the manifest, so one fingerprint stands for every byte of the bundle. It guards against
    accidents and against files of different bundles being mixed; it is not a signature.
    """
    rest = {key: value for key, value in manifest.items() if key != "fingerprint"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def pretty(manifest: Mapping[str, Any]) -> bytes:
    """Return the manifest as the file has it: indented for people, with sorted keys so that differences show."""
    return (json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def check(manifest: Mapping[str, Any]) -> None:
    """Raise BundleError unless every field of a manifest is there, of the right type, in range, and fits the others."""
    found = manifest.get("format")
    if found != FORMAT:
        raise BundleError(
            f"bundle.json: format is {found!r}, but this version of Copyist reads {FORMAT!r}; "
            "export the checkpoint again to get one"
        )
    check_record(manifest, "bundle.json", required=(*_TOP_KEYS, "files", "fingerprint"), optional=("writing",))
    check_pattern(manifest["name"], "name", _BUNDLE_NAME)
    kind = check_choice(manifest["kind"], "kind", KINDS)
    check_text(manifest["description"], "description", longest=2_000)
    _check_model(manifest["model"], kind)
    _check_codec(manifest["codec"], kind, manifest["model"])
    _check_graph(manifest["graph"], manifest["model"], writes_text=manifest["codec"]["kind"] == "handwriting")
    _check_data(manifest["data"])
    check_facts(check_record(manifest["training"], "training", required=(), optional=None), "training")
    _check_metrics(manifest["metrics"])
    _check_files(manifest["files"], manifest["graph"])
    if "writing" in manifest:
        _check_writing(manifest["writing"], manifest["codec"], manifest["files"])
    check_pattern(manifest["fingerprint"], "fingerprint", _SHA256)


def _json_object(raw: bytes) -> dict[str, Any]:
    """Parse JSON more strictly than Python does: no NaN, no repeated keys, no numbers out of range."""

    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is not a JSON number")

    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            raise ValueError("a key is given twice")
        return record

    def finite(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError(f"{digits} is out of range")
        return value

    try:
        value = json.loads(
            raw.decode("utf-8"), parse_constant=no_constant, object_pairs_hook=no_repeats, parse_float=finite
        )
    except RecursionError:
        raise BundleError("bundle.json is nested too deeply to be a manifest") from None
    except ValueError as error:
        raise BundleError(f"bundle.json is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise BundleError("bundle.json must hold one JSON object")
    return value


def _check_model(model: Any, kind: str) -> None:
    """Check the network's sizes; its other switches may be any plain value."""
    where = "model"
    needed = ("kind", "cell", "vocabulary", "embedding", "hidden", "output", "mixtures", "parameters")
    check_record(model, where, required=needed, optional=None)
    if check_choice(model["kind"], f"{where}.kind", KINDS) != kind:
        raise BundleError(f"bundle.json: model.kind is {model['kind']!r} but kind is {kind!r}")
    check_choice(model["cell"], f"{where}.cell", CELLS)
    check_integer(
        model["vocabulary"], f"{where}.vocabulary", 2 if kind == "text" else 0, MAX_WIDTH if kind == "text" else 0
    )
    check_integer(model["embedding"], f"{where}.embedding", 1, MAX_WIDTH)
    check_integer(model["output"], f"{where}.output", 1, MAX_WIDTH)
    check_integer(model["mixtures"], f"{where}.mixtures", 1, MAX_MIXTURES)
    check_integer(model["parameters"], f"{where}.parameters", 1, 10**12)
    for index, width in enumerate(check_list(model["hidden"], f"{where}.hidden", 1, MAX_LAYERS)):
        check_integer(width, f"{where}.hidden[{index}]", 1, MAX_WIDTH)
    check_facts({key: value for key, value in model.items() if key not in needed}, where)


def _check_codec(codec: Any, kind: str, model: Mapping[str, Any]) -> None:
    """Check that the codec can be read by its own class, and that it fits the network's sizes."""
    check_facts(check_record(codec, "codec", required=("kind",), optional=None), "codec")
    try:
        read = codec_from_json(dict(codec))
    except ValueError as error:
        raise BundleError(f"bundle.json: codec is not one: {error}") from None
    if codec["kind"] not in ((kind, "handwriting") if kind == "ink" else (kind,)):
        raise BundleError(f"bundle.json: codec.kind is {codec['kind']!r} but kind is {kind!r}")
    vocabulary = model["vocabulary"]
    if isinstance(read, HandwritingCodec) and (read.num_characters, read.num_hands) != (
        model.get("characters"),
        model.get("writers"),
    ):
        raise BundleError(
            f"bundle.json: the codec has {read.num_characters} characters and {read.num_hands} hands, "
            "but model.characters and model.writers say otherwise"
        )
    if isinstance(read, TextCodec) and read.size != vocabulary:
        raise BundleError(f"bundle.json: the codec has {read.size} symbols but model.vocabulary is {vocabulary}")


def _check_graph(graph: Any, model: Mapping[str, Any], *, writes_text: bool) -> None:
    """Check names, types and shapes of the step graph against the network's sizes."""
    files = ["file", "single", "prompt", *(["reader"] if writes_text else [])]
    check_record(graph, "graph", required=(*files, "input", "draw", "drawn", "output", "state"))
    for key in files:
        if not check_pattern(graph[key], f"graph.{key}", _FILE_NAME).endswith(".onnx"):
            raise BundleError(f"bundle.json: graph.{key} is {graph[key]!r} but must end in .onnx")
    for key in files[1:]:
        if graph["file"] == graph[key]:
            raise BundleError(f"bundle.json: graph.file and graph.{key} are both {graph['file']!r}")
    is_text = model["kind"] == "text"
    width = model["vocabulary"] if is_text else 6 * model["mixtures"] + 1 + writes_text
    given = _tensor("token", "int64") if is_text else _tensor("offset", "float32", 3)
    _check_tensor(graph["input"], "graph.input", given)
    drawn = _tensor("drawn", "float32", 5) if writes_text else {**given, "name": "drawn"}
    _check_tensor(graph["drawn"], "graph.drawn", drawn)
    _check_tensor(
        graph["output"],
        "graph.output",
        _tensor("logits" if is_text else "mixture", "float32", width),
    )
    sampling_inputs = _text_inputs(width) if is_text else (_tensor("bias", "float32"), _tensor("noise", "float64", 4))
    sampling_inputs += _line_inputs(graph, model) if writes_text else ()
    for index, one in enumerate(check_list(graph["draw"], "graph.draw", len(sampling_inputs), len(sampling_inputs))):
        _check_tensor(one, f"graph.draw[{index}]", sampling_inputs[index])
    _check_states(check_list(graph["state"], "graph.state", 1, 8 * MAX_LAYERS), model, writes_text=writes_text)


def _line_inputs(graph: Any, model: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the inputs that condition a line on its hand and its text.

    The graph's own shape says how many characters a line may have.
    """
    for key in ("characters", "writers", "character_width", "window_mixtures"):
        check_integer(model.get(key), f"model.{key}", 1, MAX_WIDTH)
    detects = model["cell"] == "hmlstm" and len(model["hidden"]) > 1
    draw = check_list(graph["draw"], "graph.draw", 4, 4)
    text = check_record(draw[-1], "graph.draw[3]", required=("name", "dtype", "shape"))
    slots = check_integer(
        check_list(text["shape"], "graph.draw[3].shape", 3, 3)[1], "graph.draw[3].shape[1]", 3, MAX_WIDTH
    )
    hand = _tensor("hand", "float32", 4 * model["hidden"][0] + detects)
    return hand, _tensor("text", "float32", slots, model["character_width"])


def _text_inputs(width: int) -> tuple[dict[str, Any], ...]:
    """Return the sampling inputs of a network that writes symbols."""
    return (
        _tensor("temperature", "float32"),
        _tensor("top_p", "float32"),
        _tensor("top_k", "int64"),
        _tensor("logit_bias", "float32", width),
        _tensor("noise", "float64"),
    )


def _tensor(name: str, dtype: str, *sizes: int) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": ["batch", *sizes]}


def _check_states(states: list[Any], model: Mapping[str, Any], *, writes_text: bool) -> None:
    """Check that h, c of every layer and z of all but the top are there; further carried tensors are allowed.

    A network that writes a text also carries the state of its window. The LSTM control has no boundaries and so no z.
    """
    # Every state is well formed, and no two tensors have the same name.
    widths: dict[str, tuple[int, ...]] = {}
    names = ["token", "offset", "logits", "mixture", "drawn", "bias", "noise"]
    names += ["temperature", "top_p", "top_k", "logit_bias", "hand", "text"]
    for index, state in enumerate(states):
        where = f"graph.state[{index}]"
        check_record(state, where, required=("name", "next", "dtype", "shape"))
        names += [check_pattern(state[key], f"{where}.{key}", _TENSOR_NAME) for key in ("name", "next")]
        check_choice(state["dtype"], f"{where}.dtype", ("float32",))
        shape = check_list(state["shape"], f"{where}.shape", 1, 2)
        check_choice(shape[0], f"{where}.shape[0]", ("batch",))
        widths[state["name"]] = tuple(check_integer(n, f"{where}.shape[1]", 1, MAX_WIDTH) for n in shape[1:])
    if len(set(names)) != len(names):
        raise BundleError("bundle.json: graph.state uses one tensor name twice")
    # The states that the network must carry are among them, with its sizes.
    needed: dict[str, tuple[int, ...]] = {}
    hidden = model["hidden"]
    for layer, units in enumerate(hidden, start=1):
        needed |= {f"h{layer}": (units,), f"c{layer}": (units,)}
        if layer < len(hidden) and model["cell"] == "hmlstm":
            needed[f"z{layer}"] = ()
    if writes_text:
        needed |= {"window_position": (model["window_mixtures"],), "window_vector": (model["character_width"],)}
    for name, expected in needed.items():
        if name not in widths:
            raise BundleError(f"bundle.json: graph.state lacks {name!r}, which a {len(hidden)}-layer network carries")
        if widths[name] != expected:
            raise BundleError(f"bundle.json: graph.state {name!r} must have shape {['batch', *expected]}")


def _check_tensor(tensor: Any, where: str, expected: Mapping[str, Any]) -> None:
    """Check the description of one tensor against the only one that fits the network."""
    check_record(tensor, where, required=("name", "dtype", "shape"))
    for key, value in expected.items():
        if tensor[key] != value or type(tensor[key]) is not type(value):
            raise BundleError(f"bundle.json: {where}.{key} is {tensor[key]!r} but must be {value!r}")


def _check_data(data: Any) -> None:
    """Check that name, licence and permitted use of the data are there, for every user of the weights to read."""
    check_record(data, "data", required=("name", "licence", "use"), optional=None)
    for key in ("name", "licence", "use"):
        check_text(data[key], f"data.{key}", longest=500, shortest=1)
    check_facts(data, "data")


def _check_metrics(metrics: Any) -> None:
    """Check that every figure is a finite number, a list of them, or a short remark."""
    check_record(metrics, "metrics", required=(), optional=None)
    for key, value in metrics.items():
        where = f"metrics.{check_key(key, 'metrics')}"
        if isinstance(value, list):
            for index, figure in enumerate(check_list(value, where, 0, 1_000)):
                check_number(figure, f"{where}[{index}]")
        elif isinstance(value, str):
            check_text(value, where, longest=500)
        else:
            check_number(value, where)


def _check_files(files: Any, graph: Mapping[str, Any]) -> None:
    """Check names and digests; names have no slashes, so that no path can lead out of the folder."""
    needed = (graph[key] for key in ("file", "single", "prompt", "reader") if key in graph)
    check_record(files, "files", required=(*needed, "parity.json"), optional=None)
    for name, digest in files.items():
        check_pattern(name, "files", _FILE_NAME)
        if name == "bundle.json":
            raise BundleError("bundle.json: files lists bundle.json itself, whose hash it cannot hold")
        if not name.endswith(SUFFIXES):
            raise BundleError(f"bundle.json: files lists {name!r}, but a bundle holds only {', '.join(SUFFIXES)}")
        check_pattern(digest, f"files.{name}", _SHA256)


def _check_writing(writing: Any, codec: Any, files: Mapping[str, Any]) -> None:
    """Check the named hands and the recogniser of a bundle that writes texts."""
    check_record(writing, "writing", required=("hands", "recogniser"))
    if codec["kind"] != "handwriting":
        raise BundleError("bundle.json: writing is only for a codec of the kind handwriting")
    names = []
    for index, hand in enumerate(check_list(writing["hands"], "writing.hands", 1, 1_000)):
        where = f"writing.hands[{index}]"
        check_record(hand, where, required=("name", "writer", "description", "scale", "advance"))
        names.append(check_pattern(hand["name"], f"{where}.name", _BUNDLE_NAME))
        check_integer(hand["writer"], f"{where}.writer", 0, len(codec["writers"]))
        check_text(hand["description"], f"{where}.description", longest=200)
        for key in ("scale", "advance"):
            check_number(hand[key], f"{where}.{key}")
            if not 0.05 <= hand[key] <= 20:
                raise BundleError(f"bundle.json: {where}.{key} is {hand[key]!r} but must be from 0.05 to 20")
    if len(set(names)) != len(names):
        raise BundleError("bundle.json: writing.hands has two hands of one name")
    if writing["recogniser"] is not None:
        _check_recogniser(writing["recogniser"], files)


def _check_recogniser(recogniser: Any, files: Mapping[str, Any]) -> None:
    check_record(recogniser, "writing.recogniser", required=("file", "codec", "facts"))
    name = check_pattern(recogniser["file"], "writing.recogniser.file", _FILE_NAME)
    if name not in files or not name.endswith(".onnx"):
        raise BundleError(f"bundle.json: writing.recogniser.file is {name!r}, which is no graph of this bundle")
    check_facts(check_record(recogniser["facts"], "writing.recogniser.facts", required=(), optional=None), "facts")
    check_facts(
        check_record(recogniser["codec"], "writing.recogniser.codec", required=("kind",), optional=None), "codec"
    )
    try:
        read = codec_from_json(dict(recogniser["codec"]))
    except ValueError as error:
        raise BundleError(f"bundle.json: writing.recogniser.codec is not one: {error}") from None
    if not isinstance(read, HandwritingCodec):
        raise BundleError("bundle.json: writing.recogniser.codec must be of the kind handwriting")
