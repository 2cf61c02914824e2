"""Looks at a training, kept on disk one by one, so that a run that was killed loses none, and read back as one table.

In ``steps/`` lie, for each step of each seed, the findings as Parquet and, beside them as NumPy arrays, what is computed with over several
steps. Files are written under another name first: what has its name is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from compress_explain.signals.findings import COLUMNS, Finding, as_table
from compress_explain.signals.probing.resampling import Readings
from compress_explain.signals.training.observing import Observation

STEPS = "steps"
FORMAT = 2  # of what lies in it
_ABOVE, _HELD, _LOSS, _OUTLINE = "above", "held", "loss", "outline"
_ARRAYS = ("values", "draws", "choosing", "weights")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The looks at one training, ``seed`` by number, in ``folder``."""

    folder: Path
    seed: int = 0

    @property
    def steps(self) -> tuple[int, ...]:
        """Those that have been looked at, in order."""
        return tuple(sorted(int(path.stem.partition("-")[2]) for path in self._place.glob(f"{self.seed}-*.parquet")))

    def put(self, observation: Observation, identity: str = "") -> None:
        """Keep one, in the place of an earlier one of the same step. ``identity`` says of what it was made."""
        self._place.mkdir(parents=True, exist_ok=True)
        readings = {
            **{f"{_ABOVE}|{signal}": each for signal, each in observation.above.items()},
            **{f"{_HELD}|{signal}": each for signal, each in observation.held.items()},
            _LOSS: observation.loss,
        }
        arrays = {f"{what}|{name}": getattr(each, name) for what, each in readings.items() for name in _ARRAYS}
        made = {"identity": np.array(identity), _OUTLINE: observation.outline, **arrays}
        _whole(self._file(observation.step, "npz"), lambda path: np.savez(path, **made))
        table = as_table(observation.findings)
        _whole(self._file(observation.step, "parquet"), lambda path: table.to_parquet(path, index=False))

    def made_of(self, step: int) -> str | None:
        """The identity of what a step was made of; None where it is not there."""
        if step not in self.steps:
            return None
        with np.load(self._file(step, "npz")) as arrays:
            return str(arrays["identity"])

    def get(self, step: int) -> Observation:
        """What was found at one step.

        Raises:
            FileNotFoundError: nothing was.
        """
        table = pd.read_parquet(self._file(step, "parquet"))
        with np.load(self._file(step, "npz")) as arrays:
            whats = dict.fromkeys(name.rpartition("|")[0] for name in arrays.files if "|" in name)
            readings = {what: Readings(**{name: arrays[f"{what}|{name}"] for name in _ARRAYS}) for what in whats}
            outline = arrays[_OUTLINE]
        above, held = (
            {what.partition("|")[2]: each for what, each in readings.items() if what.startswith(f"{kind}|")}
            for kind in (_ABOVE, _HELD)
        )
        findings = tuple(Finding(**row) for row in table.to_dict("records"))
        return Observation(step=step, loss=readings[_LOSS], above=above, held=held, findings=findings, outline=outline)

    def all(self) -> tuple[Observation, ...]:
        return tuple(self.get(step) for step in self.steps)

    def forget_after(self, step: int) -> None:
        """Drop what was found beyond a step, which a training that continues from there will come to anew."""
        for late in self.steps:
            if late > step:
                self._file(late, "parquet").unlink()
                self._file(late, "npz").unlink()

    @property
    def _place(self) -> Path:
        return self.folder / STEPS

    def _file(self, step: int, kind: str) -> Path:
        return self._place / f"{self.seed}-{step}.{kind}"


def table_of(kept: Kept) -> pd.DataFrame:
    """All findings of one training, one row each, with the columns ``step`` and ``seed``."""
    tables = list(_tables(kept))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*COLUMNS, "step", "seed"])


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Replace a Parquet file in one step."""
    _whole(path, lambda place: table.to_parquet(place, index=False))


def _tables(kept: Kept) -> Iterator[pd.DataFrame]:
    for observation in kept.all():
        yield as_table(observation.findings).assign(step=observation.step, seed=kept.seed)


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    part = path.with_name(f".part-{path.name}")  # keeps the ending, which NumPy would add
    write(part)
    part.replace(path)
