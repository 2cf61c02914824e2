"""Expected against observed: what each step was to do, and what it then did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax

from compress_explain.comparison.predictions import Pairs
from compress_explain.editing.edits import VERBS
from compress_explain.record.course import TINY, TOLERANCE, Stage, trust
from compress_explain.report.charts import DotPlot, Line, dot_plot
from compress_explain.report.forecast import Forecast, Point, forecast
from compress_explain.report.judgement import Judgement, headline
from compress_explain.report.numbers import kinds, plain, share, signed
from compress_explain.stats import mean_interval, mean_interval_of_rows

if TYPE_CHECKING:
    from compress_explain.record.outcome import Run

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The change of every answer's loss since the original, nats; ``rows`` where a row has several answers."""

    values: np.ndarray
    rows: np.ndarray | None

    def interval(self, before: Losses | None = None) -> tuple[float, float]:
        """Of the mean, or of its change since ``before``."""
        values = self.values if before is None else self.values - before.values
        return mean_interval(values) if self.rows is None else mean_interval_of_rows(values, self.rows)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One step: what was edited, and its impact as priced and as measured, with a 95% interval of the loss change."""

    title: str
    done: str
    stage: Stage
    expected: Values
    observed: Values
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Effects:
    """All steps, their figures, and in one sentence each how well and how far the prices foretold them."""

    rows: tuple[Effect, ...]
    figure: DotPlot | None
    forecast: Forecast | None
    trust: str
    altogether: str
    n: int
    tolerance: float
    tiny: float


def effects(run: Run, first: Judgement) -> Effects:
    """Every step that was observed, in order."""
    stages = [stage for stage in run.course if stage.observed is not None]
    states = _states(run, stages, first.split)
    rows = tuple(_effect(stage, *states[stage.step]) for stage in stages)
    return Effects(
        rows=rows,
        figure=_figure(rows) if rows else None,
        forecast=_forecast(rows, states) if rows else None,
        trust=_trust(run),
        altogether=_altogether(first),
        n=int(rows[0].observed["n"]) if rows else 0,
        tolerance=TOLERANCE,
        tiny=TINY,
    )


def step_title(step: str) -> str:
    """
    >>> step_title("2-neurons-3"), step_title("reinstate-1"), step_title("validation")
    ('neurons, round 3', 'reinstatement, round 1', 'validation')
    """
    name, _, number = step.rpartition("-")
    if name == "reinstate":
        return f"reinstatement, round {number}"
    position, _, author = name.partition("-")
    return f"{author}, round {number}" if position.isdecimal() and author else step.replace("-", " ")


def _states(run: Run, stages: Sequence[Stage], split: str) -> dict[str, tuple[Losses, Losses]]:
    """For each step the change of every row's loss since the original, before it and after it."""
    found, before, tunings = {}, None, _tunings(run)
    for stage in stages:
        if stage.step in tunings:
            before = _since_original(run, tunings[stage.step], split)
        after = _since_original(run, stage.step, split)
        start = Losses(values=np.zeros_like(after.values), rows=after.rows)
        found[stage.step] = (start if before is None else before, after)
        if not stage.reverted:
            before = after if stage.compensated is None else _since_original(run, f"{stage.step}-refitted", split)
    return found


def _tunings(run: Run) -> dict[str, str]:
    """By step that was carried out, the step at which the model was tuned just before it, if it was."""
    found: dict[str, str] = {}
    last: str | None = None
    for record in run.ledger:
        if record.kind == "applied":
            if last is not None:
                found[record.step] = last
            last = None
        elif record.kind == "tuned" and run.ledger.find("applied", record.step) is None:
            last = record.step
    return found


def _since_original(run: Run, step: str, split: str) -> Losses:
    """The change of every row's loss from the original to what was observed at ``step``."""
    pairs = Pairs.load(run.folder / "predictions" / f"{step}-{split}.parquet")
    return Losses(values=_losses(pairs.compressed, pairs) - _losses(pairs.original, pairs), rows=pairs.rows)


def _losses(logits: np.ndarray, pairs: Pairs) -> np.ndarray:
    return -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(pairs)), pairs.answers]


def _effect(stage: Stage, before: Losses, after: Losses) -> Effect:
    verb = {**VERBS, "restore": "restored"}.get(stage.action, stage.action)
    assert stage.observed is not None, "only observed steps are shown"
    return Effect(
        title=step_title(stage.step),
        done=f"{verb} {kinds(stage.counts)}" + _afterwards(stage),
        stage=stage,
        expected=stage.expected,
        observed=stage.observed,
        interval=after.interval(before),
    )


def _afterwards(stage: Stage) -> str:
    """What else was done in a step."""
    gave = "" if stage.compensated is None else f"; refitting the rest: {signed(stage.compensated['loss_change'])} nats"
    return gave + (", then taken back" if stage.reverted else "")


def _forecast(rows: Sequence[Effect], states: dict[str, tuple[Losses, Losses]]) -> Forecast:
    """The way of the run through FLOPs and loss, and from every point on it the forecast of the next."""
    points, gone = [], 0.0
    for row in rows:
        before, after = states[row.stage.step]
        points.append(
            Point(
                start=(gone, float(before.values.mean())),
                end=(row.stage.flops_removed, float(after.values.mean())),
                interval=after.interval(),
                expected=float(before.values.mean()) + row.expected["loss_change"],
                action=row.stage.action,
                reverted=row.stage.reverted,
                title=f"{row.title}: {share(row.stage.flops_removed)} of layer FLOPs removed; loss change of the step expected "
                f"{signed(row.expected['loss_change'])}, observed {signed(row.observed['loss_change'])} nats",
            )
        )
        gone = gone if row.stage.reverted else row.stage.flops_removed
    return forecast("forecast", points)


def _trust(run: Run) -> str:
    """Up to how many FLOPs removed the expectation held, in one sentence."""
    stages = run.course
    found = trust(stages)
    rule = f"within {share(TOLERANCE)} of the observed one, or within {TINY} nats of it"
    if not any(stage.action == "remove" for stage in stages):
        return "No step removed anything, so there is nothing to say about how far expectations can be trusted."
    if not found.removals:
        return "How far expectations can be trusted cannot be said: no removal step has a finite expected and observed loss change."
    if found.first_bad is None:
        assert found.last_good is not None
        every = (
            "the one removal step" if len(found.removals) == 1 else f"each of the {len(found.removals)} removal steps"
        )
        return (
            f"The expected loss change of {every}, up to {share(found.last_good.flops_removed)} of the layer FLOPs removed, "
            f"was {rule}; where it stops being so this run does not show."
        )
    bad = found.first_bad
    assert bad.observed is not None
    miss = (
        f"{step_title(bad.step)}, which takes the removed share to {share(bad.flops_removed)}: expected "
        f"{signed(bad.expected['loss_change'])}, observed {signed(bad.observed['loss_change'])} nats"
    )
    after = len(found.removals) - found.removals.index(bad) - 1
    again = (
        f" Of the {after} removal step{'s' if after > 1 else ''} after it, {found.good_again} held again."
        if after
        else ""
    )
    if found.last_good is None:
        return f"The expected loss change was not {rule}, from the first removal step on: {miss}.{again}"
    return (
        f"Up to {share(found.last_good.flops_removed)} of the layer FLOPs removed, the expected loss change of every removal "
        f"step was {rule}. It no longer was at {miss}.{again}"
    )


def _figure(rows: tuple[Effect, ...]) -> DotPlot:
    panels = [
        ("Loss change, nats (left is better)", [_line(row, "loss_change") for row in rows]),
        ("Accuracy change (right is better)", [_line(row, "accuracy_change") for row in rows]),
    ]
    title = "Expected and observed change of each step"
    description = "For every step a diamond marks what was expected and a dot what was then observed, on validation."
    return dot_plot("effects", title, description, [row.title for row in rows], panels)


def _line(row: Effect, impact: str) -> Line:
    expected, observed = row.expected[impact], row.observed[impact]
    return Line(
        stretch=(expected, observed),
        marks=(("diamond", expected), ("dot", observed)),
        title=f"{row.title}: expected {signed(expected)}, observed {signed(observed)}",
    )


def _altogether(first: Judgement) -> str:
    score = headline(first)
    if score is None:
        return ""
    return (
        f"All removals together, before anything was restored: {score['metric'].replace('_', ' ')} "
        f"{plain(score['original'], 3)} → {plain(score['compressed'], 3)} on {score['n']:,} {first.split} rows."
    )
