"""How closely two models are looked into: which parts, on how many rows."""

from __future__ import annotations

from dataclasses import dataclass

from compress_explain.model.tasks import TASKS, TEXT_TO_TEXT

PROBES, CKA, PATCHING, ABLATION, ATTRIBUTION, FLOW = "probes", "cka", "patching", "ablation", "attribution", "flow"
PARTS = (PROBES, CKA, PATCHING, ABLATION, ATTRIBUTION, FLOW)


@dataclass(frozen=True, kw_only=True)
class Looking:
    """How closely: ``parts`` of :data:`PARTS`, and how many decisions and rows each takes.

    ``strength`` is that of probes (scikit-learn's C), ``steps`` those of integrated gradients; ``confidence`` is two-sided.
    """

    parts: tuple[str, ...] = PARTS
    decisions: int = 4096
    learning_rows: int = 2048
    patched_rows: int = 128
    ablated_rows: int = 12
    explained_rows: int = 20
    flow_rows: int = 96
    steps: int = 16
    strength: float = 0.03
    resamples: int = 400
    confidence: float = 0.90
    seed: int = 0


def tasks_that_can() -> tuple[str, ...]:
    """The tasks whose decisions stand at places of the stream."""
    return tuple(
        name for name, task in TASKS.items() if task.decides in ("row", "word", "token") and name != TEXT_TO_TEXT
    )
