"""What signals do while the models of ``bench_training.py`` are trained: where they form, and what an architecture keeps of them.

    python benchmarks/bench_observing.py --models models --data held_out.csv --learn sentences.csv --out observed

Of each variant the first seed is observed and the others are set beside it; pages and tables are in ``observed/VARIANT``. Slices are
words of negation, thirds of how common the next token is, and thirds of its position. What was observed already is not observed again. In
the end variants are set side by side, signal by signal: the mean over seeds with the lowest and the highest of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from figures import Row, begin
from small_models import VARIANTS, load_variant

from compress_explain.data.encoding import Reading
from compress_explain.data.slices import SliceRule
from compress_explain.model.loading import load_subject
from compress_explain.signals.training.observing import Observing
from compress_explain.signals.training.over_training import Watched, observe
from compress_explain.signals.training.rows import rows_to_watch
from compress_explain.signals.training.series import series_in

RULES = (
    SliceRule(name="negation", matches=r"\b(not|no|never|nothing|n't)\b"),
    SliceRule(name="frequency", token="frequency", quantiles=3),
    SliceRule(name="position", token="position", quantiles=3),
)


def observed(
    variant: str, models: Path, data: str, learn: str | None, rows: int, observing: Observing, out: Path
) -> Row:
    """The summary of one variant; the trainings that are there are taken, the first seed for the one that is told."""
    trained = sorted(path.parent for path in models.glob(f"{variant}-seed*/trained.json"))
    series, *seeds = (series_in(folder) for folder in trained)
    subject = load_subject(str(series.last.path), "text-generation", any_family=True)
    reading = Reading(input="text", label="label", max_length=None, long_text="truncate")
    examples, learning = rows_to_watch(data, learn, subject, reading, rules=RULES, rows=rows)
    watched = Watched(
        series=series, seeds=tuple(seeds), examples=examples, learning=learning, observing=observing, load=load_variant
    )
    return observe(watched, out / variant)


def told(variant: str, summary: dict[str, Any]) -> list[Row]:
    """A row a signal: when and where it forms, its maximum, and what is left of it."""
    return [
        {
            "variant": variant, "loss at the end": summary["loss"][-1]["value"], "signal": each["signal"], "verdict": each["verdict"],
            "forms at": "–" if each["formed"] is None else f"{each['formed']['step']}, {each['formed']['layer']}",
            "highest at": f"{each['peak']['step']}, {each['peak']['layer']}", "maximum": _interval(each["peak"]),
            "kept": _interval(each["kept"]), "falls": sum(fall["signal"] == each["signal"] for fall in summary["falls"]),
            "of them noise": sum(fall["signal"] == each["signal"] and fall["noise"] for fall in summary["falls"]),
        }
        for each in summary["signals"]
    ]  # fmt: skip


def side_by_side(summaries: dict[str, dict[str, Any]]) -> dict[str, list[Row]]:
    """By what is told, a row a variant with a cell a signal. Ranges over seeds that do not overlap are differences that seeds do not make."""
    figures: dict[str, Callable[[dict[str, Any]], float | None]] = {
        "the last layer above chance, random weights": lambda each: each["reach"]["untrained"]["value"],
        "the last layer above chance, at the end": lambda each: each["reach"]["end"]["value"],
        "left at the last layer of what random weights hand on": lambda each: each["reach"]["left"]["value"],
        "share of the best layer's that reaches the last, at the end": lambda each: each["reach"]["share"][-1]["value"],
        "the best layer above the control, at the end": lambda each: each["last"]["value"],
        "kept at the end of the highest above the control": lambda each: None if each["formed"] is None else each["kept"]["value"],
    }  # fmt: skip
    told: dict[str, list[Row]] = {}
    for title, figure in figures.items():
        told[title] = []
        for variant, summary in summaries.items():
            losses = [each["loss"][-1]["value"] for each in (summary, *summary["of_seeds"])]
            row: Row = {"variant": variant, "loss": _range(losses)}
            for signal in [each["signal"] for each in summary["signals"]]:
                row[signal.removeprefix("attribute.")] = _range([figure(each) for each in of_seeds(summary, signal)])
            told[title].append(row)
    return told


def of_seeds(summary: dict[str, Any], signal: str) -> list[dict[str, Any]]:
    """What each seed says of one signal."""
    return [each for seed in (summary, *summary["of_seeds"]) for each in seed["signals"] if each["signal"] == signal]


def curves(summaries: dict[str, dict[str, Any]]) -> dict[str, list[Row]]:
    """By signal and by what is told of it, a row a variant with a cell a step: means over the seeds of which it can be told."""
    told: dict[str, list[Row]] = {}
    signals = list(dict.fromkeys(each["signal"] for summary in summaries.values() for each in summary["signals"]))
    for signal in signals:
        for title, key in (
            ("above the control at the best layer", "strength"),
            ("share that reaches the last layer", "reach"),
        ):
            rows = []
            for variant, summary in summaries.items():
                here = of_seeds(summary, signal)
                courses = [each["reach"]["share"] if key == "reach" else each["strength"] for each in here]
                steps = [step["step"] for step in courses[0]]
                rows.append(
                    {"variant": variant}
                    | {
                        f"{step:,}": _mean([course[place]["value"] for course in courses])
                        for place, step in enumerate(steps)
                    }
                )
            told[f"{signal}: {title}, by step"] = rows
    return told


def _mean(values: Sequence[float | None]) -> str:
    there = [each for each in values if each is not None]
    return f"{sum(there) / len(there):.3f}" if there else "–"


def _range(values: Sequence[float | None]) -> str:
    there = [each for each in values if each is not None]
    if not there:
        return "–"
    few = "" if len(there) == len(values) else f", {len(there)} of {len(values)}"
    return f"{sum(there) / len(there):.3f} ({min(there):.3f} to {max(there):.3f}{few})"


def _interval(value: dict[str, Any]) -> str:
    if value["low"] is None or value["value"] is None:
        return "–"
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="what bench_training.py wrote")
    parser.add_argument("--data", required=True, help="rows to observe on, that none was trained on")
    parser.add_argument("--learn", help="other rows, that probes learn from")
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--decisions", type=int, default=2048)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="some of them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    report = begin(None, options.threads)
    observing = Observing(decisions=options.decisions)
    summaries = {}
    for variant in options.variants.split(","):
        started = time.perf_counter()
        summary = observed(variant, options.models, options.data, options.learn, options.rows, observing, options.out)
        summaries[variant] = summary
        report.add(f"{variant}, {time.perf_counter() - started:.0f} s", told(variant, summary))
    for title, rows in (curves(summaries) | side_by_side(summaries)).items():
        report.add(title, rows)


if __name__ == "__main__":
    main()
