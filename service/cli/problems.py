"""Errors that end a command, each with its exit code. The message is one sentence, printed to standard error.

    CommandError
    ├── RefusedError      1    the server refused the request
    ├── UsageError        2    wrong arguments, settings or files
    └── UnreachableError  3    no service answers, or the connection was lost

0 is success, and 130 an end by Ctrl-C.
"""

from typing import ClassVar

INTERRUPTED = 130


class CommandError(Exception):
    """Base of the errors that end a command."""

    exit_code: ClassVar[int] = 1


class RefusedError(CommandError):
    """The server answered with an error, or a check that was asked for failed."""


class UsageError(CommandError):
    """The arguments, the settings, or the files that they name are wrong."""

    exit_code = 2


class UnreachableError(CommandError):
    """No service answers, the one in this process cannot start, or the connection was lost."""

    exit_code = 3
