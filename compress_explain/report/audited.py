"""How good the prices are: single edits made one by one, beside what was expected of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from compress_explain.data.examples import ALL
from compress_explain.pricing import Audit
from compress_explain.report.labels import plural
from compress_explain.report.numbers import correlation, count, plain, share, small
from compress_explain.report.scatter import Points, Scatter, scatter
from compress_explain.stats import bootstrap_rows

if TYPE_CHECKING:
    from compress_explain.record.outcome import Run

_WORST = 5
_RESAMPLES = 2000
_ORDERED, _ROUGHLY = 0.9, 0.7  # rank correlations
_SIZED = (0.8, 1.25)  # slopes
_SHAPES = {"linear": "dot", "two-phase": "diamond", "exact": "square"}
_METHODS = {
    "linear": "linearised",
    "two-phase": "linearised, exact where in doubt",
    "exact": "exact (the bare linearisation is shown)",
}
_WHOLES = ("sublayer", "layer")
_SPOKEN = {"expected_loss_change": "expected loss change", "linear_loss_change": "bare linearisation of it"}


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well an expectation foretold the exact loss change of one kind; figures are written out."""

    what: str
    method: str
    edits: int
    priced: int | None
    spearman: str
    pearson: str
    same_sign: str
    slope: str
    error: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One kind: its scatter and what it comes to."""

    what: str
    figure: Scatter
    caption: str


@dataclass(frozen=True, kw_only=True)
class SliceRanks:
    """The rank correlations on one slice, one a kind."""

    slice: str
    n: int
    spearman: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Audited:
    """The section; empty panels when nothing was audited."""

    n: int
    split: str
    whole: bool
    sentences: tuple[str, ...]
    shapes: tuple[tuple[str, str], ...]
    panels: tuple[Panel, ...]
    agreements: tuple[Agreement, ...]
    worst: tuple[dict[str, Any], ...]
    kinds: tuple[str, ...]
    ranks: tuple[SliceRanks, ...]


def audited(run: Run) -> Audited | None:
    """None when no audit was made."""
    audit = run.audit
    if audit is None:
        return None
    overall = audit.labelled[audit.labelled["slice"] == ALL]
    quality = audit.quality()
    kinds = tuple(dict.fromkeys(overall["what"]))
    by_kind = {what: overall[overall["what"] == what] for what in kinds}
    drawn = {what: part for what, part in by_kind.items() if np.isfinite(part[_expected(what)]).any()}
    priced = pd.Series(run.prices.kinds).value_counts().to_dict()
    n = int(overall["n"].iloc[0])
    rows = run.summary["splits"]["calibration"]["rows"]
    methods = tuple(method for method in _METHODS if method in set(overall["method"]))
    return Audited(
        n=n,
        split="calibration",
        whole=n == rows,
        sentences=tuple(_verdict(what, part, _of(quality, what)) for what, part in by_kind.items()),
        shapes=tuple((_SHAPES[method], _METHODS[method]) for method in methods),
        panels=tuple(_panel(index, what, part) for index, (what, part) in enumerate(drawn.items())),
        agreements=tuple(each for what in kinds for each in _agreements(audit, what, by_kind[what], priced)),
        worst=_worst(audit),
        kinds=tuple(plural(what) for what in kinds if what not in _WHOLES),
        ranks=_ranks(quality, tuple(what for what in kinds if what not in _WHOLES)),
    )


def _expected(what: str) -> str:
    """What is drawn: whole sublayers and layers are priced exactly, so their bare linearisation is."""
    return "linear_loss_change" if what in _WHOLES else "expected_loss_change"


def _of(quality: pd.DataFrame, what: str, slice_name: str = ALL) -> dict[str, Any]:
    rows: list[dict[str, Any]] = quality[(quality["what"] == what) & (quality["slice"] == slice_name)].to_dict(
        "records"
    )  # type: ignore[assignment]
    return rows[0]


def _verdict(what: str, part: pd.DataFrame, quality: dict[str, Any]) -> str:
    name = plural(what)
    if what in _WHOLES:
        return _verdict_on_wholes(name, part)
    if not math.isfinite(quality["spearman"]):
        return f"{name.capitalize()}: too few edits, or too much alike, to say how good their prices are."
    rank = round(quality["spearman"], 2)
    order = (
        "in the right order"
        if rank >= _ORDERED
        else "roughly in the right order"
        if rank >= _ROUGHLY
        else "not in the right order"
    )
    interval = (
        ""
        if not math.isfinite(quality["low"])
        else f", 95% interval {correlation(quality['low'])} to {correlation(quality['high'])}"
    )
    told = f"Spearman {correlation(quality['spearman'])}{interval}, {count(len(part))} edits"
    return f"The price puts {name} {order} ({told}){_size(part, quality)}"


def _size(part: pd.DataFrame, quality: dict[str, Any]) -> str:
    slope, (low, high) = quality["slope"], _resampled(part, "expected_loss_change")[1]
    told = f"({plain(low, 2)} to {plain(high, 2)})"
    if _SIZED[0] <= slope <= _SIZED[1]:
        return f", and at about the right size: slope {plain(slope, 2)} {told}."
    if slope > _SIZED[1]:
        return f", but too cheap: they cost {plain(slope, 2)} times as much {told}."
    return f", but too dear: they cost {plain(slope, 2)} times as much {told}."


def _verdict_on_wholes(name: str, part: pd.DataFrame) -> str:
    miss = (part["linear_loss_change"] - part["exact_loss_change"]).abs().mean()
    size = part["exact_loss_change"].abs().mean()
    if not math.isfinite(miss):
        return f"Whole {name} are priced by removing them, so their price is exact."
    return (
        f"Whole {name} are priced by removing them, so their price is exact: a bare linearisation would miss by "
        f"{plain(miss, 3)} nats on average, where the exact change is {plain(size, 3)} ({count(len(part))} edits)."
    )


def _agreements(audit: Audit, what: str, part: pd.DataFrame, priced: dict[str, int]) -> list[Agreement]:
    method = str(part["method"].iloc[0])
    found = (
        []
        if what in _WHOLES
        else [_agreement(audit, what, part, "expected_loss_change", _METHODS.get(method, method), priced)]
    )
    if method != "linear" and np.isfinite(part["linear_loss_change"]).all():
        found.append(_agreement(audit, what, part, "linear_loss_change", "bare linearisation", priced))
    return found


def _agreement(
    audit: Audit, what: str, part: pd.DataFrame, expected: str, method: str, priced: dict[str, int]
) -> Agreement:
    row = _of(audit.quality(expected), what)
    pearson, slope = _resampled(part, expected)
    return Agreement(
        what=plural(what),
        method=method,
        edits=len(part),
        priced=priced.get(what),
        spearman=_with_interval(row["spearman"], row["low"], row["high"], correlation),
        pearson=_with_interval(row["pearson"], *pearson, correlation),
        same_sign=share(row["same_sign"]),
        slope=_with_interval(row["slope"], *slope, partial(plain, digits=2)),
        error=small(row["error"]),
    )


def _resampled(part: pd.DataFrame, expected: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """95% intervals of Pearson's correlation and of the slope, from edits drawn again with replacement."""
    nothing = (math.nan, math.nan)
    x, y = part[expected].to_numpy(), part["exact_loss_change"].to_numpy()
    if len(x) < 5 or not np.isfinite(x).all() or np.ptp(x) == 0 or np.ptp(y) == 0:
        return nothing, nothing
    correlations, slopes = [], []
    for rows in bootstrap_rows(len(x), _RESAMPLES, seed=0):
        dx = x[rows] - x[rows].mean(1, keepdims=True)
        dy = y[rows] - y[rows].mean(1, keepdims=True)
        both, alone, other = (dx * dy).sum(1), (dx * dx).sum(1), (dy * dy).sum(1)
        some = (alone > 0) & (other > 0)
        correlations.append(both[some] / np.sqrt(alone[some] * other[some]))
        slopes.append(both[some] / alone[some])
    ends = [np.quantile(np.concatenate(values), [0.025, 0.975]).tolist() for values in (correlations, slopes)]
    return (ends[0][0], ends[0][1]), (ends[1][0], ends[1][1])


def _panel(index: int, what: str, part: pd.DataFrame) -> Panel:
    expected = _expected(what)
    shown = part[np.isfinite(part[expected])]
    points = [
        Points(
            shape=_SHAPES.get(str(method), "dot"),
            x=mine[expected].to_numpy(),
            y=mine["exact_loss_change"].to_numpy(),
            titles=[
                f"{row.component}: expected {small(getattr(row, expected), signs=True)}, exact {small(row.exact_loss_change, signs=True)} nats"
                for row in mine.itertuples()
            ],
        )
        for method, mine in shown.groupby("method", sort=False)
    ]
    name = plural(what)
    description = "One mark an edit, at its expected and its exact loss change in nats; on the diagonal they are equal."
    figure = scatter(
        f"audit-{index}",
        f"{name.capitalize()}: exact against expected loss change",
        description,
        _SPOKEN[expected],
        points,
    )
    return Panel(what=name, figure=figure, caption=f"{count(len(part))} edits")


def _worst(audit: Audit) -> tuple[dict[str, Any], ...]:
    frame = audit.worst(len(audit.frame))
    frame = frame[frame["method"] != "exact"].head(_WORST)
    rows: list[dict[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]
    return tuple(
        {
            "component": row["component"],
            "expected": small(row["expected_loss_change"], signs=True),
            "exact": small(row["exact_loss_change"], signs=True),
            "low": small(row["exact_loss_change"] - 1.96 * row["exact_loss_change_se"], signs=True),
            "high": small(row["exact_loss_change"] + 1.96 * row["exact_loss_change_se"], signs=True),
            "miss": small(row["miss"], signs=True),
        }
        for row in rows
    )


def _ranks(quality: pd.DataFrame, kinds: tuple[str, ...]) -> tuple[SliceRanks, ...]:
    names = [name for name in dict.fromkeys(quality["slice"]) if name != ALL and kinds]
    found = []
    for name in names:
        rows = [_of(quality, what, name) for what in kinds]
        told = tuple(_with_interval(row["spearman"], row["low"], row["high"], correlation) for row in rows)
        found.append(SliceRanks(slice=name, n=rows[0]["n"], spearman=told))
    return tuple(found)


def _with_interval(value: float, low: float, high: float, shown: Callable[[float], str]) -> str:
    return shown(value) + (f" ({shown(low)} to {shown(high)})" if math.isfinite(value) and math.isfinite(low) else "")
