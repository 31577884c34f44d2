import json
import statistics
from collections.abc import Callable
from typing import Any

from model.data.corpus import EVALUATION_STREAMS
from model.training.metrics import cell_work


def results_page(records: list[dict[str, Any]]) -> str:
    """docs/results.md: a table for text, one for ink, and how each row was made."""
    text = [record for record in records if record["model"]["kind"] == "text"]
    ink = [record for record in records if record["model"]["kind"] == "ink"]
    parts = ["# Results", "", "Made by `python -m model results` from the records in docs/runs/. Do not edit.", ""]
    if text:
        parts += [
            "## Text: bits per character of the whole test split, read as so many streams, the state of each carried",
            "",
            *_table(text, _TEXT),
            "",
        ]
        parts += _seeds(text, lambda r: r["test"]["bpc"], 3)
    if ink:
        parts += [
            "## Ink: log-likelihood of the test lines, standardised units, nothing clipped",
            "",
            *_table(ink, _INK),
        ]
        parts += ["", *_constants(ink), ""]
        parts += _seeds(ink, lambda r: r["test"]["nats_per_line"], 1)
    for record in records:
        if "boundaries" in record:
            parts += [*_boundaries(record), ""]
    parts += ["## How each row was made", ""]
    for record in records:
        parts.append(_making(record))
    return "\n".join(parts).rstrip() + "\n"


def _seeds(records: list[dict[str, Any]], figure: Callable[[dict[str, Any]], float], digits: int) -> list[str]:
    """Rows that differ by their seed alone, together."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        train = {name: value for name, value in record["train"].items() if name != "seed"}
        # The best of a training may be from before its end, for each seed at another update.
        budget = record.get("budget", record["updates"])
        same = [record["data"], record["model"], train, budget, record.get("started_from")]
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(record)
    several = [
        {"runs": [record["name"] for record in group], "figures": [figure(record) for record in group]}
        for group in groups.values()
        if len(group) > 1
    ]
    if not several:
        return []
    columns = {
        "runs that differ by their seed alone": lambda g: ", ".join(g["runs"]),
        "mean": lambda g: f"{statistics.mean(g['figures']):.{digits}f}",
        "lowest": lambda g: f"{min(g['figures']):.{digits}f}",
        "highest": lambda g: f"{max(g['figures']):.{digits}f}",
    }
    return [*_table(several, columns), ""]


def _boundaries(record: dict[str, Any]) -> list[str]:
    """Where one run's boundaries fall."""
    found = record["boundaries"]
    prior = record["model"]["detector_prior"]
    told = f" z1 was told where to look at first (detector_prior {prior!r})." if prior != "none" else ""
    probes = found.get("probes", {})
    shown = _SCORES | ({"linear probe of the LSTM, F1": lambda r: f"{probes[r['event']]['f1']:.3f}"} if probes else {})
    return [
        f"## Boundaries of {record['name']}",
        "",
        (
            f"{found['steps']:,} steps of the {found['split']} split; boundaries and events are matched one to one "
            f"within the tolerance, beside as many boundaries put down at random.{told}"
        ),
        "",
        *(f"- {name}: {meaning}." for name, meaning in found["events"].items()),
        "",
        *_table([row for row in found["scores"] if row["event_rate"]], shown),
        *_rules(found, "What rules without a network find"),
        *_letters(found.get("letters")),
        *_words(found.get("words")),
    ]


def _rules(found: dict[str, Any], title: str) -> list[str]:
    """The rivals of ink's boundaries, which need no network."""
    return [] if "rules" not in found else ["", f"{title}:", "", *_table(found["rules"], _RULES)]


def _letters(found: dict[str, Any] | None) -> list[str]:
    """Boundaries of ink against letters that a recogniser tells apart."""
    if found is None:
        return []
    delays = found["delays"]
    said = (
        f"Letters of the same ink, found by a recogniser that was told what its {found['lines']} lines say. It is sure "
        f"of a letter {delays['letter']} points after that begins, of a blank {delays['blank']}: so most ends fall on "
        f"lifts, and of those before a blank {found['word_ends_at_lifts']:.0%} within two points.".replace("%", " %")
    )
    return _outside(found, said)


def _words(found: dict[str, Any] | None) -> list[str]:
    """Boundaries of ink against words told apart by hand."""
    if found is None:
        return []
    said = f"On {found['lines']} lines of other pens and writers ({found['steps']:,} steps of ImadocSen-OnDB, scaled):"
    return _outside(found, said)


def _outside(found: dict[str, Any], said: str) -> list[str]:
    """Scores on events that the ink itself does not show."""
    return [
        "",
        said,
        "",
        *(f"- {name}: {meaning}." for name, meaning in found["events"].items()),
        "",
        *_table(found["scores"], _SCORES),
        *_rules(found, "What rules find there"),
    ]


def _minutes(record: dict[str, Any]) -> str:
    """Minutes of each training in turn, where one started from the weights of another."""
    spent: list[str] = []
    one: dict[str, Any] | None = record
    while one is not None:
        spent.append(f"{one.get('minutes', 0):.0f}")
        one = one.get("started_from")
    return " + ".join(reversed(spent))


def _making(record: dict[str, Any]) -> str:
    begun = record.get("started_from")
    start = "" if begun is None else f"begun with the weights of an earlier training ({begun['steps']:,} steps), "
    return (
        f"- **{record['name']}**: `{record['command']}` at {record['commit']}; {record['data']['name']} "
        f"(sha256 {record['data']['sha256'][:12]}), {start}seed {record['seed']}, {record['hardware']}, "
        f"{record['updates']:,} updates, {record['passes']:.2f} passes over the training split."
        + (f" {record['note']}" if record["note"] else "")
    )


def _rates(record: dict[str, Any]) -> str:
    return ", ".join(f"{rate:.3f}" for rate in record["test"].get("z_rates", [])) or "-"


def _share(record: dict[str, Any]) -> str:
    share = record["test"].get("cell_work_share")
    return "100 %" if share is None else f"{share:.1%}".replace("%", " %")


def _products(record: dict[str, Any]) -> str:
    """Multiply-accumulates that a step of text needs, cells and output module together, in thousands."""
    model, test = record["model"], record["test"]
    hidden = tuple(model["hidden"])
    if model["cell"] == "hmlstm":
        cells, _ = cell_work(hidden, test["z_rates"], test["active_rates"])
    else:
        below = (0, *hidden[:-1])  # the input is a table row
        cells = sum(4 * size * (size + under) for size, under in zip(hidden, below, strict=True))
    sent = sum(hidden)
    output = sent * len(hidden) + sent * model["output"] + model["output"] * model["vocabulary"]
    return f"{(cells + output) / 1000:.0f}"


def _layers(record: dict[str, Any]) -> str:
    model = record["model"]
    kind = {
        ("hmlstm", True): "",
        ("hmlstm", False): "without LN",
        ("lstm", True): "LN-LSTM",
        ("lstm", False): "LSTM",
        ("bn-lstm", False): "BN-LSTM",
    }[model["cell"], model["layer_norm"]]
    return f"{' x '.join(map(str, model['hidden']))} {kind}".rstrip()


def _data(record: dict[str, Any]) -> str:
    by_writer = ", by writer" if record["data"].get("protocol") == "official" else ""
    return f"{record['data']['name']}{by_writer}"


_COMMON = {
    "run": lambda r: r["name"],
    "data": _data,
    "layers": _layers,
    "parameters": lambda r: f"{r['parameters'] / 1e6:.2f} M",
    "minutes": _minutes,
    "passes": lambda r: f"{r['passes']:.2f}",
}


_BOUNDARIES = {"z rates": _rates, "cell work": _share}


_TEXT = (
    _COMMON
    | {
        "test bpc": lambda r: f"{r['test']['bpc']:.3f}",
        "streams": lambda r: f"{r['test'].get('streams', EVALUATION_STREAMS)}",  # older records do not say: so many
        "thousand products a step": _products,
    }
    | _BOUNDARIES
)


_INK = (
    _COMMON
    | {
        "nats per line": lambda r: f"{r['test']['nats_per_line']:.1f}",
        "nats per step": lambda r: f"{r['test']['nats_per_step']:.4f}",
        "raw units": lambda r: f"{r['test']['nats_per_step_raw_units']:.4f}",
    }
    | _BOUNDARIES
)


_SCORES = {
    "layer": lambda r: f"z{r['layer']}",
    "event": lambda r: r["event"],
    "within": lambda r: f"{r['tolerance']}",
    "boundary rate": lambda r: f"{r['boundary_rate']:.3f}",
    "event rate": lambda r: f"{r['event_rate']:.3f}",
    "precision": lambda r: f"{r['precision']:.3f}",
    "recall": lambda r: f"{r['recall']:.3f}",
    "F1": lambda r: f"{r['f1']:.3f}",
    "random F1": lambda r: f"{r['random_f1']:.3f}",
}


_RULES = {
    "rule": lambda r: r["rule"],
    "event": lambda r: r["event"],
    "within": lambda r: f"{r['tolerance']}",
    "precision": lambda r: f"{r['precision']:.3f}",
    "recall": lambda r: f"{r['recall']:.3f}",
    "F1": lambda r: f"{r['f1']:.3f}",
}


def _table(records: list[dict[str, Any]], columns: dict[str, Any]) -> list[str]:
    head = "| " + " | ".join(columns) + " |"
    rows = ["| " + " | ".join(column(record) for column in columns.values()) + " |" for record in records]
    return [head, "|" + "---|" * len(columns), *rows]


def _constants(records: list[dict[str, Any]]) -> list[str]:
    """What the figures of rows are of; rows that were measured on the same lines together."""
    rows: dict[str, list[str]] = {}
    for record in records:
        test = record["test"]
        of = f"{test['lines']} lines, {test['steps']} scored steps, ln(sx sy) = {test['log_scale']:.4f}"
        rows.setdefault(of, []).append(record["name"])
    said = "a step's value in raw units is its value here minus that logarithm"
    return [f"- {of}; {said}: {', '.join(names)}." for of, names in rows.items()]
