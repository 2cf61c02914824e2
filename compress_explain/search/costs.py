"""What a model takes in a state, as shares of the original: FLOPs, parameters, bytes of the file, work, and milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from compress_explain.choosing.latency_table import LatencyTable
from compress_explain.choosing.meters import FLOAT_BYTES, Storage
from compress_explain.choosing.target import Target
from compress_explain.model.anatomy import Anatomy, Removed
from compress_explain.model.embedding import TOKENS
from compress_explain.search.options import AIMS, By


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Shares of the original in [0, 1]; ``milliseconds`` are what one call is foretold to take, None without a target.

    ``work`` is the FLOPs that in float32 take as long as what is left; ``milliseconds_allowed`` is what the target gives
    to the runtime that the pipeline is deployed in.
    """

    flops: float
    parameters: float
    bytes: float
    work: float
    milliseconds: float | None = None
    milliseconds_allowed: float | None = None

    def of(self, by: By) -> float:
        """What counts as cost."""
        value = getattr(self, by)
        assert value is not None, "milliseconds are counted with a target only"
        return float(value)

    def beyond(self, aims: Mapping[str, float]) -> float:
        """By which share the aim that is missed most is missed, the target among them; 0 when all are met."""
        missed = [getattr(self, name.removesuffix("_kept")) / aims[name] - 1 for name in AIMS if name in aims]
        if self.milliseconds is not None and self.milliseconds_allowed is not None:
            missed.append(self.milliseconds / self.milliseconds_allowed - 1)
        return max(0.0, *missed) if missed else 0.0

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def cost_of(
    anatomy: Anatomy,
    removed: Removed,
    quantized: Mapping[str, tuple[float, float]],
    storage: Storage,
    latency: LatencyTable | None,
    target: Target | None,
) -> Cost:
    """``removed`` is what is gone; ``quantized`` has for each linear the bytes and the work that its edit saves."""
    parameters, flops = anatomy.saved(removed)
    narrowed = sum(each for each, _ in quantized.values()) + _table(anatomy, removed) * (1 - storage.table_bits / 32)
    weights = FLOAT_BYTES * anatomy.parameters
    return Cost(
        flops=1 - flops / anatomy.flops,
        parameters=1 - parameters / anatomy.parameters,
        bytes=(weights - FLOAT_BYTES * parameters - narrowed) / weights,
        work=1 - (flops + sum(each for _, each in quantized.values())) / anatomy.flops,
        milliseconds=None if latency is None else latency.predict(removed),
        milliseconds_allowed=None if latency is None or target is None else target.milliseconds(latency),
    )


def _table(anatomy: Anatomy, removed: Removed) -> float:
    """Bytes in float32 of what is left of the token embedding."""
    if anatomy.embedding is None:
        return 0.0
    rows = anatomy.embedding.count - (int(removed[TOKENS].sum()) if TOKENS in removed else 0)
    return float(FLOAT_BYTES * rows * anatomy.embedding.parameters)
