from typing import Any

from service.engine.operations import Hierarchy


def work(hierarchy: Hierarchy, trace: bytes) -> dict[str, Any]:
    """Return what the network did in some steps, and what it was spared."""
    return {
        "steps": len(trace),
        "layer_updates": hierarchy.updates(trace),
        "operations": hierarchy.counts(trace),
        "work_spared": round(hierarchy.work_spared(trace), 6),
    }
