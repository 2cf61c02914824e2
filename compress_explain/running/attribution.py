"""How much of the change is whose: by step, layer and kind of edit, and what refitting and the deployed form add.

Steps share by Shapley's rule, which adds up; where there are too many, and for layers and kinds, it is told what
would be missing without each, and what only several do together is shown as interaction. Edits are undone by mask, with the
weights that what is left came with; what refitting, tuning and the deployed file then change stands on lines of its own, so that all lines
of a table of steps add up to the whole change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from compress_explain.comparison.decided import decide_all
from compress_explain.comparison.predictions import Pairs, logits_of, paired
from compress_explain.comparison.shapley import left_out, shapley
from compress_explain.data.examples import Examples
from compress_explain.editing.masks import Masks
from compress_explain.editing.undoing import restored, unfitted
from compress_explain.model.embedding import TOKEN
from compress_explain.record.ledger import Ledger
from compress_explain.record.replay import applied_plans
from compress_explain.running.session import Session
from compress_explain.stats import mean_interval_of_rows, unseen_rate_bound

FIGURES = ("accuracy", "nll")
MOST = 6  # steps that share by Shapley's rule: at most 2^6 evaluations
CONFIDENCE = 0.90
_NOTHING = 1e-4  # nats: what padding and rounding do to a loss


@dataclass(frozen=True, kw_only=True)
class Share:
    """One line: what ``name`` adds to a figure's change, ``by`` step, layer or kind, with its interval over ``n`` rows."""

    by: str
    name: str
    figure: str
    change: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """Edits that stand at the end and belong together."""

    name: str
    components: tuple[str, ...]


def attribute(session: Session, artifact_pairs: Pairs | None) -> None:
    """Work the shares out on some validation rows and record them; ``artifact_pairs`` is what is deployed, on validation."""
    plan, ledger = session.job.attribution, session.ledger
    groups = standing_groups(ledger)
    if not plan.rows or not groups["step"] or ledger.find("attributed", "end"):
        return
    rows = session.job.splits.validation.draw(plan.rows, session.job.seed)
    kept = _kept(session, rows, artifact_pairs)
    asked = _Asked(session.masks, session.read(rows), rows, kept, session.job.batch_size)
    evaluations = sum(_evaluations(by, len(each)) for by, each in groups.items())
    with session.progress.track("attributing the change to steps, layers and kinds", evaluations) as advance:
        shares = list(_shares(asked, groups, kept, artifact_pairs is not None, advance))
    path = session.table("attribution")
    pd.DataFrame([asdict(share) for share in shares]).to_parquet(path, index=False)
    body = {"split": rows.name, "rows": len(rows), "groups": {by: len(each) for by, each in groups.items()}}
    ledger.append("attributed", "end", body, (path,))


def standing_edits(ledger: Ledger) -> dict[str, tuple[str, str]]:
    """By component whose edit stands: the step that made it, and its kind; tokens aside."""
    made: dict[str, tuple[str, str]] = {}
    for applied in applied_plans(ledger):
        for edit in () if applied.reverted else applied.plan.edits:
            made.pop(edit.component, None)
            if edit.action != "restore" and edit.kind != TOKEN:
                made[edit.component] = (applied.plan.step, _kind(edit.kind, edit.action))
    return made


def standing_groups(ledger: Ledger) -> dict[str, list[Group]]:
    """The edits that stand, by the step that made them, by the layer and by the kind that they are of."""
    made = standing_edits(ledger)
    if len({step for step, _ in made.values()}) > MOST:  # the rounds of one strategy are one step then
        made = {component: (step.rpartition("-")[0], kind) for component, (step, kind) in made.items()}
    named: dict[str, dict[str, list[str]]] = {"step": {}, "layer": {}, "kind": {}}
    for component, (step, kind) in made.items():
        for by, name in (("step", step), ("layer", _layer(component)), ("kind", kind)):
            named[by].setdefault(name, []).append(component)
    return {
        by: [Group(name=name, components=tuple(each)) for name, each in sorted(found.items(), key=_order)]
        for by, found in named.items()
    }


def _kind(kind: str, action: str) -> str:
    return {"quantize": "linear quantized", "factorize": "linear factored"}.get(action, kind)


def _layer(component: str) -> str:
    parts = component.split(".")
    return ".".join(parts[:3]) if len(parts) > 2 and parts[1] == "layer" else parts[0]


def _order(entry: tuple[str, list[str]]) -> tuple[object, ...]:
    return tuple(
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in entry[0].replace("-", ".").split(".")
    )


def _evaluations(by: str, players: int) -> int:
    return 2**players if by == "step" and players <= MOST else players + 1


@dataclass(frozen=True)
class _Asked:
    """Figures of each decision when only some of the edits stand."""

    masks: Masks
    read: Examples  # as the model of now reads the rows
    rows: Examples
    start: Pairs  # the original beside what is deployed
    batch_size: int

    def figures(self) -> Float[np.ndarray, "figures decisions"]:
        """Of the model as it is now."""
        decided = decide_all(
            logits_of(self.masks.model), self.read, self.batch_size, choices=self.start.decided.choices
        )
        return figures_of(paired(self.rows, self.start.decided, decided))

    def with_some(self, groups: list[Group]) -> Callable[[frozenset[int]], Float[np.ndarray, "figures decisions"]]:
        """By which of ``groups`` stand: the figures, with the weights that what is left came with."""
        known: dict[frozenset[int], np.ndarray] = {}

        def value(who: frozenset[int]) -> np.ndarray:
            if who not in known:
                undone = [name for index, group in enumerate(groups) if index not in who for name in group.components]
                with unfitted(self.masks), restored(self.masks, undone):
                    known[who] = self.figures()
            return known[who]

        return value


def figures_of(pairs: Pairs) -> Float[np.ndarray, "figures decisions"]:
    """Of each decision of the compressed model whether it is right, and its loss in nats."""
    probabilities = pairs.compressed_probabilities[np.arange(len(pairs)), pairs.answers]
    return np.stack([pairs.compressed_right.astype(np.float64), -np.log(np.maximum(probabilities, 1e-300))])


def _kept(session: Session, rows: Examples, artifact_pairs: Pairs | None) -> Pairs:
    """The original on the drawn rows, beside what is deployed where that is known."""
    whole = artifact_pairs if artifact_pairs is not None else session.untouched(session.job.splits.validation)
    drawn = np.sort(
        np.random.default_rng(session.job.seed).choice(len(session.job.splits.validation), len(rows), replace=False)
    )
    return whole.of_rows(drawn if len(rows) < len(session.job.splits.validation) else np.arange(len(rows)))


def _shares(
    asked: _Asked, groups: Mapping[str, list[Group]], kept: Pairs, deployed: bool, advance: Callable[[int], None]
) -> Iterator[Share]:
    """Every line of every table; the lines of one table and figure add up to its line "total"."""
    owners = np.arange(len(kept)) if kept.owners is None else kept.owners
    original = figures_of(_itself(kept))
    masked = asked.figures()
    end = figures_of(kept) if deployed else masked
    for by, each in groups.items():
        value = asked.with_some(each)
        everyone = frozenset(range(len(each)))
        shares = (shapley if by == "step" and len(each) <= MOST else left_out)(value, len(each))
        advance(_evaluations(by, len(each)))
        lines = {group.name: share for group, share in zip(each, shares, strict=True)}
        none, all_of_them = value(frozenset()), value(everyone)
        if by != "step" or len(each) > MOST:
            lines["interaction"] = all_of_them - none - shares.sum(0)
        lines |= {"vocabulary": none - original, "refitted": masked - all_of_them, "deployed": end - masked}
        lines["total"] = end - original
        for name, line in lines.items():
            if name in ("vocabulary", "refitted", "deployed") and np.abs(line).max() < _NOTHING:
                continue
            for figure, values in zip(FIGURES, line, strict=True):
                low, high = _interval(values, owners)
                yield Share(by=by, name=name, figure=figure, change=float(values.mean()), low=low, high=high,
                            n=len(np.unique(owners)))  # fmt: skip


def _interval(values: Float[np.ndarray, " decisions"], owners: np.ndarray) -> tuple[float, float]:
    """Of a mean; where nothing changed, how many rows could still differ unseen."""
    if not values.any():
        bound = unseen_rate_bound(len(np.unique(owners)), CONFIDENCE)
        return -bound, bound
    return mean_interval_of_rows(values, owners, CONFIDENCE)


def _itself(pairs: Pairs) -> Pairs:
    """The original beside itself."""
    return pairs.beside(pairs.decided)


def read_shares(folder: Path) -> pd.DataFrame | None:
    """The lines that a run recorded; None where nothing was attributed."""
    path = folder / "tables" / "attribution.parquet"
    return pd.read_parquet(path) if path.exists() else None
