"""The page of an observed training: when signals form, where, whether they are kept, and what falls while the loss improves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from compress_explain.report.numbers import count, plain, signed
from compress_explain.report.over_steps import OverSteps, Track, over_steps
from compress_explain.report.page import environment
from compress_explain.report.signal_maps import SHADES, Axes, cka_map_of
from compress_explain.report.signal_words import layer_in_words
from compress_explain.signals.findings import Finding
from compress_explain.signals.training.observing import ABOVE, BEFORE, CKA, LAST, PROBE
from compress_explain.signals.training.over_steps import CHECKPOINTS, TRAININGS

_LOOKS = 8  # colours with dashes
_SPOKEN = {"task": "the right answer", "quality": "which decisions will be wrong"}


def render_observed(summary: dict[str, Any], table: pd.DataFrame) -> str:
    """The whole page, from what ``observed.json`` and ``observed.parquet`` hold. The same of both gives the same bytes."""
    mine = table[table["seed"] == 0]
    page: dict[str, Any] = {
        "training": summary["training"],
        "seeds": summary["seeds"],
        "sentences": sentences(summary),
        "rows": tuple(_row(each, summary["depths"]) for each in summary["signals"]),
        "entries": tuple((_look(index), spoken(each["signal"])) for index, each in enumerate(summary["signals"])),
        "depths": tuple(
            (_look(index), layer_in_words(depth, summary["depths"])) for index, depth in enumerate(summary["depths"])
        ),
        "loss": over_steps("loss", "Loss, nats a decision", list(_losses(summary)), wide=640, high=130, zero=False),
        "strength": over_steps(
            "strength", "Signals above the control, at their best layer", list(_strengths(summary)), wide=640
        ),
        "reach": over_steps(
            "reach", "Share of what the best layer shows that reaches the last one", list(_reaches(summary)), wide=640
        ),
        "layers": tuple(_by_layer(summary, mine)),
        "alike": tuple(_alike(summary, mine)),
        "steps_alike": _steps_alike(summary, mine),
        "spreads": tuple(_spreads(summary)),
        "confidence": summary["settings"]["confidence"],
        "decisions": summary["decisions"],
        "steps": summary["steps"],
        "settings": ", ".join(f"{name}: {value}" for name, value in summary["settings"].items()),
    }
    return environment().get_template("observed.html").render(page)


def spoken(signal: str) -> str:
    """A signal in words.

    >>> spoken("attribute.negation"), spoken("task")
    ('negation', 'the right answer')
    """
    return _SPOKEN.get(signal, signal.removeprefix("attribute."))


def sentences(summary: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """What became of each ``signals``, and early warnings, the ``falls``, in words."""
    return {
        "signals": (
            *(_told(each, summary) for each in summary["signals"]),
            *(f"{_upper(spoken(signal))} was not looked for: {why}." for signal, why in summary["left_out"].items()),
        ),
        "falls": tuple(_falls(summary)),
    }


def _told(signal: dict[str, Any], summary: dict[str, Any]) -> str:
    return _course(signal, summary) + _thrown_away(
        signal["reach"], layer_in_words(summary["depths"][-1], summary["depths"])
    )


def _thrown_away(reach: dict[str, Any], last: str) -> str:
    """Of a signal that random weights hand on, and of which less is left; nothing else is said here."""
    if not reach["thrown_away"]:
        return ""
    return (
        f" Random weights hand it on to {last} ({_interval(reach['untrained'])} above chance there); after training {_shares(reach['left'])} "
        "of that is left."
    )


def _course(signal: dict[str, Any], summary: dict[str, Any]) -> str:
    name, peak, kept = _upper(spoken(signal["signal"])), signal["peak"], signal["kept"]
    if peak["value"] is None:
        return f"{name} cannot be told: at no step enough of the decisions to learn from are wrong, and enough right."
    if signal["verdict"] == "absent":
        return f"{name}: at the step and layer that other rows choose, no more of it shows than in the control ({_interval(peak)})."
    formed, last, depths = signal["formed"], signal["last"], summary["depths"]
    begins = (
        f"{name} forms by step {count(formed['step'])} at {layer_in_words(formed['layer'], depths)} and is clearest at step "
        f"{count(peak['step'])} at {layer_in_words(peak['layer'], depths)}: {_interval(peak)} above the control."
    )
    if peak["step"] == summary["steps"][-1]:
        return f"{begins} It has its maximum at the end."
    if signal["verdict"] == "erased":
        return f"{begins} At the end no more of it shows than in the control: training erases it."
    at = f"At the end, at {layer_in_words(last['layer'], depths)}, {_shares(kept)} of that is left"
    ends = {"kept": "the difference is within what resampling allows", "weakened": "training weakens it"}
    return f"{begins} {at}; {ends[signal['verdict']]}."


def _falls(summary: dict[str, Any]) -> Iterator[str]:
    falls, expected = summary["falls"], plain(summary["falls_by_chance"], 1)
    if not falls:
        yield "No signal falls from one look to the next while the loss improves."
        return
    many = "1 fall" if len(falls) == 1 else f"{count(len(falls))} falls"
    yield f"{many} while the loss improves; up to about {expected} are to be expected by chance where nothing falls."
    for fall in falls:
        said = (
            f"{_upper(spoken(fall['signal']))}: {_interval(fall['change'], signs=True)} from step {count(fall['before'])} to "
            f"{count(fall['after'])}, while the loss changes by {signed(fall['loss']['value'], 3)} nats."
        )
        if fall["spread"] is not None:
            word = "Noise: seeds differ by more" if fall["noise"] else "More than seeds differ by"
            said += f" {word} ({plain(fall['spread'], 3)}); it falls in {fall['repeated']} of {fall['seeds']} other seeds too."
        yield said


def _row(signal: dict[str, Any], depths: Sequence[str]) -> dict[str, Any]:
    formed, peak, last = signal["formed"], signal["peak"], signal["last"]
    return {
        "name": spoken(signal["signal"]), "unit": signal["unit"], "verdict": signal["verdict"],
        "formed": "–" if formed is None else _when(formed, depths), "peak": _when(peak, depths), "height": _interval(peak),
        "last": _interval(last), "kept": "–" if signal["verdict"] in ("absent", "erased") else _shares(signal["kept"]),
        "reach": _shares(signal["reach"]["share"][-1]),
    }  # fmt: skip


def _when(told: dict[str, Any], depths: Sequence[str]) -> str:
    return f"{count(told['step'])}, {layer_in_words(told['layer'], depths)}"


def _losses(summary: dict[str, Any]) -> Iterator[Track]:
    for each in summary["of_seeds"]:
        yield Track(name=each["name"], look=0, points=_points(each["loss"], bands=False), beside=True)
    yield Track(name="loss", look=0, points=_points(summary["loss"]))


def _strengths(summary: dict[str, Any]) -> Iterator[Track]:
    for index, each in enumerate(summary["signals"]):
        for seed in summary["of_seeds"]:
            for other in seed["signals"]:
                if other["signal"] == each["signal"]:
                    name = f"{spoken(each['signal'])}, {seed['name']}"
                    yield Track(
                        name=name, look=_look(index), points=_points(other["strength"], bands=False), beside=True
                    )
        yield Track(name=spoken(each["signal"]), look=_look(index), points=_points(each["strength"]))


def _reaches(summary: dict[str, Any]) -> Iterator[Track]:
    for index, each in enumerate(summary["signals"]):
        points = _points(each["reach"]["share"])
        if points:
            yield Track(name=spoken(each["signal"]), look=_look(index), points=points)


def _by_layer(summary: dict[str, Any], table: pd.DataFrame) -> Iterator[OverSteps | None]:
    for number, each in enumerate(summary["signals"]):
        rows = table[(table["part"] == PROBE) & (table["figure"] == ABOVE) & (table["signal"] == each["signal"])]
        title = f"{_upper(spoken(each['signal']))}, {each['unit']}"
        yield over_steps(f"layers-{number}", title, list(_depth_tracks(summary, rows)), wide=340, high=170)


def _alike(summary: dict[str, Any], table: pd.DataFrame) -> Iterator[OverSteps | None]:
    for figure, title in ((LAST, "CKA with the last checkpoint"), (BEFORE, "CKA with the checkpoint before")):
        rows = table[(table["part"] == CKA) & (table["figure"] == figure)]
        if len(rows):
            yield over_steps(figure, title, list(_depth_tracks(summary, rows)), wide=340, high=170)


def _steps_alike(summary: dict[str, Any], table: pd.DataFrame) -> dict[str, Any] | None:
    """A map of checkpoint × checkpoint at the last layer, and what another training says of it; None where one checkpoint is all there is."""
    rows = table[(table["part"] == CKA) & (table["figure"] == CHECKPOINTS)]
    steps = [str(step) for step in sorted(set(rows["step"]))]
    findings = [
        Finding(part=CKA, figure=CHECKPOINTS, value=row["value"], unit="CKA", n=row["n"], layer=str(row["step"]), other=row["other"])
        for row in rows.to_dict("records")
    ]  # fmt: skip
    if len(steps) < 2 or not any(math.isfinite(each.value) for each in findings):
        return None
    layer = layer_in_words(summary["depths"][-1], summary["depths"])
    axes = Axes(are="checkpoints by their step", up="step", across="step")
    others = table[(table["part"] == CKA) & (table["figure"] == TRAININGS) & table["value"].notna()]["value"]
    return {
        "map": cka_map_of("steps-alike", f"Checkpoint by checkpoint, at {layer}", findings, steps, large=True, axes=axes),
        "shades": SHADES, "n": findings[0].n, "others": _others(list(others)),
    }  # fmt: skip


def _others(values: Sequence[float]) -> str:
    """What is to be compared with: the last checkpoints of other seeds."""
    if not values:
        return ""
    low, high = plain(min(values), 2), plain(max(values), 2)
    whose, told = (
        "that of another seed" if len(values) == 1 else "those of other seeds",
        low if low == high else f"{low} to {high}",
    )
    return f"The last checkpoint and {whose} are alike to {told}: above that, two checkpoints are more alike than two trainings."


def _depth_tracks(summary: dict[str, Any], rows: pd.DataFrame) -> Iterator[Track]:
    for index, depth in enumerate(summary["depths"]):
        here = rows[rows["layer"] == depth].sort_values("step")
        points = [tuple(row) for row in here[["step", "value", "low", "high"]].itertuples(index=False)]
        yield Track(name=layer_in_words(depth, summary["depths"]), look=_look(index), points=points)


def _spreads(summary: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """By signal the range over seeds at each step, beside half the width of the bootstrap interval."""
    told = {each["signal"]: each["strength"] for each in summary["signals"]} | {"loss": summary["loss"]}
    for signal, spread in summary["spread"].items():
        widths = {str(each["step"]): (each["low"], each["high"]) for each in told[signal]}
        cells = []
        for step in map(str, summary["steps"]):
            low, high = widths.get(step, (None, None))
            wide = "–" if low is None or high is None else plain(high - low, 3)
            cells.append(f"{plain(spread.get(step), 3)} | {wide}")
        yield spoken(signal), cells


def _points(told: list[dict[str, Any]], *, bands: bool = True) -> list[tuple[int, float, float | None, float | None]]:
    found = [each for each in told if each["value"] is not None]
    return [
        (each["step"], each["value"], *((each["low"], each["high"]) if bands else (None, None)))  # type: ignore[misc]
        for each in found
    ]


def _look(index: int) -> int:
    return index % _LOOKS


def _interval(told: dict[str, Any], *, signs: bool = False) -> str:
    write = signed if signs else plain
    low, high = told["low"], told["high"]
    return write(told["value"], 3) + ("" if low is None else f" ({write(low, 3)} to {write(high, 3)})")


def _shares(told: dict[str, Any]) -> str:
    value, low, high = (math.nan if told[name] is None else told[name] for name in ("value", "low", "high"))
    if math.isnan(value):
        return "–"
    said = [f"{plain(100 * each, 0)}%" for each in (value, low, high)]
    return said[0] if math.isnan(low) else f"{said[0]} ({said[1]} to {said[2]})"


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
