"""Where the time goes: which layers became faster, and by how much."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from compress_explain.deployment.layer_times import OUTSIDE, by_layer
from compress_explain.hardware.layers_timed import typical
from compress_explain.report.charts import DotPlot, Line, dot_plot
from compress_explain.report.numbers import share, signed


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """One layer, or one linear of it: milliseconds a call of both models, and the share of the original's time that is left."""

    name: str
    original: float
    compressed: float
    left: float | None


@dataclass(frozen=True, kw_only=True)
class LayerTimesSection:
    """Layers in their order, the parts whose time changed most, and what to make of them in a sentence."""

    sentence: str
    layers: tuple[LayerTime, ...]
    parts: tuple[LayerTime, ...]
    rounds: int
    figure: DotPlot | None


_SHOWN = 12  # parts


def layer_times_section(measured: pd.DataFrame | None) -> LayerTimesSection | None:
    """Of the table that the evaluator ``layer_times`` stored; None where there is none, or nothing could be timed."""
    if measured is None or not (measured["part"] != "").any():
        return None
    parts = typical(measured)
    layers = tuple(_rows(by_layer(parts), lambda row: str(row["layer"])))
    moved = parts.assign(change=(parts["compressed"] - parts["original"]).abs()).sort_values(
        "change", ascending=False, kind="stable"
    )
    return LayerTimesSection(
        sentence=_sentence(layers),
        layers=layers,
        parts=tuple(_rows(moved.head(_SHOWN), _part_name)),
        rounds=int(measured["round"].nunique()),
        figure=_figure(layers),
    )


def _rows(table: pd.DataFrame, name: object) -> list[LayerTime]:
    assert callable(name)
    return [
        LayerTime(
            name=name(row),
            original=float(row["original"]),
            compressed=float(row["compressed"]),
            left=float(row["compressed"] / row["original"]) if row["original"] > 0 else None,
        )
        for _, row in table.iterrows()
    ]


def _part_name(row: pd.Series) -> str:
    return str(row["part"]) if str(row["part"]).startswith(str(row["layer"])) else f"{row['layer']}: {row['part']}"


def _sentence(layers: tuple[LayerTime, ...]) -> str:
    before, after = sum(each.original for each in layers), sum(each.compressed for each in layers)
    inside = [each for each in layers if each.name != OUTSIDE]
    most = max(inside or layers, key=lambda each: each.original - each.compressed)
    told = f"Under a profiler a call takes {before:.3g} ms in the original and {after:.3g} ms in the compressed model"
    if most.original <= most.compressed:
        return f"{told}; no layer became faster."
    kept = share(most.compressed / most.original)
    return f"{told}; most was saved in {most.name}, which takes {kept} of its former time ({most.original:.3g} → {most.compressed:.3g} ms)."


def _figure(layers: tuple[LayerTime, ...]) -> DotPlot | None:
    lines = [
        Line(
            stretch=(min(0.0, each.compressed - each.original), max(0.0, each.compressed - each.original)),
            marks=(("dot", each.compressed - each.original),),
            title=f"{each.name}: {signed(each.compressed - each.original, 3)} ms",
        )
        for each in layers
    ]
    description = "One line a layer: the dot is how many milliseconds a call more or less, the tall line no change."
    names = [each.name for each in layers]
    return dot_plot(
        "layer-times",
        "Change of the time of each layer",
        description,
        names,
        [("Change, ms a call (left is faster)", lines)],
    )
