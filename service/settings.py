"""Everything an operator can set, by environment variables named COPYIST_..., and nothing else reads them."""

import importlib.util
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FilePath, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.access.keys import Keys

MIN_SECRET_CHARS = 32
_URL = re.compile(r"https?://[^\s/?#]+[^\s]*")
_ORIGIN = re.compile(r"\*|https?://[^\s/?#,]+")
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class Settings(BaseSettings):
    """The service's settings with their defaults; `COPYIST_PORT=9000` sets `port`."""

    model_config = SettingsConfigDict(env_prefix="COPYIST_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    processes: int = Field(
        0, ge=0, le=64, description="Processes that share it, for as many cores; 0 is one for each core, four at most."
    )
    bundles: Path = Field(Path(__file__).parent / "bundles", description="Folder whose subfolders are the bundles.")

    api_keys: SecretStr | None = Field(
        None, description="Keys that are let in, NAME:SHA256 each, with commas between; without any, everyone is."
    )
    api_keys_file: FilePath | None = Field(None, description="A file of further such entries.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may ask, with commas between; `*` is all. None may by default."
    )

    rows: int = Field(64, ge=1, le=1024, description="Sequences of one bundle that are stepped together.")
    kernel: bool = Field(
        True, description="Whether the compiled kernel steps them, where it was built; else ONNX Runtime does."
    )
    queue: int = Field(128, ge=0, le=100_000, description="Sequences of one bundle that may wait; one more gets a 429.")
    max_tokens: int = Field(4096, ge=1, le=1_000_000, description="Largest max_tokens of a completion.")
    max_choices: int = Field(16, ge=1, le=1024, description="Most choices of a completion: its prompts times n.")
    max_total_tokens: int = Field(
        16_384,
        ge=1,
        le=10_000_000,
        description="Largest product of choices and max_tokens, or max_tokens if more.",
    )
    max_points: int = Field(4096, ge=1, le=1_000_000, description="Largest max_points of a handwriting request.")
    max_text_chars: int = Field(2000, ge=1, le=1_000_000, description="Longest text to write by hand in one reply.")
    max_streamed_text_chars: int = Field(10_000, ge=1, le=1_000_000, description="... and in a stream.")
    max_prime_points: int = Field(4000, ge=1, le=1_000_000, description="Most points of ink to read.")
    max_pages: int = Field(50, ge=1, le=10_000, description="Most pages that such a text may fill.")
    max_prompt_chars: int = Field(
        8192, ge=1, le=10_000_000, description="Longest prompt, or list of prompts, in characters."
    )
    max_body_bytes: int = Field(262_144, ge=1, le=2**30, description="Largest request body.")
    body_timeout_s: Seconds = Field(10.0, description="A body must have arrived after so long.")
    max_header_bytes: int = Field(
        65_536, ge=512, le=2**20, description="Largest head of a request: its target, names and values together."
    )
    max_headers: int = Field(100, ge=10, le=1000, description="Most headers of a request.")
    header_timeout_s: Seconds = Field(10.0, description="The head of a request must have arrived after so long.")
    max_connections: int = Field(1024, ge=1, le=100_000, description="Most connections that are open together.")
    keep_alive_s: Seconds = Field(5.0, description="A connection without a request is closed after so long.")
    write_timeout_s: Seconds = Field(
        60.0, description="A client that has not taken what waits for it after so long is dropped."
    )

    rate_limit: str | None = Field(
        None, description="Steps that each key may ask for in a while, such as 1000000/minute; any number by default."
    )
    rate_store: SecretStr = Field(
        SecretStr("memory://"),
        description="Where those steps are counted: memory://, or redis://HOST:PORT/0 for several.",
    )

    flush_chars: int = Field(
        32, ge=1, le=65_536, description="A stream's event is sent at so many characters or points"
    )
    flush_ms: float = Field(
        15.0,
        ge=0,
        le=10_000,
        allow_inf_nan=False,
        description="... or so long after the last; with more than 64 streams, longer in proportion.",
    )
    state_keys: SecretStr | None = Field(
        None,
        description="Secrets of 32 characters or more that seal state and stream tokens, with commas between: the "
        "first seals, all open. Replicas share them; without any, tokens end with the service that made them.",
    )
    state_ttl_s: float = Field(
        86_400, gt=0, le=31_536_000, allow_inf_nan=False, description="How long state and stream tokens are good for."
    )
    heartbeat_s: Seconds = Field(15.0, description="A silent stream gets a comment after so long.")
    stall_s: Seconds = Field(5.0, description="Work without a step for so long makes the service unready.")
    drain_s: Seconds = Field(10.0, description="On SIGTERM, running requests may finish for so long.")

    otlp_url: str | None = Field(
        None, description="Where to send a span of each request, such as http://collector:4318/v1/traces."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity that is logged")
    log_format: Literal["auto", "console", "json"] = Field("auto", description="auto: console on a terminal, else json")

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Read a list with commas between."""
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse what no browser would send."""
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError("an origin is like https://example.org or http://localhost:3000, or *")
        return value

    @field_validator("api_keys")
    @classmethod
    def _are_keys(cls, value: SecretStr | None) -> SecretStr | None:
        """Refuse entries that would let in nobody."""
        if value is not None:
            Keys.parse(value.get_secret_value())
        return value

    @field_validator("api_keys_file")
    @classmethod
    def _holds_keys(cls, value: Path | None) -> Path | None:
        """Refuse a file that would let in nobody."""
        if value is not None:
            try:
                Keys.parse(value.read_text("utf-8"))
            except OSError:
                raise ValueError("the file cannot be read") from None
        return value

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, value: str | None) -> str | None:
        """Refuse what is no rate."""
        if value is not None:
            import limits

            try:
                limits.parse(value)
            except ValueError:
                raise ValueError("a rate is like 1000000/minute or 5000 per 10 seconds") from None
        return value

    @field_validator("rate_store")
    @classmethod
    def _is_a_store(cls, value: SecretStr) -> SecretStr:
        """Refuse a store that is not known or not installed."""
        scheme = value.get_secret_value().partition("://")[0]
        if scheme not in ("memory", "redis", "rediss", "unix"):
            raise ValueError("a store is memory://, redis://, rediss:// or unix:// (a socket of Redis)")
        if scheme != "memory" and importlib.util.find_spec("redis") is None:
            raise ValueError("the client for Redis is not installed; install copyist[redis]")
        return value

    @field_validator("otlp_url")
    @classmethod
    def _takes_spans(cls, value: str | None) -> str | None:
        """Refuse what is no address, and spans that nothing here can send."""
        if value is not None:
            if not _URL.fullmatch(value):
                raise ValueError("an address is like http://collector:4318/v1/traces")
            if not all(map(_is_installed, ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"))):
                raise ValueError("what sends spans is not installed; install copyist[otel]")
        return value

    @property
    def keys(self) -> Keys:
        """The keys of `api_keys` and `api_keys_file` together."""
        return Keys.of(self.api_keys.get_secret_value() if self.api_keys else None, self.api_keys_file)

    @field_validator("state_keys")
    @classmethod
    def _are_secrets(cls, value: SecretStr | None) -> SecretStr | None:
        """Refuse secrets that could be guessed."""
        if value is not None and any(len(secret) < MIN_SECRET_CHARS for secret in _listed(value)):
            raise ValueError(f"each has {MIN_SECRET_CHARS} characters or more; `openssl rand -hex 32` makes one")
        return value

    @property
    def state_secrets(self) -> list[str]:
        """The secrets of `state_keys`."""
        return _listed(self.state_keys) if self.state_keys else []


def _is_installed(module: str) -> bool:
    """Whether a module could be imported, with the packages that it lies in."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _listed(secrets: SecretStr) -> list[str]:
    """Secrets with commas between."""
    return [secret for each in secrets.get_secret_value().split(",") if (secret := each.strip())]
