"""What one piece of advice is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One suggestion: ``kind`` is ``bottleneck``, ``distil``, ``keep``, ``student`` or ``look``; ``evidence`` the figures behind it."""

    kind: str
    text: str
    evidence: tuple[str, ...]
