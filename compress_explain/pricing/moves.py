"""How edits move predictions, row by row, so that it can be told what some of them do together.

Expected impacts are means over rows, and means do not add up: two edits that move the same rows the
same way cost more together than one by one, two that move them in opposite ways cost less. Kept are
the moves of each edit in the metric of the softened softmax, in which half the squared length of a
sum of moves is the expected ``soft_kl`` of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """Moves of ``rows`` rows in at most ``numbers`` numbers an edit, a place of one number a choice.

    Each row has a place of its own where there are enough. Otherwise each is added to one drawn at
    random, with a random sign, which on average leaves inner products what they are (count sketch:
    Charikar, Chen and Farach-Colton 2002).
    """

    numbers: int
    rows: int
    seed: int = 0

    def add(
        self,
        totals: Float[Tensor, "numbers columns"],
        rows: np.ndarray,
        moves: Float[Tensor, "batch columns choices"],
    ) -> None:
        """Add the moves of some rows to ``totals``."""
        choices = moves.shape[-1]
        places = self.numbers // choices
        drawn, signs = self._drawn
        place = torch.from_numpy(rows)
        if self.rows > places:
            moves = moves * signs[place, None, None].to(moves.dtype)
            place = drawn[place] % places
        numbers = place[:, None] * choices + torch.arange(choices)
        totals.index_add_(0, numbers.flatten(), moves.permute(0, 2, 1).flatten(0, 1).to(totals.dtype))

    @cached_property
    def _drawn(self) -> tuple[Tensor, Tensor]:
        """Of every row a large number and a sign."""
        random = torch.Generator().manual_seed(self.seed)
        drawn = torch.randint(2**31, (self.rows,), generator=random)
        return drawn, torch.randint(2, (self.rows,), generator=random) * 2.0 - 1
