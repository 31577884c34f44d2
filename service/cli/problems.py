"""What ends a command early, each with its exit code; the message is the one sentence that goes to standard error.

    CommandError
    ├── RefusedError      1    the server said no, and why
    ├── UsageError        2    the command cannot be what was meant
    └── UnreachableError  3    there is no service to ask, or it went away

0 is success, and 130 an end by Ctrl-C.
"""

from typing import ClassVar

OK, INTERRUPTED = 0, 130


class CommandError(Exception):
    """Base of what ends a command."""

    exit_code: ClassVar[int] = 1


class RefusedError(CommandError):
    """The server answered with an error, or a check that was asked for failed."""


class UsageError(CommandError):
    """The arguments, the settings or the files named by them will not do."""

    exit_code = 2


class UnreachableError(CommandError):
    """No service answers, the one in this process cannot start, or the connection was lost."""

    exit_code = 3
