"""What signals do while the models of ``bench_training.py`` are trained: where they form, and what an architecture keeps of them.

    python benchmarks/bench_observing.py --models models --data held_out.csv --learn sentences.csv --out observed

Of each variant the first seed is observed and the others are set beside it; pages and tables are in ``observed/VARIANT``. Slices are
words of negation, thirds of how common the next token is, and thirds of its position. What was observed already is not observed again.
"""

from __future__ import annotations

import argparse
import time
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
    for variant in options.variants.split(","):
        started = time.perf_counter()
        summary = observed(variant, options.models, options.data, options.learn, options.rows, observing, options.out)
        report.add(f"{variant}, {time.perf_counter() - started:.0f} s", told(variant, summary))


if __name__ == "__main__":
    main()
