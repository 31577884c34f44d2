"""What the service says of itself: models, health, OpenAPI, all without asking anyone else."""

import json
import re
from typing import Any

from jsonschema import Draft202012Validator as Validator  # type: ignore[import-untyped]

from service.api.schemas.models import Health, ModelCard, ModelList
from service.registry.fingerprint import VERSION
from tests.service.live_server import ROOT, Server, problem


def test_models_carry_their_facts(server: Server) -> None:
    """Every bundle is listed with kind, licence, use, figures and fingerprint, and found by its name."""
    listed = server.client.get("/v1/models").json()
    ModelList.model_validate(listed)
    *bundles, copybook = listed["data"]
    assert [card["id"] for card in bundles] == ["small-ink", "small-text"]
    assert (copybook["id"], copybook["kind"]) == ("copybook", "ink")
    assert server.client.get("/v1/models/copybook").json() == copybook
    assert "Open Font License" in copybook["data"]["licence"]
    assert "commercial" in copybook["data"]["use"]
    for card in bundles:
        found = server.client.get(f"/v1/models/{card['id']}").json()
        assert found == card
        ModelCard.model_validate(found)
        assert card["layers"] == [32, 24, 40]
        assert card["data"]["use"] == "any"
        assert len(card["fingerprint"]) == 64
        build = re.escape(f"copyist-{VERSION}-") + "[0-9a-f]{12}-[0-9a-f]{8}"
        assert re.fullmatch(build, server.complete()["system_fingerprint"])


def test_an_unknown_model_is_404(server: Server) -> None:
    """The error names the field and lists what there is."""
    response = server.client.get("/v1/models/nobody")
    assert response.status_code == 404
    assert problem(response)["code"] == "model_not_found"


def test_health_tells_the_gauges(server: Server) -> None:
    """Alive and ready, with counts that move by exactly what was asked."""
    before = server.gauges()
    Health.model_validate(before)
    assert server.client.get("/readyz").json()["status"] == "ready"
    server.complete(prompt="abc", max_tokens=5, boundaries=True)
    after = server.gauges()
    assert after["row_steps"] - before["row_steps"] == 8
    assert after["finished"] - before["finished"] == 1
    assert (after["running"], after["waiting"], after["failures"]) == (0, 0, 0)


def test_openapi_examples_are_requests_that_work(server: Server) -> None:
    """Each example in the description is valid by its own schema, names a bundle that is there, and is served."""
    description = server.client.get("/openapi.json").json()
    for path in ("/v1/completions", "/v1/handwriting", "/v1/segment", "/v1/streams"):
        schema = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        examples = resolve(schema, description)["examples"]
        assert len(examples) >= 2
        for example in examples:
            Validator({**schema, "components": description["components"]}).validate(example)
            assert server.post(path, **example).status_code == 200


def test_openapi_describes_what_is_answered(server: Server) -> None:
    """Replies, events and errors are valid by the schemas that the description gives for them."""
    description = server.client.get("/openapi.json").json()
    assert description["openapi"].startswith("3.1")

    def check(path: str, status: int, instance: Any) -> None:
        content = description["paths"][path]["post"]["responses"][str(status)]["content"]["application/json"]
        Validator({**content["schema"], "components": description["components"]}).validate(instance)

    text = {"model": "small-text", "prompt": "a", "max_tokens": 40, "seed": 1, "boundaries": True}
    check("/v1/completions", 200, server.post("/v1/completions", **text).json())
    several = {"model": "small-text", "prompt": ["a", "bc"], "n": 2, "max_tokens": 9, "echo": True, "logprobs": 3}
    check("/v1/completions", 200, server.post("/v1/completions", **several).json())
    check("/v1/completions", 400, server.post("/v1/completions", **text, best_of=2).json())
    check("/v1/completions", 404, server.complete(model="nobody"))
    check("/v1/handwriting", 200, server.draw(max_points=10))
    streamed: tuple[tuple[str, dict[str, Any]], ...] = (
        ("/v1/completions", text), ("/v1/completions", several), ("/v1/handwriting", {"max_points": 40})
    )  # fmt: skip
    for path, body in streamed:
        for event in server.events(path, **body):
            check(path, 200, event)
    for path in ("/v1/completions", "/v1/handwriting"):
        responses = description["paths"][path]["post"]["responses"]
        assert set(responses) == {"200", "400", "404", "408", "413", "415", "429", "500", "503"}
        events = responses["200"]["content"]["text/event-stream"]["example"].split("\n\n")
        assert events[-2] == "data: [DONE]"
        for event in events[:-2]:
            check(path, 200, json.loads(event.removeprefix("data: ")))


def test_openapi_describes_what_is_refused(server: Server) -> None:
    """A request beyond a limit is invalid by the schema as well, and null is allowed where it is served."""
    description = server.client.get("/openapi.json").json()
    schema = {"$ref": "#/components/schemas/CompletionRequest", "components": description["components"]}
    validator = Validator(schema)
    good = {"model": "m", "prompt": "p"}
    served: list[dict[str, Any]] = [
        {"n": 1, "seed": None, "stop": "x", "top_p": None},
        {"n": 16, "best_of": 16, "logprobs": 5, "echo": True, "logit_bias": {"7": -100}, "stop": []},
        {"prompt": ["a", "b"], "n": None, "best_of": None, "logprobs": None, "logit_bias": None},
        {"prompt": [1, 2]},
        {"prompt": [[1], [2, 3]]},
    ]
    for fields in served:
        assert validator.is_valid({**good, **fields})
    refused: list[dict[str, Any]] = [
        {"n": 17},
        {"best_of": 17},
        {"logprobs": 6},
        {"logit_bias": {"a": 1}},
        {"logit_bias": {"1": 101}},
        {"presence_penalty": 2.5},
        {"suffix": "x"},
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": [1, "a"]},
        {"prompt": ["a"] * 17},
        {"prompt": [1] * 8193},
        {"max_tokens": 4097},
        {"top_p": 1.1},
        {"stop": [""]},
        {"other": 1},
        {"prompt": "p" * 8193},
    ]
    for bad in refused:
        assert not validator.is_valid({**good, **bad})


def test_the_version_is_the_packages() -> None:
    """The version told to clients is that of the package."""
    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text()


def resolve(schema: dict[str, Any], description: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference within the description."""
    found: dict[str, Any] = description["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found
