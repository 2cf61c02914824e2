"""Expected against observed: what each step was to do, and what it then did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress_explain.report.charts import DotPlot, Line, dot_plot
from compress_explain.report.judgement import Judgement, headline
from compress_explain.report.numbers import kinds, plain, signed

if TYPE_CHECKING:
    from compress_explain.outcome import Run

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One step: what was edited, and its impact as priced and as measured."""

    title: str
    done: str
    expected: Values
    observed: Values


@dataclass(frozen=True, kw_only=True)
class Effects:
    """All steps, their figure, and in one sentence how well the prices foretold them."""

    rows: tuple[Effect, ...]
    figure: DotPlot | None
    agreement: str
    altogether: str


def effects(run: Run, first: Judgement) -> Effects:
    """Every step that was observed, in order."""
    rows = tuple(_effect(run, record.step, record.body) for record in run.ledger.of_kind("observed"))
    return Effects(
        rows=rows, figure=_figure(rows) if rows else None, agreement=_agreement(rows), altogether=_altogether(first)
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


def _effect(run: Run, step: str, body: dict[str, Values]) -> Effect:
    planned = run.ledger.find("planned", step)
    done = "–"
    if planned is not None:
        verb = {"remove": "removed", "restore": "restored"}.get(planned.body["action"], planned.body["action"])
        done = f"{verb} {kinds(planned.body['counts'])}"
    return Effect(title=step_title(step), done=done, expected=body["expected"], observed=body["observed"])


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


def _agreement(rows: tuple[Effect, ...]) -> str:
    if not rows:
        return "No step changed anything, so there is nothing to compare."
    pairs = [(row.expected["loss_change"], row.observed["loss_change"]) for row in rows]
    same = sum(expected * observed >= 0 for expected, observed in pairs)
    widest = max(abs(expected - observed) for expected, observed in pairs)
    return (
        f"The expected loss change had the direction of the observed one in {same} of {len(rows)} steps; "
        f"the two differ by at most {plain(widest, 3)} nats."
    )


def _altogether(first: Judgement) -> str:
    score = headline(first)
    if score is None:
        return ""
    return (
        f"All removals together, before anything was restored: {score['metric'].replace('_', ' ')} "
        f"{plain(score['original'], 3)} → {plain(score['compressed'], 3)} on {score['n']:,} {first.split} rows."
    )
