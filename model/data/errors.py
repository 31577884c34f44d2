"""The error that all readers of data raise."""


class DataError(Exception):
    """A file of data is missing, damaged or of another kind.

    The message is one sentence that names the file and says what was expected.
    """
