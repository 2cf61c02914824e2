"""Both models of a comparison timed in turn at every size of a grid, as a table of calls, and the scores of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from compress_explain.comparison.contest import Contest, Side
from compress_explain.comparison.decided import Forward
from compress_explain.comparison.scores import Direction, Score
from compress_explain.data.examples import ALL, Examples
from compress_explain.deployment.compiled import CompiledRunner, TorchRunner
from compress_explain.deployment.compiled import threads as torch_threads
from compress_explain.deployment.latency import sized_inputs
from compress_explain.deployment.runtime import OnnxRunner
from compress_explain.hardware.interleaved import COMPRESSED, CONTROL, ORIGINAL, Action, Patience, interleave, pinned
from compress_explain.hardware.paired_times import Estimate, PairedTimes
from compress_explain.progress import Advance

_PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0}
_FEWEST = {"p99": 1000}  # calls that a percentile needs


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Batches and tokens; None stands for the lengths of the split, which have names until it is read."""

    batches: tuple[int, ...]
    tokens: tuple[int, ...] | None

    @property
    def labels(self) -> tuple[str, ...]:
        return ("median", "p95") if self.tokens is None else tuple(map(str, self.tokens))

    @property
    def points(self) -> tuple[str, ...]:
        """
        >>> Sizes(batches=(1, 16), tokens=(128,)).points
        ('1x128', '16x128')
        """
        return tuple(f"{batch}x{label}" for batch in self.batches for label in self.labels)

    def of(self, examples: Examples) -> Iterator[tuple[str, int, int]]:
        """Name, batch and tokens of every size; of inputs that are not tokens one size a batch."""
        lengths = self.tokens or (int(np.median(examples.lengths)), examples.tokens)
        reads_tokens = bool(examples.padding) and "input_ids" in examples.inputs
        for batch in self.batches:
            for label, tokens in list(zip(self.labels, lengths, strict=True))[: None if reads_tokens else 1]:
                yield f"{batch}x{label}", batch, max(tokens, 2)


def point_metrics(sizes: Sizes) -> tuple[str, ...]:
    """Every metric that :func:`latency_scores` may give."""
    ends = (*_PERCENTILES, "speedup")
    first = tuple(f"latency.{end}" for end in ends)
    return (*first, "throughput", *(f"latency.{point}.{end}" for point in sizes.points for end in ends))


def timed(
    contest: Contest, sizes: Sizes, patience: Patience, threads: int, seed: int, advance: Advance
) -> pd.DataFrame:
    """One line a call: size, block, position, side, milliseconds. On ``threads`` processors of this machine."""
    points = list(sizes.of(contest.original.examples))
    tables = []
    with pinned(threads), torch_threads(threads):
        original, compressed = (_on_threads(side.forward, threads) for side in contest.sides)
        for number, (point, batch, tokens) in enumerate(points):
            mine = _call(original, contest.original, batch, tokens)
            sides = {ORIGINAL: mine, COMPRESSED: _call(compressed, contest.compressed, batch, tokens), CONTROL: mine}
            calls = interleave(sides, patience, seed=seed + number)
            about = {"point": point, "batch": batch, "tokens": tokens, "threads": threads}
            tables.append(pd.DataFrame([asdict(call) for call in calls]).assign(**about, form=contest.compressed.form))
            advance(len(contest.original.examples) // len(points))
    return pd.concat(tables, ignore_index=True)


def latency_scores(measured: pd.DataFrame, confidence: float) -> list[Score]:
    """Percentiles and speedup of every size, those of the first also under short names, and rows a second."""
    found: list[Score] = []
    for point, times in times_of(measured, confidence).items():
        found += _scores(f"latency.{point}", times)
    first = str(measured["point"].iloc[0])
    short = [
        replace(score, metric=score.metric.replace(f".{first}.", "."))
        for score in found
        if score.metric.startswith(f"latency.{first}.")
    ]
    return [*short, _throughput(measured, confidence), *found]


def times_of(measured: pd.DataFrame, confidence: float = 0.90) -> dict[str, PairedTimes]:
    """By size, in the order of the table."""
    return {
        str(point): PairedTimes.of(calls["block"], calls["side"], calls["milliseconds"], confidence)
        for point, calls in measured.groupby("point", sort=False)
    }


def _scores(name: str, times: PairedTimes) -> Iterator[Score]:
    for end, q in _PERCENTILES.items():
        if times.calls >= _FEWEST.get(end, 0):
            yield _score(f"{name}.{end}", times, times.percentile(q), "ms", "lower")
    ratio = times.speedup
    one = Estimate(value=1.0, low=1.0, high=1.0)
    change = Estimate(value=ratio.value - 1, low=ratio.low - 1, high=ratio.high - 1)
    yield _score(f"{name}.speedup", times, (one, ratio, change), "times", "higher")


def _throughput(measured: pd.DataFrame, confidence: float) -> Score:
    """Of the largest batch, the median calls; what is slower than a median call is slower by what the interval says."""
    batch = int(measured["batch"].max())
    point = str(measured.loc[measured["batch"] == batch, "point"].iloc[0])
    times = times_of(measured[measured["point"] == point], confidence)[point]
    original, compressed, change = times.rates(batch)
    return _score("throughput", times, (original, compressed, change), "rows/s", "higher")


def _score(
    metric: str, times: PairedTimes, figures: tuple[Estimate, Estimate, Estimate], unit: str, direction: Direction
) -> Score:
    original, compressed, change = figures
    return Score(
        metric=metric, slice=ALL, original=original.value, compressed=compressed.value, difference=change.value,
        low=change.low, high=change.high, compressed_low=compressed.low, compressed_high=compressed.high,
        n=times.calls, unit=unit, direction=direction, confidence=times.confidence, doubt=times.doubt,
    )  # fmt: skip


def _call(forward: Forward, side: Side, batch: int, tokens: int) -> Action:
    inputs = sized_inputs(side.examples, batch, tokens)
    return lambda: forward(inputs)


def _on_threads(forward: Forward, threads: int) -> Forward:
    """Runners remember on how many threads they run."""
    if isinstance(forward, OnnxRunner | CompiledRunner | TorchRunner):
        return replace(forward, threads=threads)
    return forward
