"""What parts of a model are called in figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress_explain.model.tasks import TASKS
from compress_explain.report.numbers import kinds

if TYPE_CHECKING:
    from compress_explain.record.outcome import Run


def answers(run: Run) -> str:
    """What the model gives its answers for: ``rows``, ``words`` or ``tokens``."""
    return f"{TASKS[run.summary['settings']['task']].decides}s"


def plural(kind: str) -> str:
    """
    >>> plural("kv_group"), plural("linear int8")
    ('key-value groups', 'linears as int8')
    """
    if kind.startswith("linear "):
        return f"linears as {kind.removeprefix('linear ')}"
    return kinds({kind: 2}).removeprefix("2 ")


def group_labels(names: Sequence[str]) -> dict[str, str]:
    """``encoder.layer.3.attention.head`` as ``layer 3``, with stack and sublayer where they differ."""
    split = {name: name.split(".") for name in names}
    stacks = {parts[0] for parts in split.values()}
    cross = any(parts[3] == "cross_attention" for parts in split.values())
    labels = {}
    for name, parts in split.items():
        label = f"{parts[0]} layer {parts[2]}" if len(stacks) > 1 else f"layer {parts[2]}"
        labels[name] = (
            f"{label}, {'cross' if parts[3] == 'cross_attention' else 'self'}"
            if cross and parts[0] == "decoder"
            else label
        )
    return labels
