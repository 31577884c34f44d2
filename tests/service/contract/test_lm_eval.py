"""lm-evaluation-harness scores and generates on a real server, with the server's own codec, as its users run it."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.programs import PATIENCE_S
from tests.service.conftest import TEXT
from tests.service.live_server import ROOT, Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed: extra eval"),
]

DOCUMENTS = ["It was a dark night.", "Rain fell, and then\nit stopped."]
QUESTIONS: list[dict[str, Any]] = [
    {"question": "It was a ", "choices": ["dark", "xxxx", "q?!;"], "gold": 0},
    {"question": "She said: ", "choices": ["no", "yes!"], "gold": 1},
]
TASKS = {
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
""",
    "choice": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: gold
target_delimiter: ""
metric_list:
  - metric: acc
""",
    "greedy": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
generation_kwargs:
  until: []
  max_gen_toks: 20
  temperature: 0.0
metric_list:
  - metric: exact_match
""",
}


def likelihoods(server: Server, text: str) -> list[float]:
    """Nats of each character of a text but the first, as the service scores it."""
    choice = server.complete(prompt=text, echo=True, max_tokens=0, logprobs=0)["choices"][0]
    column: list[float] = choice["logprobs"]["token_logprobs"][1:]
    return column


def evaluated(server: Server, folder: Path, documents: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Run lm_eval on the tasks above and return its results by task."""
    for name, lines in documents.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / f"{name}.yaml").write_text(
            f"task: copyist_{name}\ndataset_path: json\ntest_split: test\n"
            f"dataset_kwargs:\n  data_files:\n    test: {data}\n{TASKS[name]}"
        )
    arguments = {
        "model": "small-text",
        "base_url": f"{server.url}/v1/completions",
        "tokenizer_backend": "remote",
        "custom_prefix_token_id": TEXT.encode("\n").item(),  # its own way to name it takes an id of 0 for none
    }
    command: list[str | Path] = [
        *(sys.executable, "-m", "lm_eval", "run", "--model", "local-completions"),
        *("--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())),
        *("--tasks", ",".join(f"copyist_{name}" for name in documents)),
        *("--include_path", folder, "--output_path", folder / "out", "--batch_size", "2"),
    ]
    environment = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=4 * PATIENCE_S, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    (report,) = (folder / "out").rglob("results_*.json")
    results: dict[str, Any] = json.loads(report.read_text())["results"]
    return results


def test_it_finds_what_we_say(server: Server, tmp_path: Path) -> None:
    """Bits per byte, the choice taken and greedy text are those of the service's own replies."""
    answers = [
        server.complete(prompt=each["question"], max_tokens=20, temperature=0)["choices"][0]["text"]
        for each in QUESTIONS
    ]
    found = evaluated(
        server,
        tmp_path,
        {
            "rolling": [{"text": text} for text in DOCUMENTS],
            "choice": QUESTIONS,
            "greedy": [{**each, "answer": text} for each, text in zip(QUESTIONS, answers, strict=True)],
        },
    )
    # Rolling, the first character is scored too, after a line break.
    nats = sum(sum(likelihoods(server, "\n" + text)) for text in DOCUMENTS)
    expected = -nats / math.log(2) / sum(len(text.encode()) for text in DOCUMENTS)
    assert found["copyist_rolling"]["bits_per_byte,none"] == pytest.approx(expected, abs=1e-6)
    hits = 0
    for each in QUESTIONS:
        sums = [sum(likelihoods(server, each["question"] + choice)[-len(choice) :]) for choice in each["choices"]]
        hits += sums.index(max(sums)) == each["gold"]
    assert found["copyist_choice"]["acc,none"] == hits / len(QUESTIONS)
    assert found["copyist_greedy"]["exact_match,none"] == 1
