"""OpenAI's official JavaScript client reads us as it reads anyone."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.service.live_server import PATIENCE_S, Server

FOLDER = Path(__file__).parent / "clients"

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no node here"),
    pytest.mark.skipif(
        not (FOLDER / "node_modules" / "openai").is_dir(),
        reason="npm's openai is not installed: npm install --prefix tests/service/clients",
    ),
]


def test_what_it_reads(server: Server) -> None:
    """Whole replies, mixed streams, a stream left early, models and refusals arrive as its users expect them."""
    run = subprocess.run(
        ["node", FOLDER / "openai.mjs", server.url], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    body = {"n": 2, "max_tokens": 60, "seed": 4, "echo": True, "logprobs": 2, "boundaries": True}
    ours = server.complete(**body)
    assert seen["whole"]["choices"] == ours["choices"]
    assert seen["whole"]["usage"] == ours["usage"]
    assert seen["pieces"] == [choice["text"] for choice in ours["choices"]]
    assert seen["reasons"] == ["length", "length"]
    assert seen["usage"] == server.complete(**{**body, "boundaries": False})["usage"]
    assert seen["first"]
    assert set(seen["models"]) == {"small-text", "small-ink", "copybook"}
    assert seen["badRequest"] == {
        "name": "BadRequestError",
        "status": 400,
        "param": "n",
        "code": None,
        "type": "invalid_request_error",
        "hasId": True,
    }
    assert (seen["notFound"]["name"], seen["notFound"]["code"]) == ("NotFoundError", "model_not_found")
    assert server.gauges_when(lambda gauges: gauges["running"] == 0)["failures"] == 0
