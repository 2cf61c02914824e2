"""What it costs to be exact: leaving out one component after the other, and an audit that reuses what it can."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
import pandas as pd
import peers
from clock import Action, Timing, interleaved
from figures import Bar, Row, beside
from price_cost import evaluate, pricing
from subjects import SEED, Case, some_of

from compress_explain.examples import Examples
from compress_explain.pricing.audit import Sample, audit
from compress_explain.pricing.work import Auditing

FEW_ROWS = 256
NAIVE = 200  # components that are left out one by one
MIXED = Sample(heads=18, neurons=18, linears=18, sublayers=None, layers=None)  # 66 edits of four layers, 72 of six


def naive(case: Case, repeats: int) -> list[Row]:
    """Pricing all heads and neurons against leaving each out: some of them are timed and the rest reckoned."""
    few = some_of(case.examples, FEW_ROWS)
    prices = pricing(case, few, "heads,neurons")
    everything = prices().components
    how = {"loss": case.loss, "batch_size": case.batch_size}
    drawn = np.random.default_rng(SEED).choice(everything, min(NAIVE, len(everything)), replace=False).tolist()
    sites = _of_two_sites(case)
    ours = _timed(case, few, prices, repeats)
    loop = _timed(case, few, lambda: peers.leave_one_out(case.masks, few, components=drawn, **how), 1)
    captum = _timed(case, few, lambda: peers.captum(case.masks, few, components=sites, **how), 1)
    timings = [
        ("price heads + neurons", ours, len(everything), None),
        ("one by one", loop, len(drawn), Bar(1000) if len(everything) > 9000 else None),
        ("Captum's ablation", captum, len(sites), None),
    ]
    rows = []
    for what, timing, count, bar in timings:
        reckoned = timing.median / count * len(everything)
        facts = {"case": case.name, "rows": len(few), "what": what, "components timed": count}
        each = {"seconds each": timing.median / count, "evaluations each": timing.ratio / count}
        against = {"seconds for all": reckoned, "times ours": reckoned / ours.median}
        rows.append(facts | each | {"components": len(everything)} | against | beside(reckoned / ours.median, bar))
    return rows


def reuse(case: Case, repeats: int) -> list[Row]:
    """An audit that reuses what comes before an edit against one that runs the whole model, number by number.

    An audit also linearises its edits once more; the second row is of making the edits alone.

    Raises:
        AssertionError: a number differs.
    """
    few = some_of(case.examples, FEW_ROWS)
    prices = pricing(case, few, "heads,neurons,linears:int8,sublayers,layers")()
    chosen = MIXED.of(prices)

    def audited(reused: bool) -> pd.DataFrame:
        return audit(case.masks, few, prices, MIXED, batch_size=case.batch_size, reuse=reused).frame

    def made(reused: bool) -> None:
        work = Auditing(masks=case.masks, examples=few, candidates=chosen, batch_size=case.batch_size, reuse=reused)
        for shard in range(work.shards):
            work.run(shard)

    pd.testing.assert_frame_equal(audited(True), audited(False), check_exact=True)
    rows = []
    for what, step, bar in (("audit", audited, Bar(1.6)), ("its edits alone", made, None)):
        fast, slow = _with_and_without(case, few, step, repeats)
        gain = statistics.median(b / a for a, b in zip(fast.seconds, slow.seconds, strict=True))
        facts = {"case": case.name, "rows": len(few), "edits": len(chosen), "what": what, "seconds": fast.median}
        each = {"evaluations an edit": fast.ratio / len(chosen), "without reuse": slow.ratio / len(chosen)}
        rows.append(facts | each | {"times faster": gain, **beside(gain, bar), "numbers": "identical"})
    return rows


def _with_and_without(case: Case, few: Examples, step: Callable[[bool], object], repeats: int) -> tuple[Timing, Timing]:
    steps = {"with": lambda: step(True), "without": lambda: step(False)}
    timings = interleaved(steps, lambda: evaluate(case, few), repeats)
    return timings["with"], timings["without"]


def _timed(case: Case, few: Examples, action: Action, repeats: int) -> Timing:
    return interleaved({"it": action}, lambda: evaluate(case, few), repeats)["it"]


def _of_two_sites(case: Case) -> list[str]:
    """The heads of the first layer and as many of its neurons: Captum runs the model twice more a site."""
    groups = list(case.masks.anatomy.groups.values())[:2]
    count = min(12, *(group.count for group in groups))
    return [component for group in groups for component in group.components[:count]]
