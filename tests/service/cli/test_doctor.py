"""copyist doctor: what it finds is so, what is wrong is exit code 1, and secrets stay secret."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.cli.client import ClientSettings
from service.settings import Settings
from tests.service.cli.conftest import Run
from tests.service.live_server import Server


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, bundles: Path) -> None:
    """An environment in which everything is in order."""
    for name in (*Settings.model_fields, *ClientSettings.model_fields):
        monkeypatch.delenv(f"COPYIST_{name.upper()}", raising=False)
    monkeypatch.setenv("COPYIST_BUNDLES", str(bundles))
    monkeypatch.setenv("COPYIST_PORT", "0")


def report(run: Run, *arguments: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Return the exit code, the findings by what was looked at, and the settings by variable."""
    code, out, _ = run("doctor", "--json", *arguments)
    told = json.loads(out)
    return (
        code,
        {entry["what"]: entry for entry in told["findings"]},
        {entry["variable"]: entry for entry in told["settings"]},
    )


def test_all_is_well(run: Run) -> None:
    """Interpreter, libraries, processor, each bundle and the port are looked at, and every setting is listed."""
    code, findings, settings = report(run)
    assert code == 0
    assert {"python", "onnxruntime", "cpu", "kernel", "bundle small-ink", "bundle small-text", "port"} <= set(findings)
    assert all(finding["is_good"] for finding in findings.values())
    assert set(settings) == {
        f"COPYIST_{name.upper()}" for name in (*Settings.model_fields, *ClientSettings.model_fields)
    }
    assert (settings["COPYIST_PORT"]["value"], settings["COPYIST_PORT"]["source"]) == ("0", "environment")
    assert settings["COPYIST_ROWS"]["source"] == "default"
    assert settings["COPYIST_ROWS"]["value"] == str(Settings.model_fields["rows"].default)


def test_it_reads_well_too(run: Run) -> None:
    """Without --json there is a line for each finding and each setting."""
    code, out, err = run("doctor")
    lines = out.decode().splitlines()
    assert (code, err) == (0, "")
    assert any(line.startswith("ok bundle small-ink") for line in lines)
    assert "COPYIST_PORT=0\tenvironment" in lines


def test_a_key_is_never_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """That there is one is shown, and nothing of it."""
    monkeypatch.setenv("COPYIST_API_KEY", "sesame-1234")
    for arguments in ((), ("--json",)):
        _, out, err = run("doctor", *arguments)
        assert b"(hidden)" in out
        assert "sesame" not in out.decode() + err


def test_a_damaged_bundle_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, bundles: Path, tmp_path: Path) -> None:
    """One byte of one file is enough; the sound bundle beside it is still found sound."""
    shutil.copytree(bundles, tmp_path, dirs_exist_ok=True)
    graph = tmp_path / "small-ink" / "step.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    monkeypatch.setenv("COPYIST_BUNDLES", str(tmp_path))
    code, findings, _ = report(run)
    assert code == 1
    assert not findings["bundle small-ink"]["is_good"]
    assert "step.onnx" in findings["bundle small-ink"]["found"]
    assert findings["bundle small-text"]["is_good"]


def test_no_bundles_are_a_problem(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The folder is named."""
    monkeypatch.setenv("COPYIST_BUNDLES", str(tmp_path))
    code, findings, _ = report(run)
    assert code == 1
    assert str(tmp_path) in findings["bundles"]["found"]


def test_a_taken_port_is_a_problem(run: Run, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    """Where a server listens already, another cannot."""
    monkeypatch.setenv("COPYIST_PORT", server.url.rpartition(":")[2])
    code, findings, _ = report(run)
    assert code == 1
    assert not findings["port"]["is_good"]


def test_a_wrong_setting_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable, what is wrong with it, and still the list of all of them."""
    monkeypatch.setenv("COPYIST_ROWS", "many")
    code, findings, settings = report(run)
    assert code == 1
    assert "integer" in findings["COPYIST_ROWS"]["found"]
    assert settings["COPYIST_ROWS"]["value"] == "many"


def test_a_slip_of_the_pen_is_noticed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable with our prefix that sets nothing is told, but breaks nothing."""
    monkeypatch.setenv("COPYIST_PROT", "9000")
    code, findings, _ = report(run)
    assert code == 0
    assert "no setting" in findings["COPYIST_PROT"]["found"]


def test_a_server_is_looked_at(run: Run, at: tuple[str, str]) -> None:
    """With a URL, whether it is ready and what it serves; the port of this machine is nobody's business then."""
    code, findings, _ = report(run, *at)
    assert code == 0
    assert "small-text" in findings["server"]["found"]
    assert "port" not in findings
    code, findings, _ = report(run, "--url", "http://127.0.0.1:1")
    assert code == 1
    assert not findings["server"]["is_good"]
