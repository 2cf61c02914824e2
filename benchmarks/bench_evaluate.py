"""What an evaluation costs beside plain inference: both models' answers alone, and everything told of them.

    python benchmarks/bench_evaluate.py --original MODEL --candidate MODEL --data test.csv

Both are done in turn on one thread, and processor time is counted. What needs both models at hand again (latency, robustness, energy,
footprint) is left out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from figures import Bar, beside, markdown

from compress_explain.comparison.decided import decide_all
from compress_explain.data.encoding import Reading
from compress_explain.data.loading import load_test
from compress_explain.data.slices import load_rules
from compress_explain.evaluating import Evaluation, evaluate, open_model
from compress_explain.model.loading import quieten
from compress_explain.plugins.catalog import EVALUATORS
from compress_explain.plugins.evaluator import Evaluator
from compress_explain.progress import Progress

BAR = Bar(limit=1.3, at_least=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("original", "candidate", "data"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--slices", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    rules = () if given.slices is None else load_rules(given.slices)
    original = open_model(given.original)
    candidate = open_model(given.candidate, like=original)
    reading = Reading(input="text", label="label", max_length=None, long_text="truncate")
    test = load_test(given.data, rules, original.subject, reading)
    evaluators = [each for each in (EVALUATORS.build(name, {}) for name in EVALUATORS) if isinstance(each, Evaluator)]
    evaluation = Evaluation(original=original, candidate=candidate, test=test, evaluators=evaluators)

    def plain() -> None:
        decide_all(original.forward, test)
        decide_all(candidate.forward, evaluation.read_by_candidate)

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            evaluate(evaluation, Path(folder) / "out", Progress(quiet=True))

    whole()  # imports and first calls
    seconds = [(_seconds(plain), _seconds(whole)) for _ in range(given.rounds)]
    ratio = statistics.median(after / before for before, after in seconds)
    names = ", ".join(type(each).__name__.lower() for each in evaluators)
    print(markdown([{
        "rows": len(test), "slices": len(test.slices), "evaluators": names,
        "inference of both, s": statistics.median(before for before, _ in seconds),
        "evaluation, s": statistics.median(after for _, after in seconds), "times": ratio, **beside(ratio, BAR),
    }]))  # fmt: skip


def _seconds(action: Callable[[], None]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


if __name__ == "__main__":
    main()
