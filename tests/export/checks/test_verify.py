"""`verify` repeats every claim of a bundle and finds every file that was changed."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.build import compile_network
from export.bundle import folder as bundle
from export.bundle import manifest
from export.bundle.folder import BundleError
from export.checks import parity, traces
from export.checks.engines import ScriptStep
from export.checks.golden import STRICT_STEPS, Golden, decode, encode, read_golden
from export.checks.verify import agree, replay, verify
from export.errors import VerifyError
from export.runtime import config_of
from model.config import ModelConfig
from tests.export.conftest import STEPS, Made
from tests.export.helpers import TEXT, network_of, onnx_step, with_weight

ROWS = 4


@pytest.mark.parametrize("fixture", ["text_made", "ink_made"])
def test_a_sound_bundle_passes(fixture: str, request: pytest.FixtureRequest) -> None:
    """Every check says what it found."""
    made: Made = request.getfixturevalue(fixture)
    found = "\n".join(verify(made.bundle.path))
    for words in (
        "sha256",
        "passed on 2048 steps",
        "golden trace",
        "agree on",
        "reach no product",
        "same bits",
        "prefill",
    ):
        assert words in found
    total = made.trace.steps * made.trace.rows
    assert f"ONNX Runtime took the recorded boundaries on {total} of {total}" in found


@pytest.fixture
def copied(text_made: Made, tmp_path: Path) -> Path:
    """A copy of the text bundle to spoil."""
    return Path(shutil.copytree(text_made.bundle.path, tmp_path / "tiny"))


@pytest.mark.parametrize(
    "name", ["bundle.json", "step.onnx", "single.onnx", "prompt.onnx", "step.pt", "parity.json", "LICENSE-DATA.txt"]
)
@pytest.mark.parametrize("damage", ["one bit", "cut", "gone"])
def test_any_damaged_file_is_refused(copied: Path, name: str, damage: str) -> None:
    """Tampered, truncated or missing, whichever file it is."""
    path = copied / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "one bit":
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    with pytest.raises(BundleError):
        verify(copied)


def reseal(folder: Path) -> None:
    """Give changed files a manifest that fits, as a forger would."""
    path = folder / "bundle.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["files"] = {
        one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in folder.iterdir() if one.name != "bundle.json"
    }
    content["fingerprint"] = manifest.fingerprint(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def swap(folder: Path, name: str, content: bytes, *, tell_parity: bool = True) -> None:
    """Put another file in place, with hashes that fit everywhere."""
    (folder / name).write_bytes(content)
    if tell_parity:
        change_report(folder, lambda report: report["files"].__setitem__(name, hashlib.sha256(content).hexdigest()))
    reseal(folder)


def change_report(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change parity.json in a bundle that fits together again."""
    path = folder / "parity.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    change(report)
    path.write_text(json.dumps(report), encoding="utf-8")
    reseal(folder)


def nudged(content: bytes) -> bytes:
    """The same graph with one weight a little larger."""
    return with_weight(content, "layer1.own.weight.half", lambda values: values + 0.01 * (values == values.max()))


def test_a_nudged_graph_is_found_out(copied: Path) -> None:
    """Hashes can be made to fit; the golden outputs cannot."""
    swap(copied, "step.onnx", nudged((copied / "step.onnx").read_bytes()))
    with pytest.raises(VerifyError, match=r"ONNX Runtime: .* golden step"):
        verify(copied)


def test_a_nudged_graph_for_one_row_is_found_out(copied: Path) -> None:
    """It has to give a row the bits that the other graph gives it."""
    swap(copied, "single.onnx", nudged((copied / "single.onnx").read_bytes()))
    with pytest.raises(VerifyError, match="change their bits with the rows beside them"):
        verify(copied)


def test_a_nudged_graph_for_prompts_is_found_out(copied: Path) -> None:
    """It has to leave the state that steps leave."""
    swap(copied, "prompt.onnx", nudged((copied / "prompt.onnx").read_bytes()))
    with pytest.raises(VerifyError, match="otherwise than single steps do"):
        verify(copied)


def test_a_foreign_script_is_found_out(copied: Path, text_made: Made) -> None:
    """Nor can those of the TorchScript file."""
    other = compile_network(network_of(text_made.compiled.network.config, seed=9), "float16")
    swap(copied, "step.pt", other.script)
    with pytest.raises(VerifyError, match=r"TorchScript: .* golden step"):
        verify(copied)


def test_golden_values_forged_for_one_graph_do_not_fit_the_other(copied: Path, text_made: Made) -> None:
    """Two engines have to reproduce them, and only one file was nudged."""
    graph = nudged((copied / "step.onnx").read_bytes())
    swap(copied, "step.onnx", graph)
    step = onnx_step(text_made.compiled.network, graph=graph)
    outputs, state = [], step.zeros(1)
    for x in text_made.trace.inputs[:STRICT_STEPS]:
        output, state = step.step(x, state)
        outputs.append(output)
    change_report(copied, lambda report: report["golden"].__setitem__("outputs", encode(np.array(outputs))))
    with pytest.raises(VerifyError, match=r"TorchScript: .* golden step"):
        verify(copied)


def test_a_golden_trace_that_excuses_everything_is_found_out(copied: Path) -> None:
    """To call every boundary near its threshold does not help: some row has to stay on the recorded way."""
    swap(copied, "step.onnx", compile_network(network_of(verify_config(copied), seed=7), "float16").graph)
    change_report(copied, lambda report: report["golden"].__setitem__("near", every_place(report)))
    with pytest.raises(VerifyError, match=r"no row took the recorded boundaries|golden step"):
        verify(copied)


def verify_config(folder: Path) -> ModelConfig:
    """The configuration of a bundle's network."""
    return config_of(bundle.load(folder))


def every_place(report: dict[str, Any]) -> list[list[int]]:
    """Pretend that every logit of the reference was near 0."""
    _, layers, rows = report["golden"]["z"]["shape"]
    return [[s, layer, row] for s in range(STRICT_STEPS) for layer in range(layers) for row in range(rows)]


def test_engines_that_disagree_are_found_out(text_made: Made) -> None:
    """On a fresh trace from the same states, outputs and boundaries of both engines must be the same."""
    compiled = text_made.compiled
    first, fresh = compiled.step(), traces.Trace(text_made.trace.inputs[:64], "real text")
    assert "0 of 128 boundaries differ" in agree(first, ScriptStep(compiled.script), fresh)
    other = compile_network(network_of(compiled.network.config, seed=3), "float16")
    with pytest.raises(VerifyError, match="differ by"):
        agree(first, ScriptStep(other.script), fresh)


def test_another_network_is_found_out(copied: Path) -> None:
    """A graph of other sizes does not fit the manifest."""
    swap(copied, "step.onnx", compile_network(network_of(TEXT)).graph)
    with pytest.raises(VerifyError, match="not those of the manifest"):
        verify(copied)


def test_a_script_that_is_none_is_found_out(copied: Path) -> None:
    """Bytes that TorchScript cannot load."""
    swap(copied, "step.pt", b"no zip")
    with pytest.raises(VerifyError, match=r"TorchScript refuses step\.pt"):
        verify(copied)


def test_a_report_of_other_files_is_found_out(copied: Path) -> None:
    """parity.json must be about the files beside it."""
    swap(copied, "step.pt", b"anything", tell_parity=False)
    with pytest.raises(VerifyError, match=r"parity\.json is about another step\.pt"):
        verify(copied)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda report: report.__setitem__("format", "mine/1"), "has format 'mine/1'"),
        (lambda report: report.update(verdict="failed", reasons=["because"]), "says 'failed': because"),
        (lambda report: report["trace"].__setitem__("steps", 1999), "on 1999 steps, fewer than 2000"),
        (lambda report: report["network"].__setitem__("hidden", [1, 2, 3]), "another network"),
        (lambda report: report["files"].pop("step.pt"), "is not about all graphs"),
        (lambda report: report.pop("golden"), "not a parity report"),
        (lambda report: report["golden"].__setitem__("inputs", "x"), "not a parity report"),
        (lambda report: report["golden"]["z"].__setitem__("shape", [1, "a"]), "not a parity report"),
        (lambda report: report["golden"]["z"]["bits"].__setitem__("base64", "AAAA"), "golden step 0|not a parity"),
    ],
)
def test_a_report_that_is_none_is_found_out(
    copied: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    """Every claim that verify relies on is checked."""
    change_report(copied, change)
    with pytest.raises(VerifyError, match=reason):
        verify(copied)


def test_a_report_that_is_no_json_is_found_out(copied: Path) -> None:
    """A report is JSON."""
    swap(copied, "parity.json", b"{", tell_parity=False)
    with pytest.raises(VerifyError, match="not a parity report"):
        verify(copied)


def test_too_short_a_proof_is_refused(text_made: Made, tmp_path: Path) -> None:
    """A bundle made in a hurry for tests does not pass for one that may ship."""
    from export.build import build

    made = build(text_made.compiled.network, text_made.codec, tmp_path / "quick", "quick", steps=128, rows=1)
    with pytest.raises(VerifyError, match="on 128 steps, fewer than 2000"):
        verify(made.path)


def test_a_row_is_followed_until_it_parts(text_made: Made) -> None:
    """After the first steps another boundary is no fault, only the end of what can be compared."""
    golden = read_golden(text_made.report["golden"], writes_text=False)
    whole = text_made.trace.steps * text_made.trace.rows
    assert replay("engine", text_made.compiled.step(), golden) == (whole, whole)
    with pytest.raises(VerifyError, match="golden step"):
        replay("engine", onnx_step(network_of(text_made.compiled.network.config, seed=5)), golden)


def test_in_int8_half_the_rows_may_be_set_apart(ink_made: Made) -> None:
    """An h that is rounded to the other side sets a row apart, which is no fault of two of four rows, but of three."""
    whole, middle = traces.ink_rows([ink_made.trace.inputs[:, 0]], ROWS, STEPS, "Hershey lines"), STRICT_STEPS // 2
    made = ink_made.compiled
    golden, step = parity.check_parity(made.network, "int8", made.files, whole)["golden"], made.step()
    recorded = decode(golden["outputs"])

    def moved(rows: int) -> Golden:
        outputs = recorded.copy()
        outputs[middle, :rows] += 5
        return read_golden({**golden, "outputs": encode(outputs)}, writes_text=False)

    for rows in range(ROWS // 2 + 1):
        followed, total = replay("engine", step, moved(rows), is_int8=True)
        assert total == STEPS * ROWS
        assert followed <= total - rows * (STEPS - middle)
    with pytest.raises(VerifyError, match="too few rows went as recorded"):
        replay("engine", step, moved(ROWS // 2 + 1), is_int8=True)
    with pytest.raises(VerifyError, match="outputs differ"):
        replay("engine", step, moved(1))


def test_load_is_not_enough(copied: Path) -> None:
    """What `load` lets through (hashes fit), `verify` may still refuse: that is why there are two."""
    swap(copied, "step.onnx", nudged((copied / "step.onnx").read_bytes()))
    assert bundle.load(copied).name == "tiny"
