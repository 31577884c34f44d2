"""The service's settings, read from environment variables named COPYIST_... and nowhere else."""

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
    """All settings with their defaults and limits; `COPYIST_PORT=9000` sets `port`."""

    model_config = SettingsConfigDict(env_prefix="COPYIST_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65_535, description="Port to listen on; 0 picks a free one.")
    processes: int = Field(
        0, ge=0, le=64, description="Number of processes that share the port; 0 starts one per core, at most four."
    )
    bundles: Path = Field(Path(__file__).parent / "bundles", description="Folder with the bundles, one subfolder each.")

    api_keys: SecretStr | None = Field(
        None, description="API keys, as comma-separated NAME:SHA256 entries; without any, no key is needed."
    )
    api_keys_file: FilePath | None = Field(None, description="File with more API key entries.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call the API, comma-separated; `*` allows all. None by default."
    )

    rows: int = Field(64, ge=1, le=1024, description="Most sequences of one bundle that run at the same time.")
    kernel: bool = Field(
        True, description="Use the compiled kernel where it is available; otherwise ONNX Runtime runs the network."
    )
    queue: int = Field(
        128,
        ge=0,
        le=100_000,
        description="Most sequences of one bundle that may wait; beyond that, requests get a 429.",
    )
    max_tokens: int = Field(4096, ge=1, le=1_000_000, description="Largest max_tokens of a completion request.")
    max_choices: int = Field(
        16, ge=1, le=1024, description="Most choices of a completion request: its prompts times n."
    )
    max_total_tokens: int = Field(
        16_384,
        ge=1,
        le=10_000_000,
        description="Largest product of choices and max_tokens. One choice may always use max_tokens.",
    )
    max_points: int = Field(4096, ge=1, le=1_000_000, description="Largest max_points of a handwriting request.")
    max_text_chars: int = Field(
        2000, ge=1, le=1_000_000, description="Longest handwritten text in one reply, in characters."
    )
    max_streamed_text_chars: int = Field(
        10_000, ge=1, le=1_000_000, description="Longest handwritten text in a stream, in characters."
    )
    max_prime_points: int = Field(
        4000, ge=1, le=1_000_000, description="Most points of ink in a request, to continue or to segment."
    )
    max_pages: int = Field(50, ge=1, le=10_000, description="Most pages of a handwritten text.")
    max_prompt_chars: int = Field(
        8192, ge=1, le=10_000_000, description="Longest prompt, or all prompts of a request together, in characters."
    )
    max_body_bytes: int = Field(262_144, ge=1, le=2**30, description="Largest request body, in bytes.")
    body_timeout_s: Seconds = Field(10.0, description="Time for a request body to arrive, in seconds.")
    max_header_bytes: int = Field(
        65_536, ge=512, le=2**20, description="Largest target and headers of a request together, in bytes."
    )
    max_headers: int = Field(100, ge=10, le=1000, description="Most headers of a request.")
    header_timeout_s: Seconds = Field(10.0, description="Time for the headers of a request to arrive, in seconds.")
    max_connections: int = Field(1024, ge=1, le=100_000, description="Most open connections.")
    keep_alive_s: Seconds = Field(5.0, description="An idle connection is closed after this many seconds.")
    write_timeout_s: Seconds = Field(
        60.0, description="A client that does not read its data for this many seconds is disconnected."
    )

    rate_limit: str | None = Field(
        None,
        description="Network steps that each key may use, such as 1000000/minute; unlimited by default.",
    )
    rate_store: SecretStr = Field(
        SecretStr("memory://"),
        description="Where the steps are counted: memory://, or redis://HOST:PORT/0 to share counts between replicas.",
    )

    flush_chars: int = Field(
        32, ge=1, le=65_536, description="A stream sends an event as soon as it has this many characters or points."
    )
    flush_ms: float = Field(
        15.0,
        ge=0,
        le=10_000,
        allow_inf_nan=False,
        description="... or this many milliseconds after the last event; proportionally later with over 64 streams.",
    )
    state_keys: SecretStr | None = Field(
        None,
        description="Secrets of at least 32 characters for state and stream tokens, comma-separated. The first one "
        "seals tokens, each of them opens tokens. Replicas need the same secrets; without any, tokens end with the "
        "process that made them.",
    )
    state_ttl_s: float = Field(
        86_400,
        gt=0,
        le=31_536_000,
        allow_inf_nan=False,
        description="How long state and stream tokens are valid, in seconds.",
    )
    heartbeat_s: Seconds = Field(15.0, description="A silent stream gets a comment after this many seconds.")
    stall_s: Seconds = Field(
        5.0, description="The service is not ready if it has work but takes no step for this many seconds."
    )
    drain_s: Seconds = Field(10.0, description="On SIGTERM, running requests have this many seconds to finish.")

    otlp_url: str | None = Field(
        None, description="Address to send a trace span of each request to, such as http://collector:4318/v1/traces."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="Format of the log; auto is console on a terminal, else json."
    )

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Split a comma-separated list."""
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse what is not an origin as browsers send it."""
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError("an origin is like https://example.org or http://localhost:3000, or *")
        return value

    @field_validator("api_keys")
    @classmethod
    def _are_keys(cls, value: SecretStr | None) -> SecretStr | None:
        """Refuse malformed or missing entries."""
        if value is not None:
            Keys.parse(value.get_secret_value())
        return value

    @field_validator("api_keys_file")
    @classmethod
    def _holds_keys(cls, value: Path | None) -> Path | None:
        """Refuse a file that cannot be read, or whose entries are malformed or missing."""
        if value is not None:
            try:
                Keys.parse(value.read_text("utf-8"))
            except OSError:
                raise ValueError("the file cannot be read") from None
        return value

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, value: str | None) -> str | None:
        """Refuse what is not a rate."""
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
        """Refuse an unknown store, and one whose client is not installed."""
        scheme = value.get_secret_value().partition("://")[0]
        if scheme not in ("memory", "redis", "rediss", "unix"):
            raise ValueError("a store is memory://, redis://, rediss:// or unix:// (a socket of Redis)")
        if scheme != "memory" and importlib.util.find_spec("redis") is None:
            raise ValueError("the client for Redis is not installed; install copyist[redis]")
        return value

    @field_validator("otlp_url")
    @classmethod
    def _takes_spans(cls, value: str | None) -> str | None:
        """Refuse what is not a URL, and any URL if the exporter is not installed."""
        if value is not None:
            if not _URL.fullmatch(value):
                raise ValueError("an address is like http://collector:4318/v1/traces")
            if not all(map(_is_installed, ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"))):
                raise ValueError("OpenTelemetry's exporter is not installed; install copyist[otel]")
        return value

    @property
    def keys(self) -> Keys:
        """The keys of `api_keys` and `api_keys_file` together."""
        return Keys.of(self.api_keys.get_secret_value() if self.api_keys else None, self.api_keys_file)

    @field_validator("state_keys")
    @classmethod
    def _are_secrets(cls, value: SecretStr | None) -> SecretStr | None:
        """Refuse secrets that are too short."""
        if value is not None and any(len(secret) < MIN_SECRET_CHARS for secret in _listed(value)):
            raise ValueError(
                f"each secret needs at least {MIN_SECRET_CHARS} characters; `openssl rand -hex 32` makes one"
            )
        return value

    @property
    def state_secrets(self) -> list[str]:
        """The secrets of `state_keys`."""
        return _listed(self.state_keys) if self.state_keys else []


def _is_installed(module: str) -> bool:
    """Whether a module can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _listed(secrets: SecretStr) -> list[str]:
    """Split comma-separated secrets."""
    return [secret for each in secrets.get_secret_value().split(",") if (secret := each.strip())]
