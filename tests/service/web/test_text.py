"""The text desk in a real browser: characters arrive with their boundaries, and can be stopped and taken along."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.programs import PATIENCE_S
from tests.service.live_server import Server
from tests.service.web.browsing import said, send


def test_characters_arrive_with_their_boundaries(page: Any, server: Server) -> None:
    """The server's characters appear after the prompt, and those at boundaries are marked as the API says."""
    page.get_by_label("Begin with").fill("It was ")
    form = page.locator("#text-form")
    form.get_by_label("Characters").fill("300")
    form.get_by_label("Seed").fill("12")
    assert "300 characters" in send(page, "text")
    asked = {"prompt": "It was ", "max_tokens": 300, "seed": 12, "temperature": 0.7, "boundaries": True}
    reply = server.complete(**asked)
    expected = reply["choices"][0]
    paper = page.locator("#text-paper")
    assert paper.evaluate("element => element.textContent") == "It was " + expected["text"]
    for level in (1, 2):
        found = page.evaluate(
            f"[...document.querySelectorAll('#text-paper .b{level}')].map(span => span.textContent).join('')"
        )
        fires = zip(expected["text"], *expected["z"], strict=True)
        assert found == "".join(character for character, *z in fires if sum(z) == level)
        assert found
    drawn = "[0, 1, 2].map(n => getComputedStyle(document.querySelector(`#text-paper .b${n}`)).background)"
    ways = {}
    for way in ("as bands", "as colours", "hidden"):
        page.locator("#text-boundaries").select_option(way)
        ways[way] = page.evaluate(drawn)
    assert len(set(ways["as bands"])) == len(set(ways["as colours"])) == 3
    assert len(set(ways["hidden"])) == 1
    counts = [sum(letter != "C" for letter in letters) for letters in expected["op"]]
    shown = page.locator("#text-layers .layer span").all_inner_texts()
    assert [words.partition(" ")[0] for words in shown] == [str(count) for count in counts]
    assert shown[0].endswith("100 %")


def test_a_request_can_be_taken_along(page: Any, server: Server, tmp_path: Path) -> None:
    """What the desks copy does, in a terminal or with Python, what the desks' own buttons do."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    prompt = 'It\'s "so" $HOME\n'
    page.get_by_label("Begin with").fill(prompt)
    page.locator("#text-form").get_by_label("Characters").fill("40")
    page.locator("#text-form").get_by_label("Seed").fill("5")
    page.locator("#reading-form textarea").evaluate("(field, text) => { field.value = text; }", prompt)
    words = {}
    for desk, name in (("text", "Text"), ("reading", "Reading"), ("ink", "Handwriting")):
        page.get_by_role("link", name=name, exact=True).click()
        for way in ("curl", "Python"):
            page.locator(f"#{desk}").get_by_role("button", name=f"Copy as {way}").click()
            page.locator(f"#{desk}-status", has_text="Copied").wait_for()
            words[desk, way] = page.evaluate("navigator.clipboard.readText()")
            page.locator(f"#{desk}-status").evaluate("element => { element.textContent = ''; }")

    def run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True, cwd=tmp_path)
        return done.stdout

    expected = server.complete(prompt=prompt, max_tokens=40, seed=5, temperature=0.7)["choices"][0]["text"]
    streamed = run("sh", "-c", words["text", "curl"])
    events = [line.removeprefix("data: ") for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == expected
    assert run(sys.executable, "-c", words["text", "Python"]) == expected
    tree = server.post("/v1/segment", text=prompt).json()["tree"]
    assert json.loads(run("sh", "-c", words["reading", "curl"]))["tree"] == tree
    lines = "\n".join(
        "|".join(prompt[each["start"] : each["end"]] for each in line["segments"]) for line in tree["segments"]
    )
    assert run(sys.executable, "-c", words["reading", "Python"]) == lines + "\n"
    for way, program in (("curl", "sh"), ("Python", sys.executable)):
        run(program, "-c", words["ink", way])
        picture = tmp_path / "copyist.svg"
        assert "<path" in picture.read_text()
        picture.unlink()


STOP_SOON = """() => {
    const look = () => {
        if (!document.querySelector("#text-layers .layer")) return requestAnimationFrame(look)
        document.querySelector("#text-form .stop").click()
    }
    look()
}"""


def test_stop_stops(page: Any, server: Server) -> None:
    """Stop ends the writing on the page and frees the row on the server; writing again works."""
    cancelled = server.gauges()["cancelled"]
    form = page.locator("#text-form")
    form.get_by_label("Characters").fill("4096")
    page.evaluate(STOP_SOON)  # inside of the page: a round trip may take longer than so small a network writes
    form.get_by_role("button", name="Write").click()
    assert said(page, "text") == "Stopped."
    assert server.gauges_when(lambda gauges: gauges["running"] == 0)["cancelled"] == cancelled + 1
    form.get_by_label("Characters").fill("5")
    assert "5 characters" in send(page, "text")


def test_a_refusal_is_shown_in_words(page: Any) -> None:
    """What the server refuses stands on the page in its words, with the field called as on the page."""
    page.evaluate("document.querySelector('#text-form').noValidate = true")
    page.locator("#text-form").get_by_label("Characters").fill("5000")
    with page.expect_response("**/v1/completions") as response:
        page.locator("#text-form .go").click()
    assert response.value.status == 400
    page.get_by_text("Characters: at most 4096 are served here.").wait_for()
