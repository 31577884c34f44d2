"""What can go wrong when bundles are made and checked. Each message is one sentence that can be shown as it is.

BundleError            a folder is not a bundle, or cannot become one (export/bundle/fields.py, so that the
                       service can read bundles without the rest of the exporter)
ExportError            a network cannot be exported, or a bundle cannot be turned back into a network
  ParityError          the exported files do not compute what the network computes
TraceError             there is not enough data to make a trace of
VerifyError            a bundle is whole, but does not do what its manifest and its parity report say
"""

from collections.abc import Mapping
from typing import Any


class ExportError(Exception):
    """A network cannot be exported as it is, or a bundle cannot be restored; the message says why and what to do."""


class ParityError(ExportError):
    """The exported files do not compute what the network computes, so nothing was written.

    Attributes:
        report: the whole parity report.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        super().__init__("parity failed, so no bundle was written: " + "; ".join(report["reasons"]))
        self.report = report


class TraceError(Exception):
    """The data given is too short to make a trace of."""


class VerifyError(Exception):
    """A bundle is whole, but it is not what it says it is."""
