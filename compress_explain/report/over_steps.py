"""Where lines over training steps go, with the bands of their intervals; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from compress_explain.report.charts import Scale, round_values, scale_over

_LEFT, _RIGHT, _TOP = 62.0, 14.0, 26.0
_TICK = 30.0  # px that the text of a step takes, at least


@dataclass(frozen=True, kw_only=True)
class Track:
    """One line before it is placed: values by step, with their intervals where there are any; ``beside`` are other seeds, drawn thin."""

    name: str
    look: int  # which of the colours and dashes
    points: Sequence[tuple[int, float, float | None, float | None]]
    beside: bool = False


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One line, its band ("" where there is none) and its points as (x, y, title)."""

    name: str
    look: int
    beside: bool
    path: str
    band: str
    points: tuple[tuple[float, float, str], ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class OverSteps:
    """Lines in one frame ``box`` (left, top, right, bottom) over steps, which are spaced by their logarithm; sizes in px."""

    name: str
    title: str
    width: float
    height: float
    box: tuple[float, float, float, float]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    zero: float | None
    lines: tuple[Placed, ...]


def over_steps(
    name: str, title: str, tracks: Sequence[Track], *, wide: float = 400.0, high: float = 190.0, zero: bool = True
) -> OverSteps | None:
    """Place ``tracks``, or None where none has a finite value; with ``zero``, 0 is on the scale."""
    steps = sorted({step for track in tracks for step, *_ in track.points})
    values = [
        value
        for track in tracks
        for _, *told in track.points
        for value in told
        if value is not None and math.isfinite(value)
    ]
    if not values:
        return None
    box = (_LEFT, _TOP, _LEFT + wide, _TOP + high)
    along = _Along.over(steps, box[0] + 8, box[2] - 8)
    up = scale_over([0.0, *values] if zero else values, box[3], box[1])
    return OverSteps(
        name=name, title=title, width=box[2] + _RIGHT, height=box[3] + 40, box=box,
        across=tuple(_apart([(along(step), f"{step:,}") for step in steps])),
        up=tuple((up(value), text.lstrip("+")) for value, text in round_values(up.low, up.high)),
        zero=up(0.0) if zero else None, lines=tuple(_placed(track, along, up) for track in tracks),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Along:
    """Where a step stands. Where there is a step 0, all count from the first one after it: 0 is then as far from that as that from twice it."""

    scale: Scale
    more: int

    @classmethod
    def over(cls, steps: Sequence[int], start: float, stop: float) -> _Along:
        more = 0 if steps[0] > 0 else next(iter(steps[1:]), 1)
        low, high = (math.log(step + more) for step in (steps[0], steps[-1]))
        return cls(scale=Scale(low=low, high=max(high, low + 1), start=start, stop=stop), more=more)

    def __call__(self, step: int) -> float:
        return self.scale(math.log(step + self.more))


def _placed(track: Track, along: _Along, up: Scale) -> Placed:
    seen = [(along(step), value, low, high, step) for step, value, low, high in track.points if _is(value)]
    banded = [(x, low, high) for x, _, low, high, _ in seen if _is(low) and _is(high)]
    ends = [f"{x} {up(high)}" for x, _, high in banded] + [f"{x} {up(low)}" for x, low, _ in reversed(banded)]  # type: ignore[arg-type]
    return Placed(
        name=track.name, look=track.look, beside=track.beside,
        path="M" + "L".join(f"{x} {up(value)}" for x, value, *_ in seen) if seen else "",
        band="M" + "L".join(ends) + "Z" if len(banded) > 1 else "",
        points=tuple((x, up(value), _title(track.name, step, value, low, high)) for x, value, low, high, step in seen),
    )  # fmt: skip


def _title(name: str, step: int, value: float, low: float | None, high: float | None) -> str:
    interval = f" ({low:.3f} to {high:.3f})" if _is(low) and _is(high) else ""
    return f"{name}, step {step:,}: {value:.3f}{interval}".replace("-", "\N{MINUS SIGN}")


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Those that leave room for one another, the last one always."""
    kept = [ticks[-1]]
    for tick in reversed(ticks[:-1]):
        if kept[-1][0] - tick[0] >= max(_TICK, 7.0 * len(tick[1]) + 6):
            kept.append(tick)
    return kept[::-1]


def _is(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
