"""Many classes: following the likeliest ones, against random projections of all with as many backward passes."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from clock import interleaved
from figures import Row
from price_cost import evaluate
from price_quality import MEMBERS, agreement
from subjects import Case

from compress_explain.pricing import Prices, Refinement, price, read_menu
from compress_explain.pricing.audit import Sample, audit

PROJECTIONS = 15


def classes(case: Case, neurons: int, repeats: int) -> tuple[list[Row], list[Row]]:
    """What either way costs, and its Spearman with the exact loss change, slice by slice."""
    ways = _ways(case)
    timings = interleaved(ways, lambda: evaluate(case, case.examples), repeats)
    facts = {"case": case.name, "classes": case.classes}
    costs = [
        facts | {"way": way, "seconds": each.median, "evaluations": each.ratio, "in CPU time": each.cpu.ratio}
        for way, each in timings.items()
    ]
    tables = {way: make() for way, make in ways.items()}
    first = next(iter(tables.values()))
    sample = Sample(neurons=neurons)
    exact = audit(case.masks, case.examples, first, sample, batch_size=case.batch_size).frame
    exact = exact[exact["n"] >= MEMBERS]
    rows = []
    for (kind, slice_name), part in exact.groupby(["kind", "slice"], sort=False):
        facts = {"case": case.name, "kind": kind, "slice": slice_name, "n": int(part["n"].iloc[0]), "edits": len(part)}
        rows.append(facts | {way: _agreement(prices, part, slice_name) for way, prices in tables.items()})
    return costs, rows


def _ways(case: Case) -> dict[str, Callable[[], Prices]]:
    how = {"menu": read_menu(case.masks.anatomy, "heads,neurons"), "batch_size": case.batch_size}
    return {
        "15 likeliest and the rest": lambda: price(case.masks, case.examples, **how),
        "the same, heads two-phase": lambda: price(case.masks, case.examples, refinement=Refinement(), **how),
        f"{PROJECTIONS} projections": lambda: price(case.masks, case.examples, projections=PROJECTIONS, **how),
    }


def _agreement(prices: Prices, exact: pd.DataFrame, slice_name: str) -> float:
    expected = dict(zip(prices.components, prices.loss_change(slice_name), strict=True))
    return agreement(exact["component"].map(expected).to_numpy(), exact["exact_loss_change"].to_numpy())
