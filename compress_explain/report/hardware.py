"""Speed, size, energy: how both models compare on the machine that judged them, and on others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from compress_explain.deployment.targets import TargetRow
from compress_explain.hardware.paired_times import Estimate, PairedTimes
from compress_explain.hardware.timed import times_of
from compress_explain.report.charts import DotPlot, Line, dot_plot
from compress_explain.report.numbers import count, signed

EVALUATORS = ("latency", "coldstart", "footprint", "energy")  # whose tables are read
_NAMES = {
    "bytes_on_disk": "On disk",
    "parameters": "Parameters",
    "flops": "Computing, one row",
    "activation_memory": "Activations",
    "peak_memory": "Peak of a process",
    "cold_start": "Cold start",
    "cold_start.load": "… of it loading",
    "cold_start.first_answer": "… of it the first answer",
    "energy": "Energy",
}
_SCALES = {"bytes": (1e6, "MB"), "FLOPs a row": (1e9, "GFLOPs"), "parameters": (1e6, "millions")}
_SAID = {"faster": "faster", "slower": "slower", "no difference": "as fast", "inconclusive": "not told apart"}


@dataclass(frozen=True, kw_only=True)
class SpeedRow:
    """One size of a call, written out: medians, 95th percentiles, how many times as fast, and the original against itself."""

    size: str
    original: str
    compressed: str
    late: str
    speedup: str
    control: str
    word: str
    n: str


@dataclass(frozen=True, kw_only=True)
class TakenRow:
    """One figure of size, memory, start or energy, written out; ``doubt`` says why it carries no verdict."""

    name: str
    original: str
    compressed: str
    change: str
    n: str
    doubt: str


@dataclass(frozen=True, kw_only=True)
class ElsewhereRow:
    """One size on another machine, written out."""

    machine: str
    size: str
    original: str
    artifact: str
    speedup: str
    word: str
    n: str


@dataclass(frozen=True, kw_only=True)
class HardwareSection:
    """Sentences first, then sizes of calls, what else is taken, and other machines; ``missing`` says what was not measured and why."""

    sentences: tuple[str, ...]
    threads: int
    form: str
    speeds: tuple[SpeedRow, ...]
    figure: DotPlot | None
    taken: tuple[TakenRow, ...]
    elsewhere: tuple[ElsewhereRow, ...]
    missing: tuple[str, ...]


def hardware_section(
    scores: Mapping[tuple[str, str], Mapping[str, Any]],
    tables: Mapping[str, pd.DataFrame | None],
    targets: Sequence[TargetRow] = (),
) -> HardwareSection | None:
    """``tables`` are what the evaluators of :data:`EVALUATORS` saw, by name; None where nothing of all this was measured."""
    calls = tables.get("latency")
    times = {} if calls is None else times_of(calls)
    taken = tuple(_taken(scores))
    missing = tuple(_missing(tables))
    if not (times or taken or targets or missing):
        return None
    return HardwareSection(
        sentences=tuple(_sentences(times, scores, targets)),
        threads=1 if calls is None else int(calls["threads"].iloc[0]),
        form="" if calls is None else str(calls["form"].iloc[0]),
        speeds=tuple(_speed(_size(calls, point), each) for point, each in times.items()),
        figure=_figure({_size(calls, point): each for point, each in times.items()}),
        taken=taken,
        elsewhere=tuple(_elsewhere(row) for row in targets),
        missing=missing,
    )


def _sentences(
    times: Mapping[str, PairedTimes], scores: Mapping[tuple[str, str], Mapping[str, Any]], targets: Sequence[TargetRow]
) -> Iterator[str]:
    for each in list(times.values())[:1]:
        yield _verdict(each)
    for metric, words in (("bytes_on_disk", "On disk it takes"), ("peak_memory", "Its process takes at most")):
        score = scores.get((metric, "all"))
        if score is not None and score["original"] > 0:
            scale, unit = _SCALES.get(score["unit"], (1.0, score["unit"]))
            yield f"{words} {score['compressed'] / scale:,.3g} {unit}, the original {score['original'] / scale:,.3g}."
    sure = [row for row in targets if row.verdict]
    if sure:
        faster = sum(row.verdict == "faster" for row in sure)
        yield f"Elsewhere it is faster at {count(faster)} of {count(len(sure))} sizes that were timed."


def _verdict(times: PairedTimes) -> str:
    ratio, before, after = times.speedup, *times.percentile(50)[:2]
    figures = (
        f"{before.value:.3g} ms a call became {after.value:.3g} ms, {_ratio(ratio)} times as fast "
        f"(n = {count(times.calls)} calls of each, {count(times.blocks)} blocks)"
    )
    if times.doubt:
        return f"Whether the compressed model is faster cannot be told: {times.doubt}."
    said = {
        "faster": "The compressed model is faster",
        "slower": "The compressed model is slower",
        "no difference": "The compressed model is as fast as the original, to within 5%",
        "inconclusive": "Whether the compressed model is faster cannot be told from so few blocks",
    }[times.word]
    return f"{said}: {figures}."


def _speed(size: str, times: PairedTimes) -> SpeedRow:
    before, after, _ = times.percentile(50)
    late = times.percentile(95)
    return SpeedRow(
        size=size,
        original=_interval(before),
        compressed=_interval(after),
        late=f"{late[0].value:.3g} → {late[1].value:.3g}",
        speedup=_ratio(times.speedup),
        control=_ratio(times.control),
        word=_SAID[times.word],
        n=count(times.calls),
    )


def _figure(times: Mapping[str, PairedTimes]) -> DotPlot | None:
    if not times:
        return None
    lines = [_line(size, each) for size, each in times.items()]
    description = "One line a size: the dot is the change of the time, the stroke its interval; the diamond is the original against itself."
    return dot_plot("speed", "Change of the time of a call", description, list(times), [("Time of a call, change in % (left is better)", lines)])  # fmt: skip


def _line(size: str, times: PairedTimes) -> Line:
    value, low, high = (100 / each - 100 for each in (times.speedup.value, times.speedup.high, times.speedup.low))
    return Line(
        stretch=(low, high),
        marks=(("diamond", 100 / times.control.value - 100), ("dot", value)),
        title=f"{size}: {signed(value, 1)}% ({signed(low, 1)} to {signed(high, 1)})",
    )


def _taken(scores: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[TakenRow]:
    for metric, name in _NAMES.items():
        score = scores.get((metric, "all"))
        if score is None:
            continue
        scale, unit = _SCALES.get(score["unit"], (1.0, score["unit"]))
        before, after, low, high = (score[key] / scale for key in ("original", "compressed", "low", "high"))
        exact = low == high
        interval = "counted" if exact else f"{_signed(low)} to {_signed(high)}"
        yield TakenRow(
            name=f"{name}, {unit}",
            original=f"{before:,.4g}",
            compressed=f"{after:,.4g}",
            change=f"{_signed(score['difference'] / scale)} ({interval})",
            n="–" if exact else count(int(score["n"])),
            doubt=str(score.get("doubt") or ""),
        )


def _missing(tables: Mapping[str, pd.DataFrame | None]) -> Iterator[str]:
    names = {"coldstart": "Cold start", "footprint": "", "energy": "Energy"}
    for evaluator, name in names.items():
        table = tables.get(evaluator)
        if table is None or "why" not in table:
            continue
        if evaluator == "energy":
            method = str(table["method"].iloc[0])
            if method == "none":
                yield f"Energy was not measured: {table['why'].iloc[0]}."
            else:
                yield f"Energy was read by {method}." + (f" Not by what is better: {table['why'].iloc[0]}." if table["why"].iloc[0] else "")  # fmt: skip
            continue
        gone = table[table["why"].astype(str) != ""]
        for _, line in gone.iterrows():
            if name or line["figure"] in _NAMES:
                yield f"{name or _NAMES[line['figure']]}: not measured, {line['why']}."


def _elsewhere(row: TargetRow) -> ElsewhereRow:
    return ElsewhereRow(
        machine=f"{row.machine} ({row.processor}, {row.threads} thread{'' if row.threads == 1 else 's'})",
        size=_rows_of(row.batch, row.tokens),
        original="–" if row.original is None else _interval(row.original),
        artifact=_interval(row.artifact),
        speedup="–" if row.speedup is None else _ratio(row.speedup),
        word=_SAID.get(row.verdict, "–"),
        n=count(row.n),
    )


def _size(calls: pd.DataFrame | None, point: str) -> str:
    assert calls is not None
    first = calls[calls["point"] == point].iloc[0]
    return _rows_of(int(first["batch"]), int(first["tokens"]))


def _rows_of(batch: int, tokens: int) -> str:
    return f"{count(batch)} row{'' if batch == 1 else 's'} of {count(tokens)} tokens"


def _interval(of: Estimate) -> str:
    return f"{of.value:.3g} ({of.low:.3g} to {of.high:.3g})"


def _ratio(of: Estimate) -> str:
    return f"{of.value:.2f} ({of.low:.2f} to {of.high:.2f})"


def _signed(value: float) -> str:
    return f"{value:+,.3g}".replace("-", "−") if value else "0"
