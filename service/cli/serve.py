"""copyist serve: run the service until a signal ends it."""

from typing import Annotated

import typer


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (COPYIST_HOST).", show_default=False)] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 takes a free one (COPYIST_PORT).", show_default=False)
    ] = None,
) -> None:
    """Serve the bundles over HTTP until Ctrl-C or SIGTERM; `copyist doctor` lists every setting.

    For example:

        copyist serve --port 9000

        COPYIST_BUNDLES=my-bundles copyist serve
    """
    from service.__main__ import main

    arguments = [*(["--host", host] if host is not None else []), *(["--port", str(port)] if port is not None else [])]
    raise typer.Exit(main(arguments))
