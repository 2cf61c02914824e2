"""How good a price is: exact leave-one-out of some edits, beside what was expected of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from scipy.stats import pearsonr, spearmanr

from compress_explain.data.examples import ALL, Examples
from compress_explain.editing.masks import Masks
from compress_explain.errors import InputError
from compress_explain.pricing.engine import Engine, Local, carry_out
from compress_explain.pricing.impact import IMPACTS
from compress_explain.pricing.menu import Candidate
from compress_explain.pricing.plain import plain_loss_change
from compress_explain.pricing.prices import Prices
from compress_explain.pricing.sums import over_columns
from compress_explain.pricing.work import Auditing

_FACTS = b"compress_explain"
_KEY = ["component", "edit"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Which edits are audited: a number of each kind drawn at random, or all of them (None)."""

    heads: int | None = None
    neurons: int | None = 200
    linears: int | None = None
    sublayers: int | None = None
    layers: int | None = None
    seed: int = 0

    def of(self, prices: Prices) -> tuple[Candidate, ...]:
        """The edits of ``prices`` that are drawn, kind by kind in the order of its table.

        Raises:
            InputError: none at all.
        """
        generator = np.random.default_rng(self.seed)
        chosen: list[int] = []
        limits = {"head": self.heads, "kv_group": self.heads, "neuron": self.neurons, "linear": self.linears,
                  "sublayer": self.sublayers, "layer": self.layers}  # fmt: skip
        for kind in dict.fromkeys(prices.kinds):
            places = np.flatnonzero(prices.kind_of == kind)
            limit = limits[kind]
            if limit is not None and limit < len(places):
                places = np.sort(generator.choice(places, limit, replace=False))
            chosen += places.tolist()
        if not chosen:
            raise InputError("audit", "no edits", "nothing was chosen to be audited", "ask for heads or neurons")
        return tuple(
            Candidate(component=prices.components[index], kind=prices.kinds[index], edit=prices.edits[index])
            for index in chosen
        )


@dataclass(frozen=True, kw_only=True)
class AuditPlan:
    """How much of the price a run audits: so many heads and neurons, on so many calibration rows."""

    heads: int = 24
    neurons: int = 24
    rows: int = 256

    def __post_init__(self) -> None:
        for name in ("heads", "neurons", "rows"):
            if getattr(self, name) < (2 if name == "rows" else 0):
                raise InputError(f"audit.{name}", getattr(self, name), "too few", "0 heads and neurons audit nothing")

    @property
    def empty(self) -> bool:
        return self.heads == self.neurons == 0


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Expected beside exact, one row an edit x slice.

    The columns of the price table, and for each of its impacts the exact one; ``linear_loss_change``
    is what the bare linearisation expected, also where a better method priced.
    """

    frame: pd.DataFrame = field(repr=False)
    facts: dict[str, Any] = field(default_factory=dict, repr=False)

    def save(self, path: Path) -> None:
        table = pa.Table.from_pandas(self.frame, preserve_index=False)
        metadata = {**(table.schema.metadata or {}), _FACTS: json.dumps(self.facts).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), path)

    @classmethod
    def load(cls, path: Path) -> Audit:
        table = pq.read_table(path)
        return cls(frame=table.to_pandas(), facts=json.loads(table.schema.metadata.get(_FACTS, b"{}")))

    def quality(self, expected: str = "expected_loss_change") -> pd.DataFrame:
        """How well ``expected`` predicts the exact loss change, one row a kind of edit x slice.

        Columns: ``edits`` (how many), ``spearman`` with the ends of its 95% interval (Fisher's z with
        the variance of Bonett and Wright 2000), ``pearson``, ``same_sign`` (share), ``slope`` (of exact
        on expected, 1 is calibrated), ``error`` (mean absolute, nats). NaN where too few or equal.
        """
        rows = []
        for (kind, slice_name), part in self.labelled.groupby(["what", "slice"], sort=False):
            x, y = part[expected].to_numpy(), part["exact_loss_change"].to_numpy()
            rows.append({"what": kind, "slice": slice_name, "n": int(part["n"].iloc[0]), **_agreement(x, y)})
        return pd.DataFrame(rows)

    def summary(self) -> list[dict[str, Any]]:
        """:meth:`quality` over all examples as plain values; what is not a number is None."""
        rows = self.quality().query("slice == @ALL").to_dict("records")
        return [
            {str(k): None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()} for row in rows
        ]

    def worst(self, count: int = 10, slice_name: str = ALL) -> pd.DataFrame:
        """The edits whose exact loss change is furthest from the expected one."""
        part = self.labelled[self.labelled["slice"] == slice_name]
        miss = (part["exact_loss_change"] - part["expected_loss_change"]).rename("miss")
        order = miss.abs().sort_values(ascending=False, kind="stable").index[:count]
        columns = ["component", "what", "expected_loss_change", "exact_loss_change", "exact_loss_change_se", "method"]
        return part.loc[order, columns].assign(miss=miss[order]).reset_index(drop=True)

    @property
    def labelled(self) -> pd.DataFrame:
        """The rows with ``what``: the kind, or for a linear the edit that was made of it."""
        what = self.frame["kind"].where(self.frame["kind"] != "linear", "linear " + self.frame["edit"])
        return self.frame.assign(what=what)


def audit(
    masks: Masks,
    examples: Examples,
    prices: Prices,
    sample: Sample,
    *,
    batch_size: int = 32,
    engine: Engine | None = None,
    store: Path | None = None,
    reuse: bool = True,
    advance: Callable[[int], None] = lambda rows: None,
) -> Audit:
    """Make each sampled edit of ``prices`` on its own, on ``examples``, and put the outcome beside its price.

    ``prices`` must be of the same examples and the same state of the model. ``advance`` is told
    the rows done, of ``len(examples)`` for each edit.

    Raises:
        InputError: nothing was sampled, or the prices are of other examples.
    """
    if tuple(prices.counts) != tuple(examples.counts.values()) or prices.slices != examples.slice_names:
        raise InputError(
            "prices", f"{prices.counts[0]} units", f"not of these {examples.counts[ALL]} examples", "price them first"
        )
    chosen = sample.of(prices)
    work = Auditing(masks=masks, examples=examples, candidates=chosen, batch_size=batch_size, reuse=reuse)
    sums = over_columns(carry_out(work, engine or Local(), store, advance))
    means, error = sums.means(), sums.standard_error()
    exact = pd.concat(
        [
            pd.DataFrame(
                {"component": [each.component for each in chosen], "edit": [each.edit for each in chosen]}
                | {"slice": name, "exact_loss_change_se": error[index]}
                | {f"exact_{impact}": means[impact][index] for impact in IMPACTS}
            )
            for index, name in enumerate(examples.slice_names)
        ]
    )
    plain = plain_loss_change(masks, examples, chosen, batch_size)
    frame = prices.to_frame().merge(exact, on=[*_KEY, "slice"]).merge(plain, on=[*_KEY, "slice"])
    return Audit(frame=frame, facts=prices.facts)


def tried(
    masks: Masks,
    examples: Examples,
    candidates: Sequence[Candidate],
    *,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda rows: None,
) -> Float[np.ndarray, " edits"]:
    """The loss change (nats, mean over ``examples``) of each edit made on its own; ``advance`` is told as in :func:`audit`."""
    work = Auditing(masks=masks, examples=examples, candidates=tuple(candidates), batch_size=batch_size)
    sums = over_columns(carry_out(work, Local(), None, advance))
    return sums.means()["loss_change"][examples.slice_names.index(ALL)]


def _agreement(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    nothing = {"edits": len(x), "spearman": np.nan, "low": np.nan, "high": np.nan, "pearson": np.nan,
               "same_sign": np.nan, "slope": np.nan, "error": np.nan}  # fmt: skip
    if len(x) < 3 or not np.isfinite(x).all() or np.ptp(x) == 0 or np.ptp(y) == 0:
        return nothing
    rho = float(spearmanr(x, y).statistic)
    low, high = _interval(rho, len(x))
    return {
        "edits": len(x),
        "spearman": rho,
        "low": low,
        "high": high,
        "pearson": float(pearsonr(x, y).statistic),
        "same_sign": float(np.mean(np.sign(x) == np.sign(y))),
        "slope": float(np.polyfit(x, y, 1)[0]),
        "error": float(np.abs(x - y).mean()),
    }


def _interval(rho: float, count: int) -> tuple[float, float]:
    """95% interval of a rank correlation."""
    if count < 5 or abs(rho) >= 1:
        return np.nan, np.nan
    half = 1.96 * np.sqrt((1 + rho**2 / 2) / (count - 3))
    return float(np.tanh(np.arctanh(rho) - half)), float(np.tanh(np.arctanh(rho) + half))
