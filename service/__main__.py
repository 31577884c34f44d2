"""python -m service [--host HOST] [--port PORT]: run the service until a signal ends it.

Everything else is set by environment variables named COPYIST_..., see settings.py. On SIGTERM or SIGINT the service
becomes unready at once, takes nothing new, lets running requests finish for COPYIST_DRAIN_S seconds, ends what is left
with an error event and exits with code 0. A second signal ends the running requests at once. A signal that comes before
the service listens ends it on the spot, with code 0 as well.
"""

import sys
from typing import Any

from service.server import stop_signals


def main(arguments: list[str] | None = None) -> int:
    """Run the service and return its exit code.

    Args:
        arguments: without the program's name; those of the process if not given.
    """
    # Imported here and not above, so that the handlers of stop signals are in place while these are loaded.
    import argparse

    from pydantic import ValidationError

    from service.server.sockets import reserve
    from service.server.supervisor import CAN_SHARE, Supervisor, num_processes
    from service.settings import Settings
    from service.telemetry import log

    parser = argparse.ArgumentParser(prog="python -m service", description="Serve the bundles of Copyist over HTTP.")
    parser.add_argument("--host", help="address to listen on (COPYIST_HOST, else 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for a free one (COPYIST_PORT, else 8000)")
    given: dict[str, Any] = {
        key: value for key, value in vars(parser.parse_args(arguments)).items() if value is not None
    }
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for problem in error.errors():
            print(f"COPYIST_{str(problem['loc'][0]).upper()}: {problem['msg']}", file=sys.stderr)
        return 2
    count = num_processes(settings)
    if count > 1 and not CAN_SHARE:
        print("COPYIST_PROCESSES: this system can run one process of the service, not several", file=sys.stderr)
        return 2
    log.configure(settings)
    if count == 1:
        # The application is imported by the process that serves it, and the supervisor of several does not.
        from service.server.uvicorn_server import serve

        return serve(settings)
    try:
        port = reserve(settings.host, settings.port)
    except OSError as error:
        print(f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}", file=sys.stderr)
        return 1
    with port:
        return Supervisor(settings, count, port).run()


if __name__ == "__main__":
    stop_signals.exit_at_once()
    try:
        sys.exit(main())
    finally:
        stop_signals.ignore()
