"""Edits and plans: decisions as values that can be printed, saved and compared before anything changes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Literal

import pandas as pd

from compress_explain.model.embedding import TOKEN
from compress_explain.weight_edits import LowRank, Unedited, WeightEdit, weight_edit

Action = Literal["remove", "quantize", "factorize", "restore"]
VERBS = MappingProxyType({"remove": "removed", "quantize": "quantized", "factorize": "factored", "restore": "put back"})


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One decision on one component, with its reason and what it is expected to do.

    ``expected_loss_change`` is in nats, mean per example over the calibration split.
    ``parameters_saved`` and ``flops_saved`` are negative for a restoration. ``into`` names the weight
    edit of a linear that is quantized or factored, or was until it is restored. ``work_saved`` is the FLOPs that
    in float32 take as long as what is saved: of a removal the same, of a quantized linear those that
    it is faster by.
    """

    component: str
    kind: str
    action: Action
    reason: str
    expected_loss_change: float
    parameters_saved: int
    flops_saved: int
    into: str = ""
    work_saved: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The ordered edits of one step, by whom they were proposed."""

    step: str
    author: str
    edits: tuple[Edit, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.edits)

    @property
    def components(self) -> list[str]:
        return [edit.component for edit in self.edits]

    def of(self, action: Action) -> list[str]:
        """The components of the edits of one kind."""
        return [edit.component for edit in self.edits if edit.action == action]

    @property
    def of_components(self) -> list[str]:
        """What is removed or put back at a site: linears and tokens aside."""
        return [edit.component for edit in self.edits if not edit.into and edit.kind != TOKEN]

    @property
    def edits_of_linears(self) -> dict[str, WeightEdit]:
        """By linear: the edit of its weight that the plan leads to."""
        linears = [edit for edit in self.edits if edit.into]
        return {each.component: Unedited() if each.action == "restore" else weight_edit(each.into) for each in linears}

    @property
    def verb(self) -> str:
        """What the plan does, in one word."""
        return VERBS[self.edits[0].action]

    @property
    def quantized(self) -> dict[str, str]:
        """By linear: what it is quantized into."""
        return {edit.component: edit.into for edit in self.edits if edit.action == "quantize"}

    @property
    def factored(self) -> dict[str, str]:
        """By linear: the rank that it is factored to, as the name of a weight edit."""
        return {edit.component: edit.into for edit in self.edits if edit.action == "factorize"}

    @property
    def made_whole(self) -> list[str]:
        """The linears that were factored and are put back."""
        back = [edit for edit in self.edits if edit.action == "restore"]
        return [edit.component for edit in back if _first_done(edit) == "factorize"]

    @property
    def calls_for_refits(self) -> bool:
        """Whether it changes something that weights are fitted to: anything but tokens and what is only rounded."""
        others = [edit for edit in self.edits if edit.kind != TOKEN and not edit.into]
        return bool(others or self.factored or self.made_whole)

    @property
    def flops_saved(self) -> int:
        return sum(edit.flops_saved for edit in self.edits)

    @property
    def parameters_saved(self) -> int:
        return sum(edit.parameters_saved for edit in self.edits)

    def counts(self) -> dict[str, int]:
        """Edits by kind of component."""
        kinds = [edit.kind for edit in self.edits]
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}

    def to_frame(self) -> pd.DataFrame:
        columns = [column.name for column in fields(Edit)]
        return pd.DataFrame([asdict(edit) for edit in self.edits], columns=columns)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, *, step: str, author: str) -> Plan:
        edits = tuple(Edit(**row) for row in frame.to_dict("records"))
        return cls(step=step, author=author, edits=edits)


def counted(counts: dict[str, int]) -> str:
    """Counts by kind in words.

    >>> counted({"head": 1, "kv_group": 2, "neuron": 1751})
    '1 head, 2 kv groups, 1,751 neurons'
    """
    return ", ".join(f"{count:,} {kind.replace('_', ' ')}{'s' * (count != 1)}" for kind, count in counts.items())


def undone(restoration: Edit) -> Edit:
    """The edit that takes a restoration back."""
    return replace(
        restoration,
        action=_first_done(restoration),
        reason="tried without: the gates may hold without this restoration",
        expected_loss_change=-restoration.expected_loss_change,
        parameters_saved=-restoration.parameters_saved,
        flops_saved=-restoration.flops_saved,
        work_saved=-restoration.work_saved,
    )


def _first_done(restoration: Edit) -> Action:
    """What was done to what is put back."""
    if not restoration.into:
        return "remove"
    return "factorize" if isinstance(weight_edit(restoration.into), LowRank) else "quantize"
