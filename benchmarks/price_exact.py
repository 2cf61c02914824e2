"""What it costs to be exact: leaving out one component after the other, and an audit that reuses what it can."""

from __future__ import annotations

import numpy as np
import pandas as pd
import peers
from clock import Action, Timing, interleaved
from figures import Bar, Row, beside
from price_cost import evaluate, pricing
from subjects import SEED, Case

from compress_explain.data.examples import Examples
from compress_explain.pricing.audit import Sample, audit
from compress_explain.pricing.plain import plain_loss_change

FEW_ROWS = 256
NAIVE = 200  # components that are left out one by one
MIXED = Sample(heads=18, neurons=18, linears=18, sublayers=None, layers=None)  # 66 edits of four layers, 72 of six


def naive(case: Case, repeats: int) -> list[Row]:
    """Pricing all heads and neurons against leaving each out: some of them are timed and the rest reckoned."""
    few = case.examples.draw(FEW_ROWS, SEED)
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
        ("one by one", loop, len(drawn) + 1, Bar(1000) if len(everything) > 9000 else None),  # and once as it is
        ("Captum's ablation", captum, len(sites), None),
    ]
    facts = {"case": case.name, "rows": len(few), "components": len(everything)}
    return [facts | _reckoned(what, timing, runs, len(everything), ours, bar) for what, timing, runs, bar in timings]


def _reckoned(what: str, timing: Timing, runs: int, components: int, ours: Timing, bar: Bar | None) -> Row:
    """What all components would take, from ``runs`` of the model or as many components priced at once."""
    times, in_cpu = (
        each.median / runs * components / own.median for each, own in ((timing, ours), (timing.cpu, ours.cpu))
    )
    return {
        "what": what,
        "timed": runs,
        "seconds each": timing.median / runs,
        "evaluations each": timing.ratio / runs,
        "seconds for all": timing.median / runs * components,
        "times ours": times,
        **beside(times, bar),
        "in CPU time": in_cpu,
    }


def reuse(case: Case, repeats: int) -> list[Row]:
    """An audit that reuses what comes before an edit against one that runs the whole model, number by number.

    An audit also linearises its edits, with reuse and without; how long that takes is told beside it.

    Raises:
        AssertionError: a number differs.
    """
    few = case.examples.draw(FEW_ROWS, SEED)
    prices = pricing(case, few, "heads,neurons,linears:int8,sublayers,layers")()
    chosen = MIXED.of(prices)
    frames: dict[bool, pd.DataFrame] = {}

    def audited(reused: bool) -> None:
        frames[reused] = audit(case.masks, few, prices, MIXED, batch_size=case.batch_size, reuse=reused).frame

    steps = {
        "with": lambda: audited(True),
        "without": lambda: audited(False),
        "linear": lambda: plain_loss_change(case.masks, few, chosen, case.batch_size),
    }
    timings = interleaved(steps, lambda: evaluate(case, few), repeats)
    pd.testing.assert_frame_equal(frames[True], frames[False], check_exact=True)
    fast, slow, linear = (timings[name] for name in steps)
    gain = fast.gain(slow)
    return [
        {"case": case.name, "rows": len(few), "edits": len(chosen)}
        | {"evaluations, with reuse": fast.ratio, "without": slow.ratio}
        | {"times faster": gain, **beside(gain, Bar(1.6)), "in CPU time": fast.cpu.gain(slow.cpu)}
        | {"to linearise": linear.ratio, "times faster but for that": fast.less(linear).gain(slow.less(linear))}
        | {"numbers": "identical"}
    ]


def _timed(case: Case, few: Examples, action: Action, repeats: int) -> Timing:
    return interleaved({"it": action}, lambda: evaluate(case, few), repeats)["it"]


def _of_two_sites(case: Case) -> list[str]:
    """The heads of the first layer and as many of its neurons: Captum runs the model twice more a site."""
    groups = list(case.masks.anatomy.groups.values())[:2]
    count = min(12, *(group.count for group in groups))
    return [component for group in groups for component in group.components[:count]]
