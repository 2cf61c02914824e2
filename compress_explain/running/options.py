"""How much a run attributes of its changes."""

from __future__ import annotations

from dataclasses import dataclass

from compress_explain.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """How much of validation a run attributes its changes on: ``rows`` for the shares, and of right answers that went wrong so many ``flips``.

    0 rows attribute nothing, 0 flips explain none.
    """

    rows: int = 128
    flips: int = 48

    def __post_init__(self) -> None:
        for name in ("rows", "flips"):
            if getattr(self, name) < 0:
                raise InputError(f"attribution.{name}", getattr(self, name), "below 0", "0 attributes nothing")
