"""Which edits turned an answer: for every right answer that went wrong, what undoing each group of edits alone would do.

A group is what was taken from one site, or done to the linears of one sublayer. Undoing it is priced by the slope of each
part of it, and then made and seen; nothing is refitted for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from compress_explain.comparison.decided import decide_all
from compress_explain.comparison.predictions import Pairs, logits_of
from compress_explain.data.examples import Examples
from compress_explain.editing.undoing import restored
from compress_explain.running.attribution import Group, standing_edits
from compress_explain.running.moves import collect
from compress_explain.running.session import Session


def blame(session: Session, pairs: Pairs) -> None:
    """Work out and record who turned the right answers that went wrong in ``pairs``, of the masked model on validation."""
    plan, ledger = session.job.attribution, session.ledger
    if not plan.flips or session.job.subject.tokenwise or ledger.find("blamed", "end"):
        return
    groups = _groups(session)
    turned = np.flatnonzero(pairs.original_right & ~pairs.compressed_right)
    if not len(turned) or not groups:
        return
    chosen = np.sort(np.random.default_rng(session.job.seed).permutation(turned)[: plan.flips])
    examples = session.read(session.job.splits.validation.only(chosen))
    priced = _priced(session, examples, groups)
    now = _margins(torch.from_numpy(pairs.compressed[chosen]), pairs.labels[chosen])
    observed, lines = np.zeros_like(priced), list[dict[str, object]]()
    with session.progress.track("undoing what may have turned an answer", len(groups)) as advance:
        for index, group in enumerate(groups):
            with restored(session.masks, group.components):
                decided = decide_all(logits_of(session.masks.model), examples, session.job.batch_size)
            then = _margins(torch.from_numpy(decided.logits), pairs.labels[chosen])
            observed[index] = then - now
            lines += [
                {"row": int(row), "group": group.name, "parts": len(group.components), "priced": float(priced[index, place]),
                 "observed": float(observed[index, place]), "margin": float(now[place]), "back": bool(then[place] > 0)}
                for place, row in enumerate(chosen)
            ]  # fmt: skip
            advance(1)
    path = session.table("blame")
    pd.DataFrame(lines).to_parquet(path, index=False)
    rho = spearmanr(priced.ravel(), observed.ravel()).statistic if priced.size > 2 else float("nan")
    body = {"split": pairs.split, "turned": len(turned), "explained": len(chosen), "groups": len(groups),
            "rank_correlation": float(rho) if np.isfinite(rho) else None}  # fmt: skip
    ledger.append("blamed", "end", body, (path,))


def read_blame(folder: Path) -> pd.DataFrame | None:
    """One line a turned row and group, as a run recorded it; None where nothing was."""
    path = folder / "tables" / "blame.parquet"
    return pd.read_parquet(path) if path.exists() else None


def _groups(session: Session) -> list[Group]:
    """What can be undone together: parts of one site, linears of one sublayer, a sublayer, a layer."""
    anatomy, named = session.anatomy, dict[str, list[str]]()
    for component in standing_edits(session.ledger):
        if component in anatomy.linears:
            name = f"{component.rpartition('.')[0]} (linears)"
        elif component in anatomy.units:
            name = component
        else:
            name = anatomy.find(component)[0].name
        named.setdefault(name, []).append(component)
    return [Group(name=name, components=tuple(each)) for name, each in named.items()]


def _priced(session: Session, examples: Examples, groups: Sequence[Group]) -> Float[np.ndarray, "groups rows"]:
    """By how much the margin of each row is expected to grow when a group comes back: the sum over its parts."""
    moves = collect(session.masks, examples, session.job.batch_size, session.work, (), lambda rows: None)
    places = {component: place for place, component in enumerate(moves.components)}
    order = np.argsort(moves.rows)
    logits, labels = moves.logits[order], moves.labels[order]
    before = _margins(logits, labels.numpy())
    priced = np.full((len(groups), len(order)), np.nan)
    for index, group in enumerate(groups):
        known = [places[name] for name in group.components if name in places]
        if known:
            moved = logits + moves.moves[:, order][:, :, known].sum(-1).T
            priced[index] = _margins(moved, labels.numpy()) - before
    return np.nan_to_num(priced)


def _margins(logits: Float[Tensor, "rows classes"], labels: np.ndarray) -> Float[np.ndarray, " rows"]:
    """The logit of the label less the largest other one."""
    right = torch.from_numpy(np.asarray(labels, dtype=np.int64))[:, None]
    own = logits.gather(1, right)[:, 0]
    others = logits.scatter(1, right, -torch.inf).max(1).values
    return (own - others).double().numpy()
