"""Tune what is left to what the original says: recovery without labels, once other strategies have edited."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from compress_explain.data.sources import SUFFIXES
from compress_explain.editing.edits import Edit
from compress_explain.errors import InputError
from compress_explain.plugins.strategy import Situation
from compress_explain.tuning import Recipe

_ABOVE = {"epochs": (0, 10_000), "learning_rate": (0, 1), "temperature": (0, 100), "again": (0, 1)}


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Train what is left, without labels, to predict what the original predicts, and to have its token states.

    ``texts`` are the rows to learn from: a CSV, JSONL or Parquet file and its ``column``, or a ``.txt`` file
    with a text on each line; calibration's by default. ``epochs`` times as many rows are read, of which a
    share ``augment``, in [0, 1], are new texts: parts of texts, two parts joined, words left out or
    exchanged. ``tunes`` says what is trained: ``all`` linears and norms, or the ``head``, what comes after the last
    layer. The learning rate rises to ``learning_rate`` and falls to 0 again, in steps of ``batch_size`` rows.

    The loss is the KL of predictions softened by ``temperature`` plus ``hidden`` times the share of the
    original's token states that is missed, after the last layer and the others of ``layers`` in which
    most of them is lost. The weights that are kept are running averages, of which a share ``average`` stays at every
    step, from where those are closest to the original on validation (KL); after ``patience`` checks without a
    better one it ends. When components are put back, or more are taken
    out, a share ``again`` of the rows is read once more.
    """

    texts: str | None = None
    column: str = "text"
    epochs: float = 20.0
    learning_rate: float = 2e-4
    batch_size: int = 32
    tunes: Literal["all", "head"] = "all"
    hidden: float = 1.0
    layers: int = 3
    temperature: float = 4.0
    augment: float = 0.75
    patience: int = 40
    again: float = 0.1
    average: float = 0.99

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("linear",)

    @property
    def rounds(self) -> int:
        return 1

    @property
    def recipe(self) -> Recipe:
        return Recipe(**asdict(self))

    def __post_init__(self) -> None:
        for name, (above, most) in _ABOVE.items():
            value = getattr(self, name)
            self._need(
                name, isinstance(value, int | float) and above < value <= most, f"lies outside ({above}, {most}]"
            )
        for name, most in (("augment", 1), ("hidden", 1000), ("average", 1)):
            value = getattr(self, name)
            self._need(name, isinstance(value, int | float) and 0 <= value <= most, f"lies outside [0, {most}]")
        for name in ("batch_size", "layers", "patience"):
            whole = type(getattr(self, name)) is int and getattr(self, name) >= 1
            self._need(name, whole, "not a whole number of 1 or more")
        self._need("tunes", self.tunes in ("all", "head"), "neither all nor head")
        path = None if self.texts is None else Path(self.texts)
        if path is not None and path.suffix in (".txt", *SUFFIXES) and not path.exists():
            remedy = f"check the path (from {Path.cwd()})"
            raise InputError("strategies: distill.texts", self.texts, "no such file", remedy)

    def _need(self, name: str, holds: bool, problem: str) -> None:
        if not holds:
            remedy = f"try {getattr(type(self), name)}"
            raise InputError(f"strategies: distill.{name}", getattr(self, name), problem, remedy)

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        """Nothing: it edits no component."""
        return ()
