"""Where `copyist` and `python -m service.cli` start.

A Ctrl-C that comes while a command is being loaded ends it without a traceback, with code 130. `copyist serve` is the
service, which ends with code 0 on Ctrl-C and on SIGTERM, whenever they come.
"""

import signal
import sys

from service.cli.problems import INTERRUPTED
from service.server import stop_signals


def main() -> None:
    """Load the commands, run the one that the process's arguments name, and exit with its code."""
    ctrl_c = signal.getsignal(signal.SIGINT)
    is_service = sys.argv[1:2] == ["serve"]
    if is_service:
        stop_signals.exit_at_once()
    elif ctrl_c is not signal.SIG_IGN:  # a shell has it ignored in what it runs in the background
        stop_signals.exit_at_once(INTERRUPTED, (signal.SIGINT,))
    from service.cli.main import main as run

    try:
        if not is_service:  # a command cleans up after itself, so from here on Ctrl-C is an exception
            signal.signal(signal.SIGINT, ctrl_c)
        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        stop_signals.ignore()


if __name__ == "__main__":
    main()
