"""From a network in memory to a bundle in a folder: round, write the graphs, prove them, and only then ship.

bundle = build(network, codec, Path("bundles/mine"), "mine", Facts(...))
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.bundle import folder as bundle
from export.checks import parity
from export.checks import traces as trace
from export.graphs import prompt as onnx_prompt
from export.graphs import step as onnx_graph
from export.graphs import text_window as onnx_window
from export.graphs.torchscript import script
from export.graphs.weights import (
    ExportError,
    Precision,
    StepWeights,
    draw_specs,
    drawn_spec,
    input_spec,
    output_spec,
    round_weights,
    state_specs,
)
from export.runtime import OnnxStep, Reader
from model.codec import HandwritingCodec
from model.data.corpus import Codec
from model.network.stack import Network

TRACE_ROWS = 4
TRACE_STEPS = 2_048
TRACE_SEED = 1


class ParityError(ExportError):
    """The files are not the network; nothing was written. `report` says all that is known."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        super().__init__("parity failed, so no bundle was written: " + "; ".join(report["reasons"]))
        self.report = report


@dataclass(frozen=True)
class Facts:
    """What a bundle says about itself.

    Attributes:
        description: one or two sentences for people.
        data: at least "name", "licence" and "use" (what the weights may be used for).
        training: steps, seed, hardware and the like.
        metrics: figures measured on this very network as it ships.
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
    """What a bundle that writes texts has besides.

    Attributes:
        hands: as `export.hands.choose` gives them.
        recogniser: the ONNX file that reads ink, or None.
        recogniser_codec: of it.
        recogniser_facts: how well it reads real ink.
    """

    hands: Sequence[Mapping[str, Any]]
    recogniser: bytes | None = None
    recogniser_codec: HandwritingCodec | None = None
    recogniser_facts: Mapping[str, Any] = field(default_factory=dict)

    def manifest(self) -> dict[str, Any]:
        """As the manifest tells it."""
        reads: dict[str, Any] | None = None
        if self.recogniser is not None and self.recogniser_codec is not None:
            known = self.recogniser_codec.to_json()
            reads = {"file": bundle.RECOGNISER_FILE, "codec": known, "facts": dict(self.recogniser_facts)}
        return {"hands": [dict(hand) for hand in self.hands], "recogniser": reads}


@dataclass(frozen=True)
class Compiled:
    """A network as it ships.

    Attributes:
        network: with the weights rounded to what the files store.
        precision: of the stored matrices.
        graph: the ONNX file for any number of rows.
        single: the ONNX file for one row.
        prompt: the ONNX file that reads many inputs of one row.
        script: the TorchScript file.
        reader: the ONNX file that reads a text, where one is written.
    """

    network: Network
    precision: Precision
    graph: bytes
    single: bytes
    prompt: bytes
    script: bytes
    reader: bytes | None = None

    @property
    def files(self) -> parity.Files:
        """What is to be proven of it."""
        return parity.Files(self.graph, self.single, self.prompt, self.script)

    def step(self) -> OnnxStep:
        """Return the ONNX file, running."""
        config = self.network.config
        return OnnxStep(self.graph, input_spec(config), output_spec(config), state_specs(config))


def compile_network(network: Network, precision: Precision = "float32") -> Compiled:
    """Round a network's weights and write all of its graphs.

    Raises:
        ExportError: the network has a switch that cannot be exported, or a weight that cannot be stored.
    """
    rounded = round_weights(network, precision)
    weights = StepWeights.of(rounded, precision)
    single, prompt = onnx_graph.build(weights, single=True), onnx_prompt.build(weights)
    reader = onnx_window.reader(weights) if network.config.writes_text else None
    return Compiled(rounded, precision, onnx_graph.build(weights), single, prompt, script(weights), reader)


def build(
    network: Network,
    codec: Codec,
    folder: Path,
    name: str,
    facts: Facts | None = None,
    precision: Precision = "float32",
    steps: int = TRACE_STEPS,
    rows: int = TRACE_ROWS,
) -> bundle.Bundle:
    """Export a network and return its bundle.

    Args:
        network: trained or not; it is left as it is.
        codec: the one it was trained with.
        folder: where to write; an older bundle there is replaced.
        name: the bundle's public name.
        facts: what the bundle says about itself.
        precision: how matrices are stored.
        steps: length of the parity trace. A bundle to ship needs 2,000; tests of other things need not wait for them.
        rows: of the parity trace.

    Raises:
        ExportError: the network cannot be exported; ParityError: the files do not compute what the network computes.
        BundleError: the facts do not make a bundle.
    """
    compiled = compile_network(network, precision)
    steps_taken = sampled(compiled, codec, rows, steps)
    return ship(compiled, codec, folder, name, facts or Facts(), steps_taken)


def sampled(compiled: Compiled, codec: Codec, rows: int, steps: int) -> trace.Trace:
    """Return a trace of what the network writes for itself; where it writes a text, a random one in each row."""
    lines = None
    if compiled.reader is not None and isinstance(codec, HandwritingCodec):
        lines = trace.random_lines(Reader(compiled.reader), codec, rows, TRACE_SEED)
    return trace.sampled(compiled.step(), rows, steps, TRACE_SEED, lines)


def ship(
    compiled: Compiled,
    codec: Codec,
    folder: Path,
    name: str,
    facts: Facts,
    steps: trace.Trace,
    writing: Writing | None = None,
) -> bundle.Bundle:
    """Prove a compiled network on a trace and write its bundle.

    Args:
        compiled: the network as it ships.
        codec: of it.
        folder: to write to.
        name: of the bundle.
        facts: what it says about itself.
        steps: the trace.
        writing: its named hands and its recogniser, where it writes texts.

    Raises:
        ParityError: the proof failed; nothing is written.
        BundleError: the facts do not make a bundle.
    """
    report = parity.prove(compiled.network, compiled.precision, compiled.files, steps)
    if report["verdict"] != "passed":
        raise ParityError(report)
    files = {
        bundle.GRAPH_FILE: compiled.graph,
        bundle.SINGLE_FILE: compiled.single,
        bundle.PROMPT_FILE: compiled.prompt,
        bundle.SCRIPT_FILE: compiled.script,
        bundle.PARITY_FILE: (json.dumps(report, indent=1, allow_nan=False) + "\n").encode("utf-8"),
    }
    if compiled.reader is not None:
        files[bundle.READER_FILE] = compiled.reader
    if facts.licence:
        files[bundle.LICENCE_FILE] = facts.licence.encode("utf-8")
    manifest = _manifest(compiled, codec, name, facts)
    if writing is not None:
        manifest["writing"] = writing.manifest()
        files |= {} if writing.recogniser is None else {bundle.RECOGNISER_FILE: writing.recogniser}
    return bundle.write(folder, manifest, files)


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
            "file": bundle.GRAPH_FILE,
            "single": bundle.SINGLE_FILE,
            "prompt": bundle.PROMPT_FILE,
            "input": _tensor(input_spec(config)),
            "draw": [_tensor(spec) for spec in draw_specs(config)],
            "drawn": _tensor(drawn_spec(config)),
            "output": _tensor(output_spec(config)),
            "state": [{**_tensor(spec), "next": spec.next} for spec in state_specs(config)],
            **({} if compiled.reader is None else {"reader": bundle.READER_FILE}),
        },
        "data": dict(facts.data),
        "training": dict(facts.training),
        "metrics": dict(facts.metrics),
    }


def _tensor(spec: bundle.TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
