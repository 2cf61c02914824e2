"""What a search may try, how much of it, and what the point that it names must keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Literal, cast, get_args

from compress_explain.errors import InputError, did_you_mean

By = Literal["work", "flops", "parameters", "bytes", "milliseconds"]
AIMS = ("flops_kept", "parameters_kept", "bytes_kept")


@dataclass(frozen=True, kw_only=True)
class Search:
    """How strategies, their order and their budgets are to be chosen.

    ``strategies`` narrows what may be in a pipeline: names of the catalogue, mappings from a name to its
    options (a list stands for one value each), or objects; None takes whatever the catalogue offers. ``levels`` are the
    shares of FLOPs that budgets are tried at, in (0, 1), and ``losses`` the KL in nats that strategies with an allowed
    ``loss`` may spend. ``trials`` full runs are made; three times as many pipelines are tried by mask with
    compensation before, and nine times as many on ``rows`` rows of validation without it, unless there are fewer.
    After ``minutes`` nothing new is begun, but one trial always is.

    ``flops_kept``, ``parameters_kept`` and ``bytes_kept`` are what the named point may keep of the original's at most, in
    (0, 1]. ``by`` is what counts as cost: ``milliseconds`` with a target and else ``work``, the FLOPs that in float32 take as
    long as what is left, a quantized linear being as many times as fast as its strategy takes it to be.
    """

    strategies: Sequence[Any] | None = None
    levels: Sequence[float] = (0.8, 0.65, 0.5, 0.4, 0.3, 0.2)
    losses: Sequence[float] = (0.01, 0.05)
    trials: int = 4
    rows: int = 256
    minutes: float | None = None
    by: str | None = None
    flops_kept: float | None = None
    parameters_kept: float | None = None
    bytes_kept: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        object.__setattr__(self, "losses", tuple(self.losses))
        if self.strategies is not None:
            object.__setattr__(self, "strategies", tuple(self.strategies))
            if not self.strategies:
                raise InputError("search.strategies", [], "nothing may be tried", "name one, or leave the key out")
        if not self.levels or not all(_is_number(level) and 0 < level < 1 for level in self.levels):
            raise InputError("search.levels", list(self.levels), "not shares in (0, 1)", "try [0.65, 0.4, 0.2]")
        if not all(_is_number(loss) and 0 < loss <= 100 for loss in self.losses):
            raise InputError("search.losses", list(self.losses), "not nats in (0, 100]", "try [0.01, 0.05]")
        if type(self.trials) is not int or not 1 <= self.trials <= 100:
            raise InputError("search.trials", self.trials, "not a whole number in 1..100", "try 4")
        if type(self.rows) is not int or self.rows < 2:
            raise InputError("search.rows", self.rows, "not a whole number of 2 or more", "try 256")
        if self.minutes is not None and not (_is_number(self.minutes) and self.minutes > 0):
            raise InputError("search.minutes", self.minutes, "not a time above 0", "try 30, or leave the key out")
        if self.by is not None and self.by not in get_args(By):
            raise InputError(
                "search.by", self.by, "nothing that costs are counted in", did_you_mean(self.by, get_args(By))
            )
        for name, value in self.aims.items():
            if not (_is_number(value) and 0 < value <= 1):
                raise InputError(f"search.{name}", value, "lies outside (0, 1]", "give a share such as 0.4")

    @property
    def aims(self) -> dict[str, float]:
        """What the named point may keep at most, by name; only what was asked for."""
        return {name: value for name in AIMS if (value := getattr(self, name)) is not None}

    def counted(self, *, timed: bool) -> By:
        """What counts as cost in a job, ``timed`` when it has a target.

        Raises:
            InputError: milliseconds are counted without a target.
        """
        if self.by == "milliseconds" and not timed:
            raise InputError(
                "search.by", self.by, "nothing is timed without a target", "add the key target, or count work"
            )
        return cast("By", self.by) if self.by else ("milliseconds" if timed else "work")

    def settings(self) -> dict[str, Any]:
        """As plain values."""
        facts = {name: value for name, value in vars(self).items() if name != "strategies"}
        chosen = None if self.strategies is None else [described(each) for each in self.strategies]
        return {"strategies": chosen, **{name: list(v) if isinstance(v, tuple) else v for name, v in facts.items()}}


def described(entry: Any) -> Any:
    """A strategy that was named or given as an object, as plain values."""
    if is_dataclass(entry) and not isinstance(entry, type):
        return {type(entry).__name__.lower(): asdict(entry)}
    return dict(entry) if isinstance(entry, Mapping) else entry


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
