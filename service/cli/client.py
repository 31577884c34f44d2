"""How commands reach the service: over HTTP, on another server or in this process."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import orjson
from httpx_sse import EventSource
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.cli.problems import CommandError, RefusedError, UnreachableError, UsageError

DONE = "[DONE]"
SHUTTING_DOWN = "shutting_down"  # the code of such an error
CONNECT_S, READ_S = 5.0, 600.0
INSIDE = "http://copyist"


class ClientSettings(BaseSettings):
    """Environment variables of the commands; `serve` and the service in this process read `Settings`."""

    model_config = SettingsConfigDict(env_prefix="COPYIST_", frozen=True, extra="ignore")

    url: str | None = Field(None, description="Server that commands ask; without one, the service runs in the command.")
    api_key: SecretStr | None = Field(None, description="Key that commands send to it.")


class Client:
    """Sends requests to a service.

    Args:
        http: a client with the service's address as its base.
        place: name of the service in messages.
    """

    def __init__(self, http: httpx.Client, place: str) -> None:
        self._http = http
        self.place = place

    def get(self, path: str) -> Any:
        """Return the JSON of a reply.

        Raises:
            RefusedError: the server said no.
            UnreachableError: it did not answer.
        """
        return _json(self._send("GET", path))

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """Return a whole reply; raises as `get`."""
        return self._send("POST", path, body)

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events of a stream as they come; leaving early cancels it at the server.

        Raises:
            RefusedError: the server said no, at once or in an event.
            UnreachableError: it did not answer, or stopped in the middle.
        """
        try:
            with self._http.stream("POST", path, json={**body, "stream": True}) as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                for event in EventSource(response).iter_sse():
                    if event.data == DONE:
                        return
                    content = orjson.loads(event.data)
                    if "error" in content:
                        raise _kind_of(content["error"])(_sentence(content["error"]))
                    yield content
        except httpx.HTTPError as error:
            raise self._lost(error) from None
        raise UnreachableError(f"The connection to {self.place} was lost before the end of the reply.")

    def model(self, kind: str, name: str | None) -> str:
        """Return the name of the model to use: the one given, else the first of a kind (`text` or `ink`)."""
        if name is not None:
            return name
        for card in self.get("/v1/models")["data"]:
            if card.get("kind") == kind:
                return str(card["id"])
        raise RefusedError(f"No model that writes {kind} is served by {self.place}.")

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self._lost(error) from None
        if response.is_error:
            raise _refusal(response)
        return response

    def _lost(self, error: httpx.HTTPError) -> UnreachableError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return UnreachableError(f"No server answers at {self.place}.")
        return UnreachableError(f"The connection to {self.place} was lost ({type(error).__name__}).")


@contextmanager
def connect(url: str | None) -> Iterator[Client]:
    """Open the service: the server at `url`, else at COPYIST_URL, else one in this process for as long as the block.

    Raises:
        UsageError: the URL is none.
        UnreachableError: the service in this process cannot start.
    """
    settings = ClientSettings()
    address = url if url is not None else settings.url
    key = settings.api_key.get_secret_value() if settings.api_key else None
    options: dict[str, Any] = {
        "headers": {"authorization": f"Bearer {key}"} if key else {},
        "timeout": httpx.Timeout(READ_S, connect=CONNECT_S),
    }
    if address:
        with httpx.Client(base_url=_base(address), **options) as http:
            yield Client(http, str(http.base_url).rstrip("/"))
        return
    from service.cli.inside import service_inside  # the engine and its libraries, only where they are needed

    with service_inside() as transport, httpx.Client(base_url=INSIDE, transport=transport, **options) as http:
        yield Client(http, "the service in this process")


def _base(address: str) -> httpx.URL:
    """Check an address; a /v1 at its end, as OpenAI's clients want it, is dropped."""
    try:
        url = httpx.URL(address.rstrip("/").removesuffix("/v1"))
    except httpx.InvalidURL:
        raise UsageError(f"{address!r} is not a URL.") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(f"{address!r} is not a URL such as http://127.0.0.1:8000.")
    return url


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise RefusedError(f"{response.url} did not answer with JSON: no server of Copyist, it seems.") from None


def _refusal(response: httpx.Response) -> RefusedError:
    """Return the server's own message; a server that is not ours may answer in any form."""
    try:
        return RefusedError(_sentence(response.json()["error"]))
    except (ValueError, KeyError, TypeError):
        return RefusedError(f"{response.url} answered {response.status_code} {response.reason_phrase}.")


def _kind_of(error: Mapping[str, Any]) -> type[CommandError]:
    """Choose the exception: a server that is shutting down has not refused the request itself."""
    return UnreachableError if error.get("code") == SHUTTING_DOWN else RefusedError


def _sentence(error: Mapping[str, Any]) -> str:
    return str(error["message"])
