"""The bundles in the repository are sound, proved, small enough for git, and say what a user has to know."""

from pathlib import Path

import pytest

from export.bundle import folder as bundle
from export.checks.verify import verify

ROOT = Path(__file__).parent.parent.parent
# What is served by default, and what is there to be studied and trained on.
SHIPPED = sorted(
    path.parent for path in (*ROOT.glob("service/bundles/*/bundle.json"), *ROOT.glob("bundles/*/bundle.json"))
)
MAX_BYTES = 16 * 2**20


# With no bundle there, pytest skips these tests and says that the list is empty.
shipped = pytest.mark.parametrize("folder", SHIPPED, ids=[path.name for path in SHIPPED])


@shipped
def test_it_verifies(folder: Path) -> None:
    """Everything that can be checked without the checkpoint holds on this machine too."""
    assert len(verify(folder)) == 9


@shipped
def test_it_says_what_a_user_has_to_know(folder: Path) -> None:
    """Name, data, licence, use; figures of this very file; healthy boundaries."""
    loaded = bundle.load(folder)
    assert loaded.name == folder.name
    assert loaded.description
    assert sum(len(content) for content in loaded.files.values()) <= MAX_BYTES
    assert not any("not known" in str(loaded.data[key]) for key in ("name", "licence", "use"))
    assert bundle.LICENCE_FILE in loaded.files
    figure = "test_bpc" if loaded.kind == "text" else "test_nats_per_line"
    assert {figure, "z_rates", "cell_work_share", "data_version"} <= set(loaded.metrics)
    assert all(0.02 <= rate <= 0.6 for rate in loaded.metrics["z_rates"])
    assert 0 < loaded.metrics["cell_work_share"] < 1
