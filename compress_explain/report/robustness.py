"""Do both models bear changed inputs: what each change costs them, and what small shifts that gradients find cost them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import pandas as pd

from compress_explain.report.charts import DotPlot, change_line, dot_plot, shortened
from compress_explain.report.curves import Curves, curves
from compress_explain.report.numbers import count, plain, share, signed
from compress_explain.robustness.catalog import CHANGES
from compress_explain.robustness.images import IMAGE_CHANGES
from compress_explain.robustness.measuring import ATTACKS, CLEAN
from compress_explain.robustness.scoring import MEAN, conditions, differing, metric_of
from compress_explain.robustness.texts import TEXT_CHANGES

Scores = dict[tuple[str, str], dict[str, Any]]
_SIDES = ("original", "compressed")
_LETTERS, _EXAMPLES = 160, 3


@dataclass(frozen=True, kw_only=True)
class ConditionRow:
    """Accuracy of both without and with one change, on the same ``n`` rows, with the original's figure first.

    ``extra`` is what the compressed model gains under it more than the original does, negative where it loses more, from
    ``low`` to ``high``; ``score`` is the accuracy's own figure, with the interval of the difference.
    """

    name: str
    how: str
    attack: bool
    strength: float
    clean: tuple[float, float]
    changed: tuple[float, float]
    extra: float
    low: float
    high: float
    n: int
    score: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Example:
    """One text before and after a change."""

    name: str
    row: int
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class RobustnessSection:
    """Everything that was tried; ``missing`` are conditions that could not be, with the reason.

    ``doubts`` say why a gate on attacks is left open; ``mean`` is the score over all natural changes.
    """

    sentence: str
    confidence: float
    rows: tuple[ConditionRow, ...]
    figure: DotPlot
    curves: tuple[Curves, ...]
    examples: tuple[Example, ...]
    redacted: bool
    missing: tuple[tuple[str, str], ...]
    doubts: tuple[str, ...]
    mean: dict[str, Any] | None
    of_images: bool


def robustness_section(
    scores: Scores, measured: pd.DataFrame | None, texts: tuple[str, ...] | None
) -> RobustnessSection | None:
    """None where nothing was measured. ``texts`` are those of all rows of the split; None shows no examples."""
    if measured is None or measured.empty:
        return None
    confidence = next((row["confidence"] for row in scores.values()), 0.9)
    rows = tuple(_rows(scores, measured, confidence))
    if not rows:
        return None
    named = {str(row.condition): str(row.note) for row in measured[measured["note"] != ""].itertuples()}
    doubts = dict.fromkeys(row.score["doubt"] for row in rows if row.score is not None and row.score["doubt"])
    of_images = any(row.name in IMAGE_CHANGES for row in rows)
    return RobustnessSection(
        sentence=_sentence(rows, confidence),
        confidence=confidence,
        rows=rows,
        figure=_figure(rows),
        curves=tuple(_curves(name, rows, confidence) for name in ATTACKS if any(_is(row, name) for row in rows)),
        examples=() if texts is None or of_images else _examples(measured, texts),
        redacted=texts is None,
        missing=tuple((_spoken(name), why) for name, why in named.items()),
        doubts=tuple(doubts),
        mean=scores.get((MEAN, "all")),
        of_images=of_images,
    )


def _rows(scores: Scores, measured: pd.DataFrame, confidence: float) -> list[ConditionRow]:
    made = {(name, strength): lines.set_index("row") for name, strength, lines in conditions(measured)}
    rows = []
    for (name, strength), lines in made.items():
        if name == CLEAN or (name in ATTACKS and strength == 0):
            continue
        before = made[(name if name in ATTACKS else CLEAN, 0.0)].loc[lines.index]
        score = scores.get((metric_of(name, strength), "all"))
        rows.append(_row(name, strength, (before, lines), score, confidence))
    return rows


def _row(
    name: str,
    strength: float,
    tables: tuple[pd.DataFrame, pd.DataFrame],
    score: dict[str, Any] | None,
    confidence: float,
) -> ConditionRow:
    before, after = ([table[f"{side}_right"].to_numpy(dtype=float) for side in _SIDES] for table in tables)
    moved = [late - early for early, late in zip(before, after, strict=True)]
    low, high = differing(moved[0], moved[1], confidence, zlib.crc32(f"{name} {strength:g}".encode()))
    return ConditionRow(
        name=f"{_spoken(name)}, ε = {strength:g}" if name in ATTACKS else _spoken(name),
        how="" if name in ATTACKS else f"{strength:g} {CHANGES[name].unit}",
        attack=name in ATTACKS,
        strength=strength,
        clean=(float(before[0].mean()), float(before[1].mean())),
        changed=(float(after[0].mean()), float(after[1].mean())),
        extra=float((moved[1] - moved[0]).mean()),
        low=low,
        high=high,
        n=len(tables[1]),
        score=score,
    )


def _sentence(rows: tuple[ConditionRow, ...], confidence: float) -> str:
    natural = [row for row in rows if not row.attack] or list(rows)
    worst = min(natural, key=lambda row: row.extra)
    if worst.extra >= 0:
        return (
            f"Under none of {count(len(natural))} kinds of changed inputs does the compressed model lose more accuracy than "
            f"the original; nearest to it is {worst.name}, {_figures(worst, confidence)}."
        )
    sure = "" if worst.high < 0 else ", though that interval also holds no extra loss"
    return (
        f"Of {count(len(natural))} kinds of changed inputs, {worst.name} costs the compressed model most beyond what it "
        f"costs the original: {_figures(worst, confidence)}{sure}."
    )


def _figures(row: ConditionRow, confidence: float) -> str:
    lost = [f"{plain(early, 3)} → {plain(late, 3)}" for early, late in zip(row.clean, row.changed, strict=True)]
    interval = f"{signed(row.low, 3)} to {signed(row.high, 3)} at {share(confidence)}, n = {count(row.n)}"
    return f"original {lost[0]}, compressed {lost[1]}, {signed(row.extra, 3)} beyond ({interval})"


def _figure(rows: tuple[ConditionRow, ...]) -> DotPlot:
    lines = [change_line(row.score, row.name, f", n = {count(row.n)}") for row in rows]
    description = "One line a condition: the dot is the difference of both accuracies under it, the stroke its interval, the tall line none."
    return dot_plot(
        "robustness", "Accuracy under changed inputs, compressed minus original", description, [row.name for row in rows],
        [("Accuracy, compressed minus original (right is better)", lines)],
    )  # fmt: skip


def _curves(name: str, rows: tuple[ConditionRow, ...], confidence: float) -> Curves:
    """Accuracy of both by epsilon, from the rows as they are."""
    mine = sorted((row for row in rows if _is(row, name)), key=lambda row: row.strength)
    strengths = [0.0, *(row.strength for row in mine)]
    lines = {side: [mine[0].clean[index], *(row.changed[index] for row in mine)] for index, side in enumerate(_SIDES)}
    return curves(f"robustness-{name}", f"Accuracy under {_spoken(name)}, by ε", strengths, lines)


def _is(row: ConditionRow, attack: str) -> bool:
    return row.attack and row.name.startswith(_spoken(attack))


def _examples(measured: pd.DataFrame, texts: tuple[str, ...]) -> tuple[Example, ...]:
    """The first rows that a change altered, each under another one, made again from the seed."""
    shown = list[Example]()
    for name, strength, lines in conditions(measured):
        change, taken = TEXT_CHANGES.get(name), {example.row for example in shown}
        for row in [] if change is None else lines["row"].tolist():
            after = change.of([texts[row]], [row], strength, int(lines["seed"].iloc[0]))[0]  # type: ignore[union-attr]
            if row not in taken and after != texts[row]:
                cut = [shortened(text, _LETTERS) for text in (texts[row], after)]
                shown.append(Example(name=_spoken(name), row=row, before=cut[0], after=cut[1]))
                break
        if len(shown) == _EXAMPLES:
            break
    return tuple(shown)


def _spoken(name: str) -> str:
    return name.upper() if name in ATTACKS else name.replace("_", " ")
