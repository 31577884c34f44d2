"""Measure handwriting of given texts over HTTP: legibility, endings of lines, latency and speed.

The texts are those of real lines that no network here was trained on. The bundle's recogniser reads the real ink, and
then what the service wrote of the same texts. Tesseract, where it is installed, reads both too; it has never seen pen
strokes.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from bench.http.load import Plan, run
from bench.http.server import Served, serving
from bench.machine import cores
from bench.options import Options
from export.bundle.folder import Bundle, BundleError
from model.codec import REPLACEMENT, HandwritingCodec, codec_from_json
from model.data.ink import Protocol, load_ink
from model.ink import SPREAD
from model.recogniser.network import edit_distance, spoken
from service.registry.recogniser import Recogniser

Offsets = NDArray[np.float64]

X_HEIGHT_MM = 2.5
WIDE_MM = 1000.0  # wide enough that no sentence wraps
SHORTEST = 12
SEED = 5
EARLY = 0.6  # a line ended early if it has fewer points per character than this share of its hand's median
LONG_TEXT = "Many of them had never seen the sea, and those who had could not say what it was like. "
WRITERS = 64
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Line:
    """A text and its ink.

    Attributes:
        text: of the line.
        offsets: raw (n, 3).
        is_complete: whether the service says that the line came to its end.
        style: name of the hand, "" for real ink.
    """

    text: str
    offsets: Offsets
    is_complete: bool = True
    style: str = ""


@dataclass(frozen=True)
class Errors:
    """The errors of a reader over some lines.

    Attributes:
        edits: of each line, in characters.
        lengths: of each line, in characters.
    """

    edits: Sequence[int]
    lengths: Sequence[int]

    @classmethod
    def of(cls, found: Sequence[str], lines: Sequence[Line]) -> "Errors":
        """Return the errors in what was read."""
        edits = [edit_distance(mine, line.text) for mine, line in zip(found, lines, strict=True)]
        return cls(edits, [len(line.text) for line in lines])

    @property
    def rate(self) -> float:
        """The character error rate: edits as a share of the characters."""
        return sum(self.edits) / max(sum(self.lengths), 1)

    def by(self, names: Sequence[str]) -> dict[str, float]:
        """Return the rate over the lines of each name."""
        rates = {}
        for name in sorted(set(names)):
            part = [index for index, other in enumerate(names) if other == name]
            rates[name] = Errors([self.edits[i] for i in part], [self.lengths[i] for i in part]).rate
        return rates


def held_out(data: Path, codec: HandwritingCodec, protocol: Protocol, count: int) -> list[Line]:
    """Return lines that neither writer nor recogniser was trained on, up to half of them with digits.

    The recogniser was trained on the official split, so the lines are of its test part. The writer may have been
    trained by another protocol; then they are of the test part of both.

    Args:
        data: strokes with texts.
        codec: of the writer; the lines consist of its characters.
        protocol: by which the writer was trained.
        count: number of lines.
    """
    corpus = load_ink(data, codec, "official", texts=True)
    unseen = set(load_ink(data, codec, protocol, texts=True).ids["test"])
    texts = spoken(codec, corpus.captions["test"])
    fit = [
        i
        for i, (text, name) in enumerate(zip(texts, corpus.ids["test"], strict=True))
        if name in unseen and len(text) >= SHORTEST and REPLACEMENT not in text and "#" not in text
    ]
    order = np.random.default_rng(SEED).permutation(fit).tolist()
    digits = [i for i in order if any(map(str.isdigit, texts[i]))][: count // 2]
    chosen = digits + [i for i in order if i not in digits][: count - len(digits)]
    return [Line(texts[i], codec.decode(corpus.test[i]).astype(np.float64)) for i in chosen]


def measure(shipped: Path, bundle: Bundle, data: Path, count: int, options: Options) -> dict[str, Any]:
    """Return the figures of a bundle that writes texts.

    Args:
        shipped: the folder it is in.
        bundle: of a network that writes texts, with a recogniser.
        data: strokes with texts, some of which it was not trained on.
        count: lines to write.
        options: of the loads.
    """
    codec = codec_of(bundle.codec)
    hands, recogniser = _writing(bundle)
    reader = Recogniser(bundle.files[recogniser["file"]], codec_of(recogniser["codec"]))
    real = held_out(data, codec, "official" if bundle.data.get("protocol") == "official" else "paper", count)
    here = cores()
    with serving(shipped, here[:2], processes=len(here[:2])) as server:
        written = write(server, bundle.name, codec, hands, [line.text for line in real])
        figures: dict[str, Any] = {"lines": len(real), "characters": sum(len(line.text) for line in real)}
        figures |= shares([line.text for line in real])
        figures |= legibility(reader, real, written) | endings(written)
        figures |= speed(server, bundle.name, options, here[-1])
    return figures


def codec_of(facts: Mapping[str, Any]) -> HandwritingCodec:
    """Return the codec of a network that writes or reads texts."""
    codec = codec_from_json(dict(facts))
    if not isinstance(codec, HandwritingCodec):
        raise BundleError("a bundle that writes given texts is needed")
    return codec


def _writing(bundle: Bundle) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the named hands and the recogniser of a bundle, as the manifest has them."""
    writing: Any = bundle.manifest.get("writing") or {}
    if not writing.get("hands") or not writing.get("recogniser"):
        raise BundleError(f"{bundle.name}: a bundle with named hands and a recogniser is needed")
    return writing["hands"], writing["recogniser"]


def write(
    server: Served, name: str, codec: HandwritingCodec, hands: Sequence[Mapping[str, Any]], texts: Sequence[str]
) -> list[Line]:
    """Have each text written, by one hand after the other, and return the ink in the units of the data."""
    lines = []
    with httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as client:
        for number, text in enumerate(texts):
            hand = hands[number % len(hands)]
            body: dict[str, Any] = {"model": name, "text": text, "style": hand["name"], "seed": number}
            body |= {"x_height_mm": X_HEIGHT_MM, "line_width_mm": WIDE_MM}
            reply = client.post("/v1/handwriting", json=body).raise_for_status().json()
            unit = X_HEIGHT_MM * SPREAD * hand["scale"] / float(np.sqrt(codec.ink.std[0] * codec.ink.std[1]))
            xy = np.column_stack([reply["x"], reply["y"]]) / unit
            offsets = np.column_stack([np.diff(xy, axis=0, prepend=xy[:1]), reply["pen"]])
            complete = all(line["complete"] for line in reply["lines"])
            lines.append(Line(text, offsets, complete, hand["name"]))
    return lines


def shares(texts: Sequence[str]) -> dict[str, float]:
    """Return the share of the texts that have digits, capitals and punctuation, which are hard to write."""
    has: dict[str, Callable[[str], bool]] = {
        "with_digits": str.isdigit,
        "with_capitals": str.isupper,
        "with_punctuation": lambda character: not character.isalnum() and not character.isspace(),
    }
    return {name: round(sum(any(map(test, text)) for text in texts) / len(texts), 3) for name, test in has.items()}


def legibility(reader: Recogniser, real: Sequence[Line], written: Sequence[Line]) -> dict[str, Any]:
    """Return the character error rates of both readers on real and on written ink."""
    from bench.writing import tesseract  # what it needs is not part of the development install

    styles = [line.style for line in written]
    figures: dict[str, Any] = {}
    readers: dict[str, Callable[[Sequence[Line]], list[str]]] = {
        "recogniser": lambda lines: [reader.read(line.offsets) for line in lines]
    }
    if tesseract.is_here():
        readers["tesseract"] = lambda lines: tesseract.read([line.offsets for line in lines])
    for name, read in readers.items():
        theirs, ours = Errors.of(read(real), real), Errors.of(read(written), written)
        by_style = {style: round(rate, 4) for style, rate in ours.by(styles).items()}
        figures |= {
            f"{name}_cer_real": round(theirs.rate, 4),
            f"{name}_cer_written": round(ours.rate, 4),
            f"{name}_cer_ratio": round(ours.rate / max(theirs.rate, 1e-9), 3),
            f"{name}_cer_by_style": by_style,
            f"{name}_cer_neatest": min(by_style.values()),
        }
    return figures


def endings(written: Sequence[Line]) -> dict[str, Any]:
    """Return the share of lines that did not end by themselves, and of lines much shorter than their hand's others."""
    pace: dict[str, list[float]] = defaultdict(list)
    for line in written:
        pace[line.style].append(len(line.offsets) / len(line.text))
    usual = {style: float(np.median(values)) for style, values in pace.items()}
    early = [line for line in written if len(line.offsets) / len(line.text) < EARLY * usual[line.style]]
    return {
        "share_capped": round(sum(not line.is_complete for line in written) / len(written), 4),
        "share_early": round(len(early) / len(written), 4),
    }


def speed(server: Served, name: str, options: Options, core: int) -> dict[str, Any]:
    """Return the time to the first point on an idle server, and the speed of one writer and of 64."""
    body = {"model": name, "text": LONG_TEXT * 20, "stream": True}
    probe = {"model": name, "text": "Dear reader,", "stream": True}
    idle = run(Plan(server.url, "/v1/handwriting", {}, 0, probe=probe, probes=options.probes // 10, core=core))
    figures: dict[str, Any] = {"first_point_p50_ms": idle.first_p50, "first_point_p99_ms": idle.first_p99}
    for writers in (1, WRITERS):
        plan = Plan(
            server.url, "/v1/handwriting", body, writers, seconds=options.load_s, warm_s=options.warm_s, core=core
        )
        found = run(plan)
        figures |= {
            f"points_per_s_{writers}": round(found.items_per_s),
            f"slowest_writer_points_per_s_{writers}": round(found.slowest_per_s, 1),
        }
    figures["step_of_one_ms"] = round(1000 / max(figures["points_per_s_1"], 1), 3)
    return {key: value if value is None else round(value, 3) for key, value in figures.items()}
