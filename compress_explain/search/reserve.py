"""How much room gates leave, in one figure that can be compared between runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

_TINY = 1e-3


def reserve(verdicts: Iterable[Mapping[str, Any]]) -> float:
    """The least slack of all verdicts, in half-widths of their intervals; minus infinity where one could not be judged.

    ``verdicts`` as a ledger holds them. Negative where a gate is not met.

    >>> reserve([{"slack": 0.01, "low": -0.02, "high": 0.02}, {"slack": 0.03, "low": -0.01, "high": 0.01}])
    0.5
    """
    found = math.inf
    for verdict in verdicts:
        if verdict["slack"] is None or verdict["low"] is None or verdict["high"] is None:
            return -math.inf
        found = min(found, verdict["slack"] / max((verdict["high"] - verdict["low"]) / 2, _TINY))
    return found


def finite(value: float) -> float | None:
    """None for what a ledger cannot hold."""
    return value if math.isfinite(value) else None
