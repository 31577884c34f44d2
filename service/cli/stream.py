"""A completion as it comes; where the connection is cut, it is taken up again at the very character."""

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

from service.cli.client import Client
from service.cli.problems import UnreachableError

PATH = "/v1/completions"
PAUSES_S = (0.1, 0.5, 1.0, 2.0, 4.0)
SEED_BITS = 53


def pieces(client: Client, body: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the choice of each event that has one, and the event.

    A server that goes away in the middle is asked again, or the one that took its place: with the same seed it goes on
    with the same characters.

    Raises:
        RefusedError: the server said no.
        UnreachableError: there is none, or none came back in some seconds.
    """
    fixed = {"seed": secrets.randbits(SEED_BITS), **body}
    num_told, pauses, cut = 0, list(PAUSES_S), None
    while True:
        try:
            for event in client.events(PATH, fixed | ({"resume_at": num_told} if num_told else {})):
                for choice in event["choices"]:
                    num_told, pauses, cut = num_told + len(choice["text"]), list(PAUSES_S), None
                    yield choice, event
        except UnreachableError as error:
            cut = cut or error  # what broke the stream says more than that nobody answers since
            if not num_told or not pauses:
                raise cut from None
            time.sleep(pauses.pop(0))
        else:
            return
