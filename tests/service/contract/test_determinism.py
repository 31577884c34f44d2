"""The same request with the same seed gets the same bytes: alone, in company, on another server, in other events."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.service.live_server import Server, running

TEXT = {"model": "small-text", "max_tokens": 150, "boundaries": True}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    *(
        (
            "/v1/completions",
            {
                **TEXT,
                "prompt": "It was " * (seed % 5),
                "seed": seed,
                "temperature": 0.5 + seed % 3 / 2,
                "top_p": 0.8 + 0.1 * (seed % 3),
            },
        )
        for seed in range(24)
    ),
    *(("/v1/completions", {**TEXT, "prompt": "x", "seed": 1, "top_k": 5, "stop": ["ab", "q"]}) for _ in range(3)),
    *(("/v1/handwriting", {"max_points": 150, "seed": seed, "bias": seed % 4}) for seed in range(12)),
]


def told(server: Server, path: str, body: dict[str, Any]) -> Any:
    """What a whole reply says, without its id and date."""
    response = server.post(path, **body)
    assert response.status_code == 200
    reply = response.json()
    return {name: value for name, value in reply.items() if name not in ("id", "created")}


def test_alone_and_in_company(server: Server, bundles: Path) -> None:
    """One after the other, all at once, and all at once on the few rows of another server: no bit differs."""
    alone = [told(server, path, body) for path, body in REQUESTS]
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        together = list(pool.map(lambda request: told(server, *request), REQUESTS))
        with running(bundles, rows=5, flush_chars=1, flush_ms=0) as other:
            elsewhere = list(pool.map(lambda request: told(other, *request), reversed(REQUESTS)))
    assert together == alone
    assert elsewhere[::-1] == alone


def test_streams_in_company(server: Server) -> None:
    """Streams that share rows and come and go tell what they tell alone."""

    def text(request: tuple[str, dict[str, Any]]) -> str:
        events = server.events(request[0], **request[1])
        return "".join(event["choices"][0]["text"] for event in events)

    requests = REQUESTS[:24]
    alone = [text(request) for request in requests]
    with ThreadPoolExecutor(len(requests)) as pool:
        assert list(pool.map(text, requests)) == alone
