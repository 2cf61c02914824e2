"""What every part is for: what removing it alone is expected to do, to whom, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from compress_explain.data.examples import ALL
from compress_explain.errors import InputError
from compress_explain.pricing import Prices
from compress_explain.pricing.bearing import bearing
from compress_explain.record.dossier import shares
from compress_explain.report.heatmap import LARGE, SMALL, HeatMap, Line, colour_end, heat_map, key
from compress_explain.report.labels import group_labels, plural
from compress_explain.report.numbers import count, share, small
from compress_explain.report.spread import Layer, Spread, spread

if TYPE_CHECKING:
    from compress_explain.record.outcome import Run

_SEEN_ONE_BY_ONE = 64  # components a group; more are drawn as a spread
_TOLD_CELLS = 2500  # cells of small maps that carry a text, at most; single cells of the large one always do
_SLICES, _ENOUGH = 8, 30  # slices drawn; rows below which one is drawn only if there is room
_DEAREST = 10
_SURE = 1.96  # standard errors: 95%


@dataclass(frozen=True, kw_only=True)
class SliceMap:
    """The map of one slice; ``r`` is the correlation of its values with those of all rows."""

    slice: str
    n: int
    r: float | None
    drawn: HeatMap


@dataclass(frozen=True, kw_only=True)
class Maps:
    """All rows large, the slices small, on one colour scale that ends at ``limit`` nats."""

    large: HeatMap
    small: tuple[SliceMap, ...]
    key: list[tuple[str, str]]
    limit: float
    beyond: int
    cells: int
    most: float
    slices: int
    small_told: bool


@dataclass(frozen=True, kw_only=True)
class Dear:
    """One of the components that matter most."""

    component: str
    decision: float
    gradient: float
    loss: float
    half: float
    kl: float
    exact: float | None
    status: str


@dataclass(frozen=True, kw_only=True)
class Kind:
    """All components of one kind: in words, as maps or as a spread, and the dearest by name."""

    kind: str
    plural: str
    sentences: tuple[str, ...]
    maps: Maps | None
    spread: Spread | None
    dearest: tuple[Dear, ...]


@dataclass(frozen=True, kw_only=True)
class Carried:
    """How many components of one kind carry a slice more than the rest, and the one that it would miss most."""

    total: int
    component: str | None = None
    inside: float | None = None
    outside: float | None = None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The section; ``carriers`` has one entry a slice, with one value a kind."""

    n: int
    kinds: tuple[Kind, ...]
    carriers: tuple[tuple[str, int, tuple[Carried, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What a kind's figures are made of: the places of its components in the price table, group by group."""

    prices: Prices
    groups: dict[str, Int[np.ndarray, " components"]]
    status: dict[str, str]
    decision: Float[np.ndarray, " edits"]
    gradient: Float[np.ndarray, " edits"]
    exact: Mapping[str, float]

    @property
    def places(self) -> np.ndarray:
        return np.concatenate(list(self.groups.values()))

    def loss(self, slice_name: str, places: np.ndarray) -> np.ndarray:
        return self.prices.loss_change(slice_name)[places]

    def sure(self, slice_name: str, places: np.ndarray) -> np.ndarray:
        """Which of them are told from 0 by a 95% interval."""
        error = self.prices.standard_error[self.prices.slices.index(slice_name), places]
        return np.abs(self.loss(slice_name, places)) > _SURE * error


def parts(run: Run) -> Parts:
    """Every kind of component that was priced, in the order of the anatomy."""
    prices, groups = run.prices, run.anatomy["groups"]
    decision, gradient = shares(prices)
    place = {component: index for index, component in enumerate(prices.components)}
    status = dict(zip(run.components["component"], run.components["status"], strict=True))
    exact = _exact(run)
    kinds = []
    for kind in dict.fromkeys(group["kind"] for group in groups.values()):
        mine = {
            name: np.array([place[f"{name}.{index}"] for index in range(group["count"])])
            for name, group in groups.items()
            if group["kind"] == kind
        }
        known = _Known(prices=prices, groups=mine, status=status, decision=decision[0], gradient=gradient, exact=exact)
        kinds.append(_kind(kind, known))
    return Parts(n=prices.counts[0], kinds=tuple(kinds), carriers=_carriers(prices, [each.kind for each in kinds]))


def _kind(kind: str, known: _Known) -> Kind:
    seen_one_by_one = max(map(len, known.groups.values())) <= _SEEN_ONE_BY_ONE
    return Kind(
        kind=kind,
        plural=plural(kind),
        sentences=(_needed(kind, known), _concentrated(kind, known)),
        maps=_maps(kind, known) if seen_one_by_one else None,
        spread=None if seen_one_by_one else _spread(kind, known),
        dearest=_dearest(known),
    )


def _needed(kind: str, known: _Known) -> str:
    places = known.places
    loss, sure = known.loss(ALL, places), known.sure(ALL, places)
    needed, harmful = int((sure & (loss > 0)).sum()), int((sure & (loss < 0)).sum())
    top = int(np.argmax(loss))
    half = _SURE * known.prices.standard_error[0, places[top]]
    dearest = known.prices.components[places[top]]
    return (
        f"Of {count(len(places))} {plural(kind)}, {count(needed)} {'is' if needed == 1 else 'are'} needed (the loss is expected to "
        f"rise without it), {count(harmful)} {'does' if harmful == 1 else 'do'} harm (it is expected to fall), and for the other {count(len(places) - needed - harmful)} "
        f"the 95% interval holds 0. The loss would rise most without {dearest}: {small(float(loss[top]), signs=True)} nats "
        f"({small(float(loss[top] - half), signs=True)} to {small(float(loss[top] + half), signs=True)})."
    )


def _concentrated(kind: str, known: _Known) -> str:
    ordered = np.sort(known.decision[known.places])[::-1]
    if not ordered.sum():
        return f"No {plural(kind)} move the answers at all."
    few = max(1, round(0.1 * len(ordered)))
    half = int(np.searchsorted(np.cumsum(ordered), 0.5 * ordered.sum())) + 1
    return (
        f"The {count(few)} that move the answers most carry {share(float(ordered[:few].sum()))} of all movement by "
        f"{plural(kind)}; {count(half)} carry half of it."
    )


def _maps(kind: str, known: _Known) -> Maps:
    labels = group_labels(list(known.groups))
    chosen = _telling_slices(known)
    names = [ALL, *(name for name, _ in chosen)]
    values = [known.loss(name, known.places) for name in names]
    limit = colour_end(values)
    told = len(known.places) * len(chosen) <= _TOLD_CELLS
    large = _map(f"map-{kind}", f"All rows: {plural(kind)} by layer", ALL, known, labels, limit, told=True)
    small = [
        SliceMap(
            slice=name,
            n=known.prices.counts[known.prices.slices.index(name)],
            r=r,
            drawn=_map(
                f"map-{kind}-{index}", f"Slice {name}: {plural(kind)} by layer", name, known, labels, limit, told=told
            ),
        )
        for index, (name, r) in enumerate(chosen, start=1)
    ]
    magnitudes = np.abs(np.concatenate(values))
    signed_values = np.concatenate(values)
    return Maps(
        large=large,
        small=tuple(small),
        key=key(limit),
        limit=limit,
        beyond=int((magnitudes > limit).sum()),
        cells=len(magnitudes),
        most=float(signed_values[magnitudes.argmax()]),
        slices=len(known.prices.slices) - 1,
        small_told=told,
    )


def _telling_slices(known: _Known) -> list[tuple[str, float | None]]:
    """The slices whose pattern differs most from that of all rows, each with its correlation."""
    everything = known.loss(ALL, known.places)
    found = []
    for name, n in zip(known.prices.slices[1:], known.prices.counts[1:], strict=True):
        values = known.loss(name, known.places)
        varied = len(values) > 2 and np.ptp(values) > 0 and np.ptp(everything) > 0
        r = float(np.corrcoef(values, everything)[0, 1]) if varied else None
        found.append((n < _ENOUGH, 2.0 if r is None else r, name, r))
    return [(name, r) for _, _, name, r in sorted(found, key=lambda each: each[:2])[:_SLICES]]


def _map(
    name: str, title: str, slice_name: str, known: _Known, labels: dict[str, str], limit: float, *, told: bool
) -> HeatMap:
    lines = [
        Line(
            label=labels[group],
            values=known.loss(slice_name, places),
            sure=known.sure(slice_name, places),
            statuses=[known.status[known.prices.components[place]] for place in places.tolist()],
            titles=[_told(known, slice_name, place) for place in places.tolist()] if told else None,
        )
        for group, places in known.groups.items()
    ]
    description = (
        "One cell a component, one row a layer: red where the loss is expected to rise without it, blue where it is "
        "expected to fall; small where that is not told from 0. A cross marks what was removed, a ring what was restored."
    )
    return heat_map(name, title, description, lines, limit, LARGE if slice_name == ALL else SMALL)


def _told(known: _Known, slice_name: str, place: int) -> str:
    row = known.prices.slices.index(slice_name)
    value, half = known.prices.loss_change(slice_name)[place], _SURE * known.prices.standard_error[row, place]
    component = known.prices.components[place]
    return (
        f"{component}, without it: loss {small(float(value), signs=True)} nats ({small(float(value - half), signs=True)} to "
        f"{small(float(value + half), signs=True)}), {known.status[component]}"
    )


def _spread(kind: str, known: _Known) -> Spread:
    labels = group_labels(list(known.groups))
    kl = known.prices.values["kl"][0]
    layers = []
    for name, places in known.groups.items():
        gone = np.array([known.status[known.prices.components[place]] == "removed" for place in places.tolist()])
        layers.append(
            Layer(
                label=labels[name],
                stayed=kl[places[~gone]],
                gone=kl[places[gone]],
                beside=(
                    share(float(known.decision[places].sum())),
                    f"{count(int((~gone).sum()))} of {count(len(places))}",
                ),
            )
        )
    return spread(
        f"spread-{kind}",
        f"How much the removal of single {plural(kind)} is expected to change the predictions, layer by layer",
        "For every layer one bar for those that stayed and one for those that were removed, over a logarithmic scale of "
        "KL in nats: thin from the 5% to the 95% quantile, thick from 25% to 75%, a gap at the median, a dot at the largest.",
        layers,
        ("Share of movement", "Stayed"),
    )


def _dearest(known: _Known) -> tuple[Dear, ...]:
    prices, places = known.prices, known.places
    order = places[np.argsort(-prices.values["kl"][0, places], kind="stable")][:_DEAREST]
    return tuple(
        Dear(
            component=prices.components[place],
            decision=float(known.decision[place]),
            gradient=float(known.gradient[place]),
            loss=float(prices.loss_change()[place]),
            half=float(_SURE * prices.standard_error[0, place]),
            kl=float(prices.values["kl"][0, place]),
            exact=known.exact.get(prices.components[place]),
            status=known.status[prices.components[place]],
        )
        for place in order.tolist()
    )


def _carriers(prices: Prices, kinds: list[str]) -> tuple[tuple[str, int, tuple[Carried, ...]], ...]:
    found = []
    for name, n in zip(prices.slices[1:], prices.counts[1:], strict=True):
        try:
            frame = bearing(prices, name)
        except InputError:  # it holds all rows or next to none
            continue
        found.append((name, n, tuple(_carried(frame[frame["kind"] == kind]) for kind in kinds)))
    return tuple(found)


def _carried(frame: pd.DataFrame) -> Carried:
    more = frame[(frame["p"] < 0.05) & (frame["inside"] > frame["outside"]) & (frame["inside"] > 0)]
    if more.empty:
        return Carried(total=0)
    most: dict[str, Any] = more.loc[more["inside"].idxmax()].to_dict()
    return Carried(
        total=len(more), component=most["component"], inside=float(most["inside"]), outside=float(most["outside"])
    )


def _exact(run: Run) -> dict[str, float]:
    if run.audit is None:
        return {}
    frame = run.audit.frame
    mine = frame[(frame["slice"] == ALL) & (frame["edit"] == "remove")]
    return dict(zip(mine["component"], mine["exact_loss_change"], strict=True))
