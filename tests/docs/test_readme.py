"""README.md: one page, whose commands run as they stand and whose pictures are what they give."""

import re

import pytest

from tests.docs.blocks import Block, Shell, blocks
from tests.service.live_server import ROOT

PAGE = ROOT / "README.md"
LETTER = ROOT / "docs" / "pictures" / "letter.svg"
WALKED = "Train on your own"  # test_walk.py carries it out
MOST_BYTES, MOST_LINES = 7168, 115
NEAR_MM = 0.02  # processors may differ in the last digit of a sine
_NUMBER = re.compile(r"-?\d+\.\d+")
_INLINE = re.compile(r"`((?:copyist|make) [^`]+)`")

pytestmark = pytest.mark.xdist_group("service")


def of(language: str) -> list[Block]:
    """The page's blocks in a language, without those that test_walk.py carries out."""
    return [block for block in blocks(PAGE) if block.language == language and block.heading != WALKED]


def test_it_is_one_page() -> None:
    """The README stays short; the rest is in docs/."""
    text = PAGE.read_text(encoding="utf-8")
    assert len(text.encode()) <= MOST_BYTES
    assert len(text.splitlines()) <= MOST_LINES


@pytest.mark.parametrize("block", of("bash"), ids=str)
def test_commands_run(block: Block, shell: Shell) -> None:
    """Each request of the quick start succeeds against a service of the shipped bundles."""
    shell.run(block.text)


def test_the_letter_is_the_one_that_is_shown(shell: Shell, renew_golden: bool) -> None:
    """The picture below the command is what the command writes."""
    (block,) = (block for block in of("bash") if "letter.svg" in block.text)
    written = shell.run(block.text + "cat letter.svg")
    if renew_golden:
        LETTER.write_text(written, encoding="utf-8")
    shown = LETTER.read_text(encoding="utf-8")
    assert _NUMBER.sub("", written) == _NUMBER.sub("", shown)
    pairs = zip(_NUMBER.findall(written), _NUMBER.findall(shown), strict=True)
    assert all(abs(float(a) - float(b)) <= NEAR_MM for a, b in pairs)


def test_commands_of_make_are_targets() -> None:
    """What the page tells a reader to make can be made; the service is started as test_walk.py starts it."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    inline = [command for command in _INLINE.findall(PAGE.read_text(encoding="utf-8")) if command.startswith("make ")]
    assert [block.text.strip() for block in of("make")] == ["make serve"]
    assert {command.split()[1] for command in inline} <= targets
    (walked,) = (block for block in blocks(PAGE) if block.heading == WALKED)
    assert walked.text.splitlines()[-1] == "make serve"


@pytest.mark.parametrize("command", [c for c in _INLINE.findall(PAGE.read_text("utf-8")) if c.startswith("copyist ")])
def test_commands_in_a_sentence_run(command: str, shell: Shell) -> None:
    """A command of the client that stands in a sentence succeeds, too."""
    shell.run(command)
