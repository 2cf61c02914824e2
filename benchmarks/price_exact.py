"""What it costs to be exact: leaving out one component after the other, and an audit that reuses what it can."""

from __future__ import annotations

import numpy as np
import pandas as pd
import peers
from clock import interleaved
from figures import Bar, Row, beside
from price_cost import evaluate, pricing
from subjects import SEED, Case, some_of

from compress_explain.examples import Examples
from compress_explain.pricing.audit import Audit, Sample, audit

FEW_ROWS = 256
NAIVE = 200  # components that are left out one by one
MIXED = Sample(heads=18, neurons=18, linears=18, sublayers=None, layers=None)  # 66 edits of four layers, 72 of six


def naive(case: Case, repeats: int) -> list[Row]:
    """Pricing all heads and neurons against leaving each out, some of them timed and the rest reckoned."""
    few = some_of(case.examples, FEW_ROWS)
    prices = pricing(case, few, "heads,neurons")
    how = {"loss": case.loss, "batch_size": case.batch_size}
    one_by_one, of_two_sites = _drawn(case), _of_two_sites(case)
    steps = {
        "one by one": (lambda: peers.leave_one_out(case.masks, few, components=one_by_one, **how), len(one_by_one)),
        "Captum's ablation": (lambda: peers.captum(case.masks, few, components=of_two_sites, **how), len(of_two_sites)),
    }
    ours = interleaved({"ours": prices}, lambda: evaluate(case, few), repeats)["ours"]
    components = len(prices().components)
    rows = [_naive_row(case, few, "price heads + neurons", components, ours.median / components, ours.ratio / components)]
    for what, (step, count) in steps.items():
        timing = interleaved({what: step}, lambda: evaluate(case, few), 1)[what]
        rows.append(_naive_row(case, few, what, count, timing.median / count, timing.ratio / count))
    for row in rows:
        row["seconds for all"] = row["seconds each"] * components
        row["times ours"] = row["seconds for all"] / ours.median
        bar = Bar(1000) if row["what"] == "one by one" and components > 9000 else None
        row |= beside(row["times ours"], bar)
    return rows
