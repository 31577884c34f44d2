"""Where boundaries fall: z of each layer against the ends of words, sentences and strokes, with what chance would give.

A boundary belongs to the step that reads the symbol or point, and so does every event below, so no offset is left open.
The network was not trained for these scores: it never saw an event.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.analysis.letters import find_letters, widened
from model.codec import HandwritingCodec, TextCodec
from model.data.corpus import EVALUATION_STREAMS, Corpus, Window, line_windows
from model.data.ink import InkCorpus
from model.data.words import WordedLine
from model.network.fast.window import WindowOptions
from model.network.stack import Network
from model.recogniser.network import Recogniser, spoken

Flags = NDArray[np.bool_]

TEXT_EVENTS = {
    "blank": "the symbol read is white space",
    "word end": "a letter or digit is read, and what follows is neither",
    "word start": "a letter or digit is read, and what came before is neither",
    "sentence end": "a full stop, question mark or exclamation mark is read",
    "line end": "a line feed is read",
}
INK_EVENTS = {
    "pen-up": "the pen is lifted after the point read",
    "word gap": "the pen is lifted and set down again further right than after four of five lifts in this ink",
    "slow point": "the point read is nearer to the one before than its two neighbours on either side, pen down",
}
WORD_EVENTS = {"word": "the last point of a word whose strokes were assigned to it by hand"}
LETTER_EVENTS = {
    "letter end": "the last point of a letter that another character follows, where a recogniser finds it",
    "joined letter end": "the same, where no lift is within five points",
}
JOINED = 5  # points
WORD_GAP_QUANTILE = 0.8  # of IAM-OnDB's lifts, about one in five ends a word
TEXT_TOLERANCES, INK_TOLERANCES = (0,), (2, 5)
WINDOW = 100
DELAYS = range(11)  # points after a lift
PROBE_STEPS = 64_000
RIDGE = 1e-4  # beside the mean square of a state


@dataclass(frozen=True)
class Score:
    """How well a set of steps finds another.

    Attributes:
        precision: share of the boundaries that are events.
        recall: share of the events that were found.
    """

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Their harmonic mean; 0 where nothing matches."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0

    def to_json(self) -> dict[str, float]:
        """Plain values by their usual names."""
        return {"precision": round(self.precision, 4), "recall": round(self.recall, 4), "f1": round(self.f1, 4)}


def text_events(ids: NDArray[np.integer[Any]], codec: TextCodec) -> dict[str, Flags]:
    """Events of one text (n,) as flags (n,), named as in `TEXT_EVENTS`."""
    symbols = [codec.decode([i]) for i in range(codec.size)]
    word = np.array([symbol.isalnum() for symbol in symbols])[ids]
    before, after = np.append(False, word[:-1]), np.append(word[1:], False)
    return {
        "blank": codec.separators[ids],
        "word end": word & ~after,
        "word start": word & ~before,
        "sentence end": np.array([symbol in {".", "!", "?"} for symbol in symbols])[ids],
        "line end": np.array([symbol == "\n" for symbol in symbols])[ids],
    }


def ink_events(line: NDArray[np.floating[Any]], word_gap: float) -> dict[str, Flags]:
    """Events of one line of offsets (n, 3) as flags (n,), named as in `INK_EVENTS`; `word_gap` in the unit of dx."""
    lifted = line[:, 2] > 0
    down = ~np.append(False, lifted[:-1])  # an offset that the pen drew, rather than flew
    speed = np.where(down, np.hypot(line[:, 0], line[:, 1]), np.inf)
    padded = np.pad(speed, 2, constant_values=np.inf)
    neighbours = np.stack([padded[shift : shift + len(speed)] for shift in (0, 1, 3, 4)])
    return {
        "pen-up": lifted,
        "word gap": lifted & (np.append(line[1:, 0], -np.inf) > word_gap),
        "slow point": (speed < neighbours.min(0)) & np.isfinite(neighbours).all(0),
    }


def word_gap_of(lines: Iterable[NDArray[np.floating[Any]]]) -> float:
    """The dx after a lift that four of five lifts in these lines stay below."""
    jumps = [line[1:, 0][line[:-1, 2] > 0] for line in lines]
    return float(np.quantile(np.concatenate(jumps), WORD_GAP_QUANTILE))


def score(found: Iterable[Flags], truth: Iterable[Flags], tolerance: int = 0) -> Score:
    """Match boundaries with events one to one, in order, at most `tolerance` steps apart, sequence by sequence."""
    matched = boundaries = events = 0
    for boundary, event in zip(found, truth, strict=True):
        places, targets = np.flatnonzero(boundary), np.flatnonzero(event)
        boundaries, events = boundaries + len(places), events + len(targets)
        matched += _num_matches(places, targets, tolerance)
    return Score(matched / max(boundaries, 1), matched / max(events, 1))


def _num_matches(places: NDArray[np.intp], targets: NDArray[np.intp], tolerance: int) -> int:
    """The most pairs no further apart than the tolerance: on a line, the greedy choice is the best one."""
    if tolerance == 0:
        return len(np.intersect1d(places, targets, assume_unique=True))
    matched = at = 0
    for place in places:
        while at < len(targets) and targets[at] < place - tolerance:
            at += 1
        if at < len(targets) and targets[at] <= place + tolerance:
            matched, at = matched + 1, at + 1
    return matched


@torch.no_grad()
def read_boundaries(network: Network, windows: Iterable[Window]) -> tuple[list[NDArray[Any]], list[NDArray[np.bool_]]]:
    """Read windows with carried state in float32; give each stream's inputs and its z (n, L-1), padding left out."""
    groups: list[list[tuple[Window, NDArray[np.bool_]]]] = []
    state = None
    for window in windows:
        if state is None or bool(window.fresh.any()):
            state = network.zeros(window.fresh.shape[0])
            groups.append([])
        result = network(window.inputs, state, WindowOptions(torch.float32), torch.tensor(1.0), None, window.condition)
        state = result.state
        groups[-1].append((window, result.z.numpy() > 0))
    inputs, z = [], []
    for group in groups:
        real = np.concatenate([window.weight.numpy() > 0 for window, _ in group])
        read_in = np.concatenate([window.inputs.numpy() for window, _ in group])
        fired = np.concatenate([found for _, found in group])
        for row in range(real.shape[1]):
            inputs.append(read_in[real[:, row], row])
            z.append(fired[real[:, row], row])
    return inputs, z


def events_of(corpus: Corpus, inputs: list[NDArray[Any]]) -> dict[str, list[Flags]]:
    """Events of each stream, by name."""
    if isinstance(corpus.codec, TextCodec):
        codec = corpus.codec
        per_stream = [text_events(ids, codec) for ids in inputs]
    else:
        gap = word_gap_of(inputs)
        per_stream = [ink_events(line, gap) for line in inputs]
    return {name: [events[name] for events in per_stream] for name in per_stream[0]}


def compare(
    z: list[NDArray[np.bool_]], events: Mapping[str, list[Flags]], tolerances: Iterable[int], seed: int = 0
) -> list[dict[str, Any]]:
    """Score every layer against every event at every tolerance, beside as many boundaries put down at random."""
    draw = np.random.default_rng(seed)
    rows = []
    for layer in range(z[0].shape[1]):
        fired = [stream[:, layer] for stream in z]
        scattered = [draw.permutation(stream) for stream in fired]
        for name, truth in events.items():
            rows += [
                {
                    "layer": layer + 1,
                    "event": name,
                    "tolerance": tolerance,
                    "event_rate": _rate(truth),
                    "boundary_rate": _rate(fired),
                    **score(fired, truth, tolerance).to_json(),
                    "random_f1": score(scattered, truth, tolerance).to_json()["f1"],
                }
                for tolerance in tolerances
            ]
    return rows


def compare_rules(
    z: list[NDArray[np.bool_]], events: Mapping[str, list[Flags]], tolerances: Iterable[int]
) -> list[dict[str, Any]]:
    """Score what a rule without a network finds: a slow point, and a lift some points ago.

    For each layer, the lifts are delayed so that they resemble its boundaries most. If a detector only remembers the
    last lift, this rule scores as well as it does. `resemblance` is the F1 of the layer's boundaries and the rule.
    """
    rules = {"slow point": events["slow point"]}
    resemblance: dict[str, float] = {}
    for layer in range(z[0].shape[1]):
        fired = [stream[:, layer] for stream in z]
        late = [[_later(flags, delay) for flags in events["pen-up"]] for delay in DELAYS]
        likeness = [score(fired, flags).f1 for flags in late]
        best = int(np.argmax(likeness))
        name = f"pen-up {DELAYS[best]} points ago"
        rules[name], resemblance[name] = late[best], round(likeness[best], 4)
    return [
        {"rule": rule, "event": name, "tolerance": tolerance, **score(flags, truth, tolerance).to_json()}
        | ({"resemblance": resemblance[rule]} if rule in resemblance else {})
        for rule, flags in rules.items()
        for name, truth in events.items()
        for tolerance in tolerances
    ]


def _later(flags: Flags, steps: int) -> Flags:
    return np.append(np.zeros(min(steps, len(flags)), np.bool_), flags[: max(len(flags) - steps, 0)])


def score_words(network: Network, lines: list[WordedLine]) -> dict[str, Any]:
    """Score the boundaries of an ink network on words that were separated by hand, beside rules and chance."""
    lines = sorted(lines, key=lambda each: len(each.line))  # as they are read
    inputs, z = read_boundaries(network, line_windows([each.line for each in lines], WINDOW))
    # The last point of a line is not read, because no point follows it that could be predicted.
    truth = [each.word_end[: len(line)] for each, line in zip(lines, inputs, strict=True)]
    found = _score_outside(inputs, z, {"word": truth}, WORD_EVENTS)
    gap = word_gap_of(inputs)
    gaps = [ink_events(line, gap)["word gap"] for line in inputs]
    found["rules"] += [
        {"rule": "word gap", "event": "word", "tolerance": at, **score(gaps, truth, at).to_json()}
        for at in INK_TOLERANCES
    ]
    return found


def score_letters(network: Network, corpus: InkCorpus, split: str, recogniser: Recogniser) -> dict[str, Any]:
    """Score the boundaries of an ink network on the ends of letters, beside rules and chance.

    Args:
        network: an HM-LSTM of ink, whether it writes texts or not.
        corpus: with captions, read with the network's codec.
        split: "valid" or "test".
        recogniser: finds the letters.
    """
    codec, lines, captions = corpus.codec, getattr(corpus, split), corpus.captions[split]
    if not isinstance(codec, HandwritingCodec):
        raise TypeError(type(codec))
    its_lines = [recogniser.codec.encode(codec.decode(line)) for line in lines]
    found = find_letters(recogniser, its_lines, spoken(codec, captions))
    order = np.argsort([len(line) for line in lines], kind="stable")  # as they are read
    windows = line_windows(lines, WINDOW, captions if network.config.writes_text else None)
    inputs, z = read_boundaries(network, windows)
    lifted = [line[:, 2] > 0 for line in lines]
    joined = [ends & ~widened(lifts, JOINED) for ends, lifts in zip(found.ends, lifted, strict=True)]
    events = {
        name: [flags[i][: len(line)] for i, line in zip(order, inputs, strict=True)]
        for name, flags in zip(LETTER_EVENTS, (found.ends, joined), strict=True)
    }
    return _score_outside(inputs, z, events, LETTER_EVENTS) | found.facts(lifted)


def _score_outside(
    inputs: list[NDArray[Any]], z: list[NDArray[np.bool_]], events: dict[str, list[Flags]], meaning: dict[str, str]
) -> dict[str, Any]:
    """Score events that cannot be seen in the ink alone, beside the rules that need only the ink."""
    gap = word_gap_of(inputs)
    shown = [ink_events(line, gap) for line in inputs]
    known = {name: [flags[name] for flags in shown] for name in INK_EVENTS}
    return {
        "lines": len(inputs),
        "steps": sum(map(len, inputs)),
        "events": meaning,
        "scores": compare(z, events, INK_TOLERANCES),
        "rules": [row for row in compare_rules(z, known | events, INK_TOLERANCES) if row["event"] in events],
    }


def _rate(flags: list[Flags]) -> float:
    return round(float(np.concatenate(flags).mean()), 4)


def find(
    network: Network, corpus: Corpus, split: str, limit: int | None = None, control: Network | None = None
) -> dict[str, Any]:
    """Score the boundaries of a network on a split, and for text what a linear probe finds in a control's states.

    Args:
        network: an HM-LSTM.
        corpus: read with its codec.
        split: "valid" or "test".
        limit: steps at most, from the beginning of the split.
        control: an LSTM with the same codec, its probes fitted on the first `PROBE_STEPS` of the training split.
    """
    inputs, z = read_boundaries(network, corpus.evaluation(split, WINDOW, limit, EVALUATION_STREAMS))
    is_text = corpus.kind == "text"
    events = events_of(corpus, inputs)
    report: dict[str, Any] = {
        "split": split,
        "steps": sum(map(len, inputs)),
        "events": TEXT_EVENTS if is_text else INK_EVENTS,
        "scores": compare(z, events, TEXT_TOLERANCES if is_text else INK_TOLERANCES),
    }
    if not is_text:
        report["rules"] = compare_rules(z, events, INK_TOLERANCES)
    if control is not None and is_text:
        report["probes"] = _probes(control, corpus, inputs)
    return report


def _probes(control: Network, corpus: Corpus, inputs: list[NDArray[Any]]) -> dict[str, dict[str, float]]:
    known, _ = read_boundaries(control, corpus.evaluation("train", WINDOW, PROBE_STEPS, EVALUATION_STREAMS))
    known, inputs = _equally_long(known), _equally_long(inputs)
    states, held_out = states_of(control, known), states_of(control, inputs)
    truth, held_out_truth = events_of(corpus, known), events_of(corpus, inputs)
    return {
        name: probe(states, truth[name], held_out, held_out_truth[name]).to_json()
        for name in truth
        if np.any(truth[name])
    }


def _equally_long(streams: list[NDArray[Any]]) -> list[NDArray[Any]]:
    shortest = min(map(len, streams))
    return [stream[:shortest] for stream in streams]


@torch.no_grad()
def states_of(network: Network, inputs: list[NDArray[Any]]) -> NDArray[np.float32]:
    """h of all layers side by side after each step of equally long streams: float32 (streams, n, sum H)."""
    state, found = network.zeros(len(inputs)), []
    for x in torch.from_numpy(np.stack(inputs, 1)):
        _, state = network.step(x, state)
        found.append(torch.cat([layer.h for layer in state.layers], 1).numpy())
    return np.stack(found, 1)


def probe(
    states: NDArray[np.float32], truth: list[Flags], held_out: NDArray[np.float32], held_out_truth: list[Flags]
) -> Score:
    """How well a linear probe of a network's states finds an event.

    Least squares with a ridge on the first states; its threshold makes it fire as often as the event there. The score
    is that on the held-out states.
    """
    read_in = _read_out(states, np.stack(truth))
    rate = float(np.mean(truth))
    threshold = np.quantile(read_in(states), 1 - rate)
    return score(list(read_in(held_out) > threshold), held_out_truth)


def _read_out(states: NDArray[np.float32], truth: Flags) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    flat = states.reshape(-1, states.shape[-1]).astype(np.float64)
    mean = flat.mean(0)
    centred = flat - mean
    target = truth.reshape(-1) - truth.mean()
    gram = centred.T @ centred + RIDGE * len(flat) * np.eye(flat.shape[1])
    weight = np.linalg.solve(gram, centred.T @ target)
    return lambda h: (h - mean) @ weight
