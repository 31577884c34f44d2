"""A completion as it arrives. A cut connection is resumed at the character where it was cut."""

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
    """Yield each choice of each event, together with the event.

    If the connection is lost, the request is repeated with the position reached. With the same seed the server, or its
    replacement, goes on with the same characters.

    Raises:
        RefusedError: the server refused the request.
        UnreachableError: no server answers, or none came back within some seconds.
    """
    fixed = {"seed": secrets.randbits(SEED_BITS), **body}
    num_read, pauses, cut = 0, list(PAUSES_S), None
    while True:
        try:
            for event in client.events(PATH, fixed | ({"resume_at": num_read} if num_read else {})):
                for choice in event["choices"]:
                    num_read, pauses, cut = num_read + len(choice["text"]), list(PAUSES_S), None
                    yield choice, event
        except UnreachableError as error:
            cut = cut or error  # it says more than the errors of the tries after it
            if not num_read or not pauses:
                raise cut from None
            time.sleep(pauses.pop(0))
        else:
            return
