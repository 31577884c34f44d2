"""From a network in memory to a bundle in a folder: round the weights, write the graphs, check them, write the bundle.

bundle = build(network, codec, Path("bundles/mine"), "mine", Facts(...))
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.bundle import folder as bundles
from export.bundle.folder import Bundle, TensorSpec
from export.checks import parity, traces
from export.checks.traces import Trace
from export.errors import ParityError
from export.graphs.prompt import build_prompt
from export.graphs.quantisation import Precision, round_weights
from export.graphs.specs import drawn_spec, input_spec, output_spec, sampling_specs, state_specs
from export.graphs.step import build_step
from export.graphs.text_window import build_text_encoder
from export.graphs.torchscript import script
from export.graphs.weights import StepWeights
from export.runtime import OnnxStep, TextEncoder
from model.codec import HandwritingCodec
from model.data.corpus import Codec
from model.network.stack import Network

TRACE_ROWS = 4
TRACE_STEPS = 2_048
TRACE_SEED = 1


@dataclass(frozen=True)
class Facts:
    """What a bundle says about itself.

    Attributes:
        description: one or two sentences for people.
        data: at least "name", "licence" and "use" (what the weights may be used for).
        training: steps, seed, hardware and the like.
        metrics: figures measured on the exported files.
        licence: text of LICENSE-DATA.txt, or "" for none.
    """

    description: str = ""
    data: Mapping[str, Any] = field(
        default_factory=lambda: {"name": "unknown", "licence": "unknown", "use": "not stated; assume none"}
    )
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""


@dataclass(frozen=True)
class Writing:
    """What only a bundle that writes texts has.

    Attributes:
        hands: as `export.hands.choose` returns them.
        recogniser: the ONNX file that reads ink, or None.
        recogniser_codec: its codec.
        recogniser_facts: how well it reads real ink.
    """

    hands: Sequence[Mapping[str, Any]]
    recogniser: bytes | None = None
    recogniser_codec: HandwritingCodec | None = None
    recogniser_facts: Mapping[str, Any] = field(default_factory=dict)

    def manifest(self) -> dict[str, Any]:
        """Return it as the manifest has it."""
        recogniser: dict[str, Any] | None = None
        if self.recogniser is not None and self.recogniser_codec is not None:
            codec = self.recogniser_codec.to_json()
            recogniser = {"file": bundles.RECOGNISER_FILE, "codec": codec, "facts": dict(self.recogniser_facts)}
        return {"hands": [dict(hand) for hand in self.hands], "recogniser": recogniser}


@dataclass(frozen=True)
class Compiled:
    """A network and the files it was turned into.

    Attributes:
        network: with the weights rounded to what the files store.
        precision: of the stored matrices.
        graph: the ONNX file for any number of rows.
        single: the ONNX file for one row.
        prompt: the ONNX file for prefill.
        script: the TorchScript file.
        text_encoder: the ONNX file that encodes a text, if the network writes texts.
    """

    network: Network
    precision: Precision
    graph: bytes
    single: bytes
    prompt: bytes
    script: bytes
    text_encoder: bytes | None = None

    @property
    def files(self) -> parity.Files:
        """The files that the parity check compares with the network."""
        return parity.Files(self.graph, self.single, self.prompt, self.script)

    def step(self) -> OnnxStep:
        """Return the step in ONNX Runtime."""
        config = self.network.config
        return OnnxStep(self.graph, input_spec(config), output_spec(config), state_specs(config))


def compile_network(network: Network, precision: Precision = "float32") -> Compiled:
    """Round a network's weights and write all of its graphs.

    Raises:
        ExportError: the network has a switch that cannot be exported, or a weight that cannot be stored.
    """
    rounded = round_weights(network, precision)
    weights = StepWeights.of(rounded, precision)
    return Compiled(
        network=rounded,
        precision=precision,
        graph=build_step(weights),
        single=build_step(weights, single=True),
        prompt=build_prompt(weights),
        script=script(weights),
        text_encoder=build_text_encoder(weights) if network.config.writes_text else None,
    )


def build(
    network: Network,
    codec: Codec,
    folder: Path,
    name: str,
    facts: Facts | None = None,
    precision: Precision = "float32",
    steps: int = TRACE_STEPS,
    rows: int = TRACE_ROWS,
) -> Bundle:
    """Export a network and return its bundle.

    Args:
        network: trained or not; it is not changed.
        codec: the one it was trained with.
        folder: where to write; an older bundle there is replaced.
        name: the bundle's public name.
        facts: what the bundle says about itself.
        precision: how matrices are stored.
        steps: length of the parity trace. A bundle that ships needs 2,000; tests of other things can do with fewer.
        rows: of the parity trace.

    Raises:
        ExportError: the network cannot be exported.
        ParityError: the files do not compute what the network computes.
        BundleError: the facts do not make a bundle.
    """
    compiled = compile_network(network, precision)
    return ship(compiled, codec, folder, name, facts or Facts(), sampled(compiled, codec, rows, steps))


def sampled(compiled: Compiled, codec: Codec, rows: int, steps: int) -> Trace:
    """Return a trace that the network samples from itself; if it writes texts, a random one in each row."""
    lines = None
    if compiled.text_encoder is not None and isinstance(codec, HandwritingCodec):
        lines = traces.random_lines(TextEncoder(compiled.text_encoder), codec, rows, TRACE_SEED)
    return traces.sampled(compiled.step(), rows, steps, TRACE_SEED, lines)


def ship(
    compiled: Compiled,
    codec: Codec,
    folder: Path,
    name: str,
    facts: Facts,
    trace: Trace,
    writing: Writing | None = None,
) -> Bundle:
    """Check a compiled network on a trace and write its bundle.

    Args:
        compiled: the network and its files.
        codec: of the network.
        folder: to write to.
        name: of the bundle.
        facts: what the bundle says about itself.
        trace: inputs for the parity check.
        writing: named hands and recogniser, if the network writes texts.

    Raises:
        ParityError: the files do not compute what the network computes; nothing is written.
        BundleError: the facts do not make a bundle.
    """
    report = parity.check_parity(compiled.network, compiled.precision, compiled.files, trace)
    if report["verdict"] != "passed":
        raise ParityError(report)
    files = {
        bundles.GRAPH_FILE: compiled.graph,
        bundles.SINGLE_FILE: compiled.single,
        bundles.PROMPT_FILE: compiled.prompt,
        bundles.SCRIPT_FILE: compiled.script,
        bundles.PARITY_FILE: (json.dumps(report, indent=1, allow_nan=False) + "\n").encode("utf-8"),
    }
    if compiled.text_encoder is not None:
        files[bundles.READER_FILE] = compiled.text_encoder
    if facts.licence:
        files[bundles.LICENCE_FILE] = facts.licence.encode("utf-8")
    manifest = _manifest(compiled, codec, name, facts)
    if writing is not None:
        manifest["writing"] = writing.manifest()
        files |= {} if writing.recogniser is None else {bundles.RECOGNISER_FILE: writing.recogniser}
    return bundles.write(folder, manifest, files)


def _manifest(compiled: Compiled, codec: Codec, name: str, facts: Facts) -> dict[str, Any]:
    config = compiled.network.config
    return {
        "name": name,
        "kind": config.kind,
        "description": facts.description,
        "codec": codec.to_json(),
        "model": {
            **config.to_json(),
            "parameters": parity.num_parameters(compiled.network),
            "precision": compiled.precision,
        },
        "graph": {
            "file": bundles.GRAPH_FILE,
            "single": bundles.SINGLE_FILE,
            "prompt": bundles.PROMPT_FILE,
            "input": _tensor(input_spec(config)),
            "draw": [_tensor(spec) for spec in sampling_specs(config)],
            "drawn": _tensor(drawn_spec(config)),
            "output": _tensor(output_spec(config)),
            "state": [{**_tensor(spec), "next": spec.next} for spec in state_specs(config)],
            **({} if compiled.text_encoder is None else {"reader": bundles.READER_FILE}),
        },
        "data": dict(facts.data),
        "training": dict(facts.training),
        "metrics": dict(facts.metrics),
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
