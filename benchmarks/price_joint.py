"""What is expected of a whole plan, and what was then observed."""

from __future__ import annotations

import numpy as np
from figures import Row
from scipy.special import log_softmax
from subjects import Case

from compress_explain.comparison.predictions import pair, predict
from compress_explain.data.examples import ALL
from compress_explain.pricing import Joint, Prices, expected_joint, observed_joint, price

SHARES = (0.1, 0.2, 0.3)  # of the layers' FLOPs
STRENGTHS = {"half-way": 0.5, "at the start": 0.0}


def joint(case: Case) -> list[Row]:
    """Plans that take out the cheapest KL a FLOP, chosen on other rows; one row a plan x way to expect."""
    assert case.calibration is not None
    prices = price(case.masks, case.calibration, batch_size=case.batch_size)
    rows = []
    for share in SHARES:
        plan = cheapest(prices, share * case.masks.anatomy.flops)
        rows += _of_plan(case, plan, share)
    return rows


def cheapest(prices: Prices, flops: float) -> list[str]:
    """Components in the order of expected KL a FLOP, until the next would save more than ``flops``."""
    order = np.argsort(prices.values["kl"][0] / prices.flops, kind="stable")
    fit = np.cumsum(prices.flops[order]) <= flops
    return [prices.components[index] for index in order[fit]]


def _of_plan(case: Case, plan: list[str], share: float) -> list[Row]:
    masks, examples, size = case.masks, case.examples, case.batch_size
    before = predict(case.model, examples, size)
    masks.remove(plan)
    with masks:
        after = predict(case.model, examples, size)
    masks.restore(plan)
    start = pair(examples, before, before)
    observed = observed_joint(start, pair(examples, before, after))
    nll = float(-log_softmax(before.astype(np.float64), axis=1)[np.arange(len(examples)), examples.labels].mean())
    rows = []
    for how, strength in STRENGTHS.items():
        expected = expected_joint(masks, examples, plan, before, size, strength=strength)[ALL]
        facts = {"case": case.name, "share of FLOPs": share, "components": len(plan), "slope": how}
        rows.append(facts | _compared(nll, expected, observed))
    return rows


def _compared(nll: float, expected: Joint, observed: Joint) -> Row:
    error = expected.loss_change - observed.loss_change
    return {
        "NLL before": nll,
        "NLL expected": nll + expected.loss_change,
        "NLL observed": nll + observed.loss_change,
        "error of NLL": abs(error) / (nll + observed.loss_change),
        "change expected": expected.loss_change,
        "change observed": observed.loss_change,
        "error of change": abs(error / observed.loss_change) if observed.loss_change else float("nan"),
        "KL expected": expected.kl,
        "KL observed": observed.kl,
        "to wrong expected": expected.flips_to_wrong,
        "to wrong observed": observed.flips_to_wrong,
        "to right expected": expected.flips_to_right,
        "to right observed": observed.flips_to_right,
    }
