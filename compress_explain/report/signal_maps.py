"""How alike two models arrange the same decisions, depth by depth: where the cells of maps of CKA go, and what they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compress_explain.report.charts import label_width
from compress_explain.report.numbers import count, plain
from compress_explain.report.signal_words import interval_of, layer_in_words, short_depth
from compress_explain.signals.findings import COMPRESSED, ORIGINAL, Finding
from compress_explain.signals.found import Found, has_interval

_LARGE, _SMALL = (420.0, 44.0), (150.0, 20.0)  # of a map and, at most, of a cell, in px
_NUMBERS = 32.0  # px from which a number fits a cell
_POINTED_AT = 8.0  # px from which a cell can be pointed at
_LABELLED = 28.0  # px from one label to the next, at least
_DARK = 0.55  # from which on a number is written in the colour of the page
_REFERENCE, SHADES = "reference", (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What stands along the two sides of a map, and what both are."""

    are: str
    up: str
    across: str


_DEPTHS = Axes(are="depths", up="depth of the original", across="depth of the compressed model")


@dataclass(frozen=True, kw_only=True)
class CkaCell:
    """One pair of depths; ``strength`` is how opaque its colour is, ``number`` empty where it does not fit."""

    x: float
    y: float
    strength: float
    number: str
    dark: bool
    title: str


@dataclass(frozen=True, kw_only=True)
class CkaMap:
    """Rows are the depths of one model, the first at the bottom, columns those of the other; sizes in px."""

    name: str
    title: str
    description: str
    across_is: str
    up_is: str
    width: float
    height: float
    left: float
    top: float
    grid: tuple[float, float]
    size: float
    rows: tuple[tuple[float, str], ...]
    columns: tuple[tuple[float, str], ...]
    cells: tuple[CkaCell, ...]


@dataclass(frozen=True, kw_only=True)
class CkaRow:
    """One depth of both models, and of the original with a yardstick if there is one."""

    layer: str
    both: Finding
    reference: Finding | None


@dataclass(frozen=True, kw_only=True)
class CkaSection:
    """The large map of both models, small ones of each with itself, and the same depths in figures."""

    sentence: str
    large: CkaMap
    smalls: tuple[CkaMap, ...]
    rows: tuple[CkaRow, ...]
    n: int
    key: tuple[float, ...] = SHADES


def cka_section(found: Found) -> CkaSection | None:
    """None where no map was drawn up."""
    both = [each for each in found.of("cka", "cka", model="") if math.isfinite(each.value)]
    if not both:
        return None
    within = {name: found.of("cka", "cka", model=name) for name in (ORIGINAL, COMPRESSED)}
    reference = {each.layer: each for each in found.of("cka", "cka", model=_REFERENCE) if each.layer == each.other}
    rows = tuple(
        CkaRow(layer=each.layer, both=each, reference=reference.get(each.layer))
        for each in both
        if each.layer == each.other
    )
    return CkaSection(
        sentence=_sentence(rows, found.depths),
        large=cka_map_of("cka-both", "Original and compressed", both, found.depths, large=True, axes=_DEPTHS),
        smalls=tuple(
            cka_map_of(f"cka-{name}", f"Within the {name}", own, found.depths, large=False, axes=_DEPTHS)
            for name, own in within.items()
            if own
        ),
        rows=rows,
        n=both[0].n,
    )


def _sentence(rows: Sequence[CkaRow], depths: Sequence[str]) -> str:
    told = [row.both for row in rows if has_interval(row.both)]
    if not told:
        return "No depth of the one model could be told beside the same depth of the other."
    least, last = min(told, key=lambda each: each.value), told[-1]
    sentence = f"At the last depth that both have the two arrange decisions alike to {interval_of(last, 3)}"
    if least is last or least.value == last.value:
        return f"{sentence}, n = {count(last.n)} decisions; nowhere are they less alike."
    return (
        f"{sentence}, n = {count(last.n)} decisions; they are least alike at {layer_in_words(least.layer, depths)}: "
        f"{interval_of(least, 3)}."
    )


def cka_map_of(
    name: str, title: str, findings: Sequence[Finding], depths: Sequence[str], *, large: bool, axes: Axes
) -> CkaMap:
    """Where the cells go: ``layer`` of each finding is its row, ``other`` its column, both in the order of ``depths``."""
    told = [each for each in findings if math.isfinite(each.value)]
    rows = [depth for depth in depths if any(each.layer == depth for each in told)]
    columns = [depth for depth in depths if any(each.other == depth for each in told)]
    room, most = _LARGE if large else _SMALL
    size = round(min(most, max(3.0, room / max(len(rows), len(columns)))), 1)
    labels = [short_depth(depth, depths) for depth in rows]
    left, top = (label_width(labels) + 28, 4.0) if large else (1.0, 1.0)
    foot = 44.0 if large else 2.0
    cells = tuple(
        _cell(
            each, left + columns.index(each.other) * size, top + (len(rows) - 1 - rows.index(each.layer)) * size, size
        )
        for each in told
    )
    return CkaMap(
        name=name, title=title, size=size, left=left, top=top, cells=cells,
        description=f"Rows are {axes.are}, the first at the bottom; columns are {axes.are}, the first at the left; the darker, the more alike.",
        across_is=axes.across, up_is=axes.up,
        width=round(left + len(columns) * size + 2, 1),
        height=round(top + len(rows) * size + foot, 1),
        grid=(round(len(columns) * size, 1), round(len(rows) * size, 1)),
        rows=_labels(rows, depths, size, lambda place: top + (len(rows) - 0.5 - place) * size) if large else (),
        columns=_labels(columns, depths, size, lambda place: left + (place + 0.5) * size) if large else (),
    )  # fmt: skip


def _labels(
    names: Sequence[str], depths: Sequence[str], size: float, at: Callable[[int], float]
) -> tuple[tuple[float, str], ...]:
    """Of as many depths as there is room for."""
    every = math.ceil(_LABELLED / size)
    return tuple((round(at(place), 1), short_depth(names[place], depths)) for place in range(0, len(names), every))


def _cell(finding: Finding, x: float, y: float, size: float) -> CkaCell:
    strength = min(1.0, max(0.0, finding.value))
    return CkaCell(
        x=round(x, 1),
        y=round(y, 1),
        strength=round(strength, 2),
        number=plain(finding.value, 2) if size >= _NUMBERS else "",
        dark=strength > _DARK,
        title=f"{finding.layer} × {finding.other}: {interval_of(finding, 3)}" if size >= _POINTED_AT else "",
    )
