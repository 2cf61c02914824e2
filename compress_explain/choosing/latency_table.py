"""What a model's sublayers take on one machine with fewer components, and from that what a smaller model would take."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from scipy.optimize import isotonic_regression
from torch import Tensor

_FACTS = b"compress_explain"


@dataclass(frozen=True, kw_only=True)
class Timed:
    """The median of some calls with its 95% interval, milliseconds."""

    median: float
    low: float
    high: float

    @property
    def facts(self) -> dict[str, float]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What the groups of one shape take beyond nothing, by how many of their components are ``left``.

    ``counts`` ascend from 0 to all of them; ``times`` are the medians as they were measured.
    """

    shape: str
    groups: tuple[str, ...] = field(repr=False)
    counts: tuple[int, ...]
    times: tuple[Timed, ...] = field(repr=False)

    @cached_property
    def rising(self) -> Float[np.ndarray, " points"]:
        """The nearest times that never fall with more components, from 0 up."""
        measured = np.array([each.median for each in self.times])
        fitted = isotonic_regression(measured).x
        return np.maximum(fitted - fitted[0], 0.0)

    @cached_property
    def _every(self) -> list[float]:
        return np.interp(np.arange(self.counts[-1] + 1), self.counts, self.rising).tolist()

    def of(self, left: int) -> float:
        """Milliseconds with ``left`` components, on straight lines between what was measured."""
        return self._every[left]


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Milliseconds of one model in one runtime for ``batch`` examples of ``tokens`` tokens on ``threads`` threads.

    ``original`` is the untouched model in the runtime's float32 form, which every speed-up is told
    against, by that ``clock``; ``whole`` is the same model in the form that is deployed (the same, unless linears are
    quantized), and ``least`` is it with the smallest number of components above none that curves know,
    in every group. A layer by itself runs under other conditions than in its model, so what the
    curves say is scaled to what lies between ``whole`` and ``least``. What sublayers then do not
    explain of ``whole`` is the ``rest``, which no removal changes.
    """

    runtime: str
    batch: int
    tokens: int
    threads: int
    processor: str
    clock: str
    original: Timed
    whole: Timed
    least: Timed
    curves: tuple[Curve, ...] = field(repr=False)

    @cached_property
    def _by_group(self) -> dict[str, Curve]:
        return {group: curve for curve in self.curves for group in curve.groups}

    def of(self, group: str, left: int) -> float:
        """What a group takes with ``left`` components."""
        return self.scale * self._by_group[group].of(left)

    @cached_property
    def scale(self) -> float:
        """What a sublayer takes in the model for each millisecond that it takes by itself; never beyond 0.5 to 2."""
        between = [curve.of(curve.counts[-1]) - curve.of(curve.counts[1]) for curve in self.curves]
        alone = sum(len(curve.groups) * each for curve, each in zip(self.curves, between, strict=True))
        return min(max((self.whole.median - self.least.median) / alone, 0.5), 2.0) if alone > 0 else 1.0

    @cached_property
    def rest(self) -> float:
        """Embeddings, norms, residuals, head and the runtime itself; never less than nothing."""
        layers = sum(len(curve.groups) * curve.of(curve.counts[-1]) for curve in self.curves)
        return max(0.0, self.whole.median - self.scale * layers)

    def predict(self, removed: Mapping[str, Tensor]) -> float:
        """Milliseconds of the model without the flagged components."""
        left = {group: int((~removed[group]).sum()) for curve in self.curves for group in curve.groups}
        return self.rest + sum(self.of(group, count) for group, count in left.items())

    def facts(self) -> dict[str, Any]:
        """All but the curves, as plain values."""
        return {key: value for key, value in asdict(self).items() if key != "curves"} | {
            "scale": self.scale,
            "rest": self.rest,
        }

    def to_frame(self) -> pd.DataFrame:
        """One row a shape of a group and number of components left."""
        return pd.DataFrame(
            [
                {"shape": curve.shape, "groups": list(curve.groups), "left": left, **asdict(timed), "used": used}
                for curve in self.curves
                for left, timed, used in zip(curve.counts, curve.times, curve.rising.tolist(), strict=True)
            ]
        )

    def save(self, path: Path) -> None:
        """Write :meth:`to_frame` as Parquet, with :meth:`facts` in its metadata."""
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pandas(self.to_frame(), preserve_index=False)
        metadata = {**(table.schema.metadata or {}), _FACTS: json.dumps(self.facts()).encode()}
        half = path.with_name(f"{path.name}.{os.getpid()}.part")
        pq.write_table(table.replace_schema_metadata(metadata), half)
        half.replace(path)

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read back what :meth:`save` wrote."""
        table = pq.read_table(path)
        facts = json.loads(table.schema.metadata[_FACTS])
        del facts["scale"], facts["rest"]
        curves = tuple(
            Curve(
                shape=str(shape),
                groups=tuple(rows["groups"].iloc[0]),
                counts=tuple(int(count) for count in rows["left"]),
                times=tuple(Timed(**row) for row in rows[["median", "low", "high"]].to_dict("records")),
            )
            for shape, rows in table.to_pandas().groupby("shape", sort=False)
        )
        original, whole, least = (Timed(**facts.pop(name)) for name in ("original", "whole", "least"))
        return cls(curves=curves, original=original, whole=whole, least=least, **facts)


def counts_to_measure(count: int) -> tuple[int, ...]:
    """A handful of component counts from 0 to ``count``: inner ones are odd where there are many, as what is left mostly is.

    >>> counts_to_measure(12), counts_to_measure(1536)
    ((0, 2, 3, 6, 9, 12), (0, 193, 385, 769, 1153, 1536))
    """
    inner = [math.ceil(count * share) for share in (1 / 8, 1 / 4, 1 / 2, 3 / 4)]
    odd = [each + (count >= 64 and each % 2 == 0) for each in inner]
    return tuple(sorted({0, *odd, count}))
