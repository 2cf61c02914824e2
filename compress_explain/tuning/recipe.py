"""How what is left is tuned to what the original says: on which texts, for how long, towards what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way of tuning. No labels are asked for: the original is the teacher.

    ``texts`` names the rows to tune on (None: calibration's) and ``column`` theirs; a share ``augment``
    of what is read, in [0, 1], are texts made of them. As many rows are read as there are in ``epochs`` times the
    texts. The loss is the KL of predictions at ``temperature`` plus ``hidden`` times the share of the
    original's token states that is missed after ``layers`` layers. Tuning stops when validation has
    not improved ``patience`` times in a row. What is kept are running averages of the weights, of which a share
    ``average`` stays at every step. A brief tuning reads a share ``again`` of the rows.
    """

    texts: str | None
    column: str
    epochs: float
    learning_rate: float
    batch_size: int
    tunes: Literal["all", "head"]
    hidden: float
    layers: int
    temperature: float
    augment: float
    patience: int
    again: float
    average: float
