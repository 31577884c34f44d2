"""Small corpora for tests of training: the free fixtures, and smaller ones still, made of them on the spot."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from model.config import PRESETS, Kind, Preset
from model.data.corpus import Corpus

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
PATHS: dict[Kind, Path] = {"text": FIXTURES / "text.txt", "ink": FIXTURES / "ink.npz"}


@cache
def fixture(kind: Kind) -> Corpus:
    """The fixture corpus of a kind."""
    return Corpus.load(kind, PATHS[kind])


def write_text(path: Path, start: int = 0, characters: int = 6000) -> Path:
    """A piece of the text fixture as a file of its own."""
    text = PATHS["text"].read_text(encoding="utf-8")
    path.write_text(text[start : start + characters], encoding="utf-8")
    return path


def write_ink(path: Path, seed: int = 0, lines: int = 12) -> Path:
    """Short lines of loops as a stroke file."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 45, lines)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    phase = np.arange(offsets[-1]) * 0.7
    dx = np.round(12 * np.cos(phase) + 8 + rng.normal(0, 1, len(phase))).astype(np.int16)
    dy = np.round(12 * np.sin(phase) + rng.normal(0, 1, len(phase))).astype(np.int16)
    eos = (rng.random(len(phase)) < 0.1).astype(np.uint8)
    dx[offsets[:-1]], dy[offsets[:-1]] = 0, 0
    np.savez(path, dx=dx, dy=dy, eos=eos, offsets=offsets)
    return path


def write(kind: Kind, folder: Path) -> Path:
    """A small corpus of a kind in a folder."""
    return write_text(folder / "small.txt") if kind == "text" else write_ink(folder / "small.npz")


def small_preset(kind: Kind, model: dict[str, Any] | None = None, **train: Any) -> Preset:
    """The tiny preset made smaller: a few milliseconds an update."""
    preset = PRESETS["tiny" if kind == "text" else "tiny-ink"]
    small: dict[str, Any] = {"embedding": 6, "hidden": (8, 7, 6), "output": 8} | (
        {} if kind == "text" else {"mixtures": 2}
    )
    quick: dict[str, Any] = {"batch": 4, "window": 8, "warmup": 4, "precision": "float32"}
    return Preset(replace(preset.model, **(small | (model or {}))), replace(preset.train, **(quick | train)))
