"""A finished run reduced to what the report says about single parts, with made-up prices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from compress_explain.pricing import Audit, Prices
from compress_explain.pricing.impact import IMPACTS


def known_run(
    heads: tuple[int, int] | None,
    neurons: tuple[int, int] | None,
    slices: dict[str, int],
    kind: str = "head",
    seed: int = 0,
) -> Any:
    """Layers x components of each kind; the first component of each group is removed, the second restored."""
    draw = np.random.default_rng(seed)
    groups: dict[str, dict[str, Any]] = {}
    for shape, sublayer, name in ((heads, "attention", kind), (neurons, "ffn", "neuron")):
        for layer in range(shape[0] if shape else 0):
            group = f"encoder.layer.{layer}.{sublayer}.{'group' if name == 'kv_group' else name}"
            groups[group] = {"name": group, "kind": name, "count": shape[1]}
    components = [f"{name}.{index}" for name, group in groups.items() for index in range(group["count"])]
    kinds = [group["kind"] for group in groups.values() for _ in range(group["count"])]
    shape = (len(slices), len(components))
    loss = draw.standard_t(2, shape) * 0.003
    values = {impact: np.abs(loss) * 0.8 for impact in IMPACTS} | {"loss_change": loss}
    prices = Prices(
        components=tuple(components),
        kinds=tuple(kinds),
        edits=("remove",) * len(components),
        slices=tuple(slices),
        counts=tuple(slices.values()),
        values=values,
        standard_error=np.abs(draw.normal(0.002, 0.001, shape)),
        parameters=np.full(len(components), 10),
        flops=np.full(len(components), 20),
        bytes=np.full(len(components), 40),
        methods=("linear",) * len(components),
        flow=draw.random(len(components)),
    )
    status = [{"0": "removed", "1": "restored"}.get(name.rpartition(".")[2], "kept") for name in components]
    return SimpleNamespace(
        prices=prices,
        anatomy={"groups": groups},
        components=pd.DataFrame({"component": components, "status": status}),
        audit=None,
        summary={"splits": {"calibration": {"rows": prices.counts[0]}}},
    )


def audit_of(run: Any, miss: float = 0.2, seed: int = 1) -> Audit:
    """Every edit audited, exact within a share ``miss`` of what was expected."""
    frame = run.prices.to_frame()
    noise = np.random.default_rng(seed).normal(1.0, miss, len(frame))
    exact = {f"exact_{impact}": frame[f"expected_{impact}"] * noise for impact in IMPACTS}
    bare = frame["expected_loss_change"]
    return Audit(frame=frame.assign(**exact, exact_loss_change_se=0.001, linear_loss_change=bare))
