"""How well a price foretells what leaving a component out really does, beside what others rank by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import peers
from figures import Bar, Row, beside
from scipy.stats import spearmanr
from subjects import Case

from compress_explain.data.examples import ALL
from compress_explain.pricing import Refinement, price, read_menu
from compress_explain.pricing.audit import Audit, Sample, audit

MENU = "heads,neurons,linears:int8,linears:int4,sublayers,layers"
MEMBERS = 40  # a smaller slice is not judged
_OURS, _LINEAR = "ours", "ours, linear only"
_REMOVED = {"head": "heads", "kv_group": "heads", "neuron": "neurons"}
_BARS = {"heads": 0.99, "neurons": 0.985, "linear int8": 0.99, "linear int4-g32": 0.97}
_HEADS_ON_A_SLICE = 0.95
_TRANSFER = 0.03  # how far below those of the first case the others may stay
_LANGUAGE_BARS = {"heads": 0.9, "neurons": 0.95}


def audited(case: Case, neurons: int) -> Audit:
    """Every edit of :data:`MENU` priced and made, of the neurons only some."""
    menu = read_menu(case.masks.anatomy, MENU)
    how = {"batch_size": case.batch_size}
    prices = price(case.masks, case.examples, menu=menu, refinement=Refinement(), **how)
    return audit(case.masks, case.examples, prices, Sample(neurons=neurons), **how)


def rankings(case: Case) -> dict[str, peers.Ranking]:
    """The scores of everyone else."""
    masks, examples = case.masks, case.examples
    how = {"loss": case.loss, "batch_size": case.batch_size}
    return {
        "Michel": peers.michel(masks, examples, **how),
        "Michel, layer norm": peers.michel(masks, examples, layers_normalised=True, **how),
        "Taylor": peers.taylor(masks, examples, **how),
        "Taylor, raw": peers.taylor(masks, examples, normalizer=None, **how),
        "magnitude": peers.magnitude(masks, examples),
        "magnitude, raw": peers.magnitude(masks, examples, normalizer=None),
    }


def removals(case: Case, result: Audit, others: dict[str, peers.Ranking]) -> tuple[list[Row], list[Row]]:
    """Spearman with the exact loss change of each removal, and with its size; one row a kind x slice."""
    signed, sizes = [], []
    for kind, slice_name, part in _removed(result.frame):
        exact = part["exact_loss_change"].to_numpy()
        scores = _scores(case, part, slice_name, others)
        facts = {"case": case.name, "kind": kind, "slice": slice_name, "n": int(part["n"].iloc[0]), "edits": len(part)}
        own = {name: agreement(values, exact) for name, values in scores.items()}
        bar = bar_of(case, kind, slice_name)
        signed.append(facts | {_OURS: own.pop(_OURS)} | beside(agreement(scores[_OURS], exact), bar) | own)
        sizes.append(facts | {name: agreement(np.abs(each), np.abs(exact)) for name, each in scores.items()})
    return signed, sizes


def margins(rows: list[Row], against: str) -> list[Row]:
    """By how much ours beats everyone else over the ``rows`` of :func:`removals`, kind by kind."""
    told = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of_kind = [row for row in rows if row["kind"] == kind]
        for name in _others(of_kind[0]):
            gaps = np.array([row[_OURS] - row[name] for row in of_kind])
            gaps = gaps[np.isfinite(gaps)]
            if len(gaps):
                facts = {"kind": kind, "against": against, "peer": name, "slices": len(gaps)}
                won = {"ours is better on": int((gaps > 0).sum()), "least margin": float(gaps.min())}
                told.append(facts | won | {"median margin": float(np.median(gaps))})
    return told


def agreement(expected: np.ndarray, exact: np.ndarray) -> float:
    """Rank correlation; not a number where there is nothing to rank."""
    if not np.isfinite(expected).all() or np.ptp(expected) == 0 or np.ptp(exact) == 0:
        return float("nan")
    return float(spearmanr(expected, exact).statistic)


def first_order(case: Case, frame: pd.DataFrame) -> pd.Series:
    """The loss change that a linearisation alone expects; to that of a language model the KL was added."""
    return frame["expected_loss_change"] - frame["expected_kl"] if case.tokenwise else frame["linear_loss_change"]


def _others(row: Row) -> list[str]:
    """The columns that are neither ours nor facts."""
    facts = {"case", "kind", "slice", "n", "edits", "bar", "met", _OURS, _LINEAR}
    return [name for name in row if name not in facts]


def _removed(frame: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Heads and neurons, slice by slice, where a slice has enough members."""
    some = frame[frame["kind"].isin(_REMOVED) & (frame["n"] >= MEMBERS)]
    for (kind, slice_name), part in some.groupby([some["kind"].map(_REMOVED), "slice"], sort=False):
        yield kind, slice_name, part


def _scores(case: Case, part: pd.DataFrame, slice_name: str, others: dict[str, peers.Ranking]) -> dict[str, np.ndarray]:
    """What each method says of the components of ``part``; NaN where it has no such slice."""
    scores = {_OURS: part["expected_loss_change"].to_numpy(), _LINEAR: first_order(case, part).to_numpy()}
    for name, ranking in others.items():
        known = ranking.scores(slice_name) if slice_name in ranking.slices else {}
        scores[name] = np.array([known.get(component, np.nan) for component in part["component"]])
    return scores


def bar_of(case: Case, what: str, slice_name: str) -> Bar | None:
    if case.name == "docstrings":
        limit = _LANGUAGE_BARS.get(what) if slice_name == ALL else None
        return None if limit is None else Bar(limit)
    limit = _BARS.get(what) if slice_name == ALL else _HEADS_ON_A_SLICE if what == "heads" else None
    if limit is None or case.name not in ("sst2", "agnews", "digits"):
        return None
    return Bar(limit if case.name == "sst2" else round(limit - _TRANSFER, 3))
