"""copyist doctor: whether the service can run here, and with which settings."""

import os
import platform
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson
from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings
from rich.table import Table
from rich.text import Text

from export.bundle import folder as bundle
from service.cli.client import ClientSettings, connect
from service.cli.options import Json, Url
from service.cli.problems import CommandError, RefusedError
from service.cli.terminal import output, write_bytes
from service.engine.kernel.library import best_variant
from service.registry.fingerprint import machine_class
from service.settings import Settings

PREFIX = "COPYIST_"
HIDDEN = "(hidden)"
LIBRARIES = ("onnxruntime", "numpy", "fastapi", "uvicorn")


@dataclass(frozen=True)
class Finding:
    """The result of one check: what was checked, whether it is in order, and what was found."""

    what: str
    is_good: bool
    found: str


@dataclass(frozen=True)
class Setting:
    """One setting: the variable that sets it, its value as text, and where the value comes from."""

    variable: str
    value: str
    source: str
    description: str


def doctor(json: Json = False, url: Url = None) -> None:
    """Check whether the service can run here: interpreter, libraries, CPU, bundles, settings, port.

    With a URL, check that the server there is ready instead of that the port is free.
    The exit code is 0 if everything is in order, and 1 if not.
    """
    settings, problems = _settings()
    findings = [*_machine(), *problems, *_strangers()]
    if settings is not None:
        findings += [*_bundles(settings.bundles), *(() if _url(url) else [_port(settings)])]
    if _url(url):
        findings.append(_server(url))
    listed = [*_listed(settings, Settings), *_listed(ClientSettings(), ClientSettings)]
    _print(findings, listed, json=json)
    if not all(finding.is_good for finding in findings):
        raise RefusedError("Not everything is in order; see what is marked above.")


def _machine() -> Iterator[Finding]:
    python = f"{platform.python_version()} at {sys.executable}"
    yield Finding("python", sys.version_info >= (3, 11), python)
    yield Finding("copyist", True, _version("copyist") or "run from its sources")
    for name in LIBRARIES:
        version = _version(name)
        yield Finding(name, version is not None, version or "not installed")
    # Results are the same bits, and state tokens are good, within one class.
    yield Finding("cpu", True, f"{os.cpu_count()} cores, {machine_class()}")
    kernel = best_variant()
    yield Finding(
        "kernel", True, kernel or "none: no C compiler was there at installation; ONNX Runtime steps all bundles"
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _settings() -> tuple[Settings | None, list[Finding]]:
    """The service's settings, or what is wrong with them."""
    try:
        return Settings(), []
    except ValidationError as error:
        return None, [
            Finding(f"{PREFIX}{'_'.join(str(part) for part in problem['loc']).upper()}", False, problem["msg"])
            for problem in error.errors()
        ]


def _strangers() -> Iterator[Finding]:
    """Variables with our prefix that are no settings: most likely mistyped."""
    known = {f"{PREFIX}{name.upper()}" for model in (Settings, ClientSettings) for name in model.model_fields}
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known and name not in _OURS_ELSEWHERE:
            yield Finding(name, True, "is no setting and changes nothing")


_OURS_ELSEWHERE = ("COPYIST_DATA", "COPYIST_ENGINE_SCRIPT", "COPYIST_SERVE_PYTHON")  # read by the tests


def _bundles(folder: Path) -> Iterator[Finding]:
    """Check every byte of every bundle against its manifest."""
    paths = sorted(path.parent for path in folder.glob("*/bundle.json")) if folder.is_dir() else []
    if not paths:
        yield Finding("bundles", False, f"there are none in {folder}")
    for path in paths:
        try:
            checked = bundle.load(path)
        except bundle.BundleError as error:
            yield Finding(f"bundle {path.name}", False, str(error))
        else:
            size = sum(len(content) for content in checked.files.values()) / 1e6
            found = f"{checked.kind}, {size:.1f} MB, every file as its manifest says, {checked.fingerprint[:12]}"
            yield Finding(f"bundle {checked.name}", True, found)


def _port(settings: Settings) -> Finding:
    """Check that a server could listen on the address of the settings."""
    place = f"{settings.host}:{settings.port}"
    try:
        family, kind, *_, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        return Finding("port", False, f"{place}: {error.strerror}")
    return Finding("port", True, f"{place} is free")


def _url(url: str | None) -> str | None:
    return url if url is not None else ClientSettings().url


def _server(url: str | None) -> Finding:
    """Check that the server at a URL is ready."""
    try:
        with connect(url) as client:
            status = client.get("/readyz")["status"]
            names = [card["id"] for card in client.get("/v1/models")["data"]]
    except CommandError as error:
        return Finding("server", False, str(error))
    return Finding("server", True, f"{client.place} is {status} and serves {', '.join(names)}")


def _listed(settings: BaseSettings | None, model: type[BaseSettings]) -> list[Setting]:
    """Every field with its value and source; if the settings are invalid, with the value that was given."""
    rows = []
    variables = {name.upper(): value for name, value in os.environ.items()}
    for name, field in model.model_fields.items():
        variable = f"{PREFIX}{name.upper()}"
        is_secret = "SecretStr" in str(field.annotation)
        default = field.get_default(call_default_factory=True)
        value = getattr(settings, name) if settings is not None else variables.get(variable, default)
        source = "environment" if variable in variables else "default"
        text = HIDDEN if (is_secret or isinstance(value, SecretStr)) and value else _as_text(value)
        rows.append(Setting(variable, text, source, field.description or ""))
    return rows


def _as_text(value: Any) -> str:
    return "" if value is None else ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _print(findings: list[Finding], listed: list[Setting], *, json: bool) -> None:
    if json:
        report: Mapping[str, Any] = {
            "findings": [asdict(finding) for finding in findings],
            "settings": [asdict(setting) for setting in listed],
        }
        write_bytes(orjson.dumps(report) + b"\n")
        return
    screen = output()
    for finding in findings:
        mark = Text("ok " if finding.is_good else "NO ", "green" if finding.is_good else "bold red")
        screen.print(Text.assemble(mark, (f"{finding.what:<16}", "bold"), " ", finding.found))
    if screen.is_terminal:
        table = Table("setting", "value", "from", "what it is")
        for row in listed:
            table.add_row(row.variable, row.value, row.source, row.description)
        screen.print(table, soft_wrap=False)
    else:
        for row in listed:
            write_bytes(f"{row.variable}={row.value}\t{row.source}\n".encode())
