"""The price table: the expected impact of every edit, per slice."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from compress_explain.pricing.impact import IMPACTS

_FACTS = b"compress_explain"


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Expected impact of each edit, per slice; mean per example (per token for language models), loss in nats.

    ``values[impact]`` and ``standard_error`` are ``(slices, edits)``. ``parameters``, ``flops`` and
    ``bytes`` are what each edit saves, or costs when it restores. ``methods`` says how each was
    priced, ``flow`` is its mean squared loss gradient (NaN where it was not asked for), and
    ``facts`` says of which model and data. ``moves``, where they were asked for, are how each edit
    moves softened predictions, so that half the squared length of a sum of columns is the
    ``soft_kl`` expected of those edits together (nats); they are not saved.
    """

    components: tuple[str, ...] = field(repr=False)
    kinds: tuple[str, ...] = field(repr=False)
    edits: tuple[str, ...] = field(repr=False)
    slices: tuple[str, ...]
    counts: tuple[int, ...]
    values: dict[str, Float[np.ndarray, "slices edits"]] = field(repr=False)
    standard_error: Float[np.ndarray, "slices edits"] = field(repr=False)
    parameters: np.ndarray = field(repr=False)
    flops: np.ndarray = field(repr=False)
    bytes: np.ndarray = field(repr=False)
    methods: tuple[str, ...] = field(repr=False)
    flow: Float[np.ndarray, " edits"] = field(repr=False)
    moves: Float[np.ndarray, "numbers edits"] | None = field(default=None, repr=False)
    facts: dict[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.components)

    @cached_property
    def restores(self) -> np.ndarray:
        """Which edits switch on again what is removed now."""
        return np.array([edit == "restore" for edit in self.edits], dtype=bool)

    @cached_property
    def kind_of(self) -> np.ndarray:
        """:attr:`kinds` as an array, for choosing columns."""
        return np.array(self.kinds, dtype=object)

    def loss_change(self, slice_name: str = "all") -> Float[np.ndarray, " edits"]:
        return self.values["loss_change"][self.slices.index(slice_name)]

    def decision_shares(self, kind: str) -> Float[np.ndarray, "slices edits"]:
        """Share of all expected logit movement among edits of ``kind`` that each carries; 0 for others."""
        moves = np.where(self.kind_of == kind, self.values["logit_move"], 0.0)
        return moves / np.maximum(moves.sum(1, keepdims=True), 1e-300)

    def save(self, path: Path) -> None:
        """Write :meth:`to_frame` as Parquet, with ``facts`` and the gradient flow in its metadata or columns."""
        table = pa.Table.from_pandas(self.to_frame(), preserve_index=False)
        metadata = {**(table.schema.metadata or {}), _FACTS: json.dumps(self.facts).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), path)

    @classmethod
    def load(cls, path: Path) -> Prices:
        """Read back what :meth:`save` wrote, to the last bit."""
        table = pq.read_table(path)
        frame = table.to_pandas()
        slices = tuple(frame["slice"].unique())
        first = frame[frame["slice"] == slices[0]]
        shape = (len(slices), len(first))
        edits = tuple(first["edit"])
        sign = np.where(first["edit"] == "restore", -1, 1)
        return cls(
            components=tuple(first["component"]),
            kinds=tuple(first["kind"]),
            edits=edits,
            slices=slices,
            counts=tuple(int(frame["n"].iloc[index * shape[1]]) for index in range(shape[0])),
            values={impact: frame[f"expected_{impact}"].to_numpy().reshape(shape) for impact in IMPACTS},
            standard_error=frame["expected_loss_change_se"].to_numpy().reshape(shape),
            parameters=first["parameters_saved"].to_numpy() * sign,
            flops=first["flops_saved"].to_numpy() * sign,
            bytes=first["bytes_saved"].to_numpy() * sign,
            methods=tuple(first["method"]),
            flow=first["gradient_flow"].to_numpy(),
            facts=json.loads(table.schema.metadata.get(_FACTS, b"{}")),
        )

    def to_frame(self) -> pd.DataFrame:
        """Long form, one row a component x edit x slice."""
        sign = np.where(self.restores, -1, 1)
        fixed = {"component": self.components, "kind": self.kinds, "edit": self.edits}
        saved = {
            "parameters_saved": self.parameters * sign,
            "flops_saved": self.flops * sign,
            "bytes_saved": self.bytes * sign,
        }
        parts = []
        for index, (slice_name, count) in enumerate(zip(self.slices, self.counts, strict=True)):
            expected = {f"expected_{impact}": self.values[impact][index] for impact in IMPACTS}
            error = {"expected_loss_change_se": self.standard_error[index]}
            where = {"slice": slice_name, "n": count}
            how = {"gradient_flow": self.flow, "method": self.methods}
            parts.append(pd.DataFrame(fixed | where | saved | error | expected | how))
        return pd.concat(parts, ignore_index=True)
