"""copyist bundles: which bundles are served, and under which terms."""

from collections.abc import Mapping
from typing import Any

import orjson
from rich.table import Table

from service.cli.client import connect
from service.cli.options import Json, Url
from service.cli.terminal import output, write_bytes

COLUMNS = ("name", "kind", "network", "figures", "data", "licence", "may be used for")
# The figures shown, with their units; --json prints all facts of a bundle.
FIGURES = {
    "test_bpc": "bits per character",
    "test_nats_per_line": "nats per line",
    "cell_work_share": "of dense work",
}


def bundles(json: Json = False, url: Url = None) -> None:
    """List the bundles that are served: kind, network, figures, data, licence and use.

    In a pipe each bundle is one line, with its columns separated by tabs.
    """
    with connect(url) as client:
        listed = client.get("/v1/models")
    screen = output()
    if json:
        write_bytes(orjson.dumps(listed) + b"\n")
    elif screen.is_terminal:
        table = Table(show_lines=True)
        for column in COLUMNS:
            table.add_column(column, no_wrap=column == "name")
        for card in listed["data"]:
            table.add_row(*_row(card))
        screen.print(table, soft_wrap=False)
    else:
        write_bytes("".join("\t".join(_row(card)) + "\n" for card in listed["data"]).encode())


def _row(card: Mapping[str, Any]) -> list[str]:
    """The cells of one bundle, none with a line break."""
    data, metrics = card["data"], card["metrics"]
    layers = "-".join(str(size) for size in card["layers"])
    network = f"{layers}, {card['parameters']:,} parameters" if layers else "none"
    figures = [f"{metrics[key]:.4g} {unit}" for key, unit in FIGURES.items() if key in metrics]
    terms = [str(data.get(key, "not known")) for key in ("name", "licence", "use")]
    return [" ".join(cell.split()) for cell in (card["id"], card["kind"], network, "; ".join(figures), *terms)]
