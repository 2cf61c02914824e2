"""What changed inputs and attacks cost a text classifier and two smaller ones made of it, and what asking takes.

    python benchmarks/bench_robustness.py --model minilm-sst2 --data sst2/dev.csv

int8            every linear in 8 bits by torch's own dynamic quantization; it has no gradients, so it is not attacked
heads           a third of the heads masked away, the lowest numbers of each layer, with nothing refitted

Accuracies are of --rows rows, attacks of --attacked; seconds are of one thread unless --threads says otherwise.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from figures import Row, begin
from transformers import PreTrainedModel

from compress_explain.comparison.contest import Contest, Side
from compress_explain.comparison.decided import decide_all
from compress_explain.comparison.predictions import logits_of, pair
from compress_explain.data.examples import Examples
from compress_explain.data.loading import load_examples
from compress_explain.evaluators import Robustness
from compress_explain.model.loading import Subject, load_subject


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a fine-tuned text classifier")
    parser.add_argument("--data", type=Path, required=True, help="rows for it, with text and label")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--attacked", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the tables there, as JSON")
    options = parser.parse_args()
    report = begin(options.out, options.threads, {"rows": options.rows, "attacked": options.attacked})
    subject = load_subject(str(options.model), "text-classification")
    examples = load_examples(str(options.data), (), subject, max_length=64)
    evaluator = Robustness(rows=options.rows, attacked_rows=options.attacked)
    for name, contest in contests(subject, examples):
        report.add(name, rows_of(evaluator, contest))


def contests(subject: Subject, examples: Examples) -> Iterator[tuple[str, Contest]]:
    """The original beside each smaller one."""
    linears = {torch.nn.Linear}
    int8 = torch.ao.quantization.quantize_dynamic(copy.deepcopy(subject.model), linears, dtype=torch.qint8)
    yield "int8", contest(subject, examples, int8, attacked=False)
    yield "heads", contest(subject, examples, fewer_heads(subject.model), attacked=True)


def contest(subject: Subject, examples: Examples, other: PreTrainedModel, *, attacked: bool) -> Contest:
    original, compressed = (
        Side(
            name=name, forward=logits_of(model), examples=examples, processor=subject.processor,  # type: ignore[arg-type]
            module=model if attacked else None,
        )
        for name, model in (("original", subject.model), ("compressed", other))
    )  # fmt: skip
    answers = [decide_all(side.forward, examples.draw(32, seed=0)).logits for side in (original, compressed)]
    pairs = pair(examples.draw(32, seed=0), *answers)
    return Contest(original=original, compressed=compressed, pairs=pairs)


def fewer_heads(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose first third of heads says nothing: their columns of the output projection are 0."""
    pruned = copy.deepcopy(model)
    width = model.config.hidden_size // model.config.num_attention_heads
    gone = width * (model.config.num_attention_heads // 3)
    with torch.no_grad():
        for layer in pruned.base_model.encoder.layer:
            layer.attention.output.dense.weight[:, :gone] = 0.0
    return pruned


def rows_of(evaluator: Robustness, contest: Contest) -> list[Row]:
    """One a score, and the seconds that all of them took."""
    started = time.process_time()
    table = evaluator.measure(contest, lambda rows: None)
    seconds = time.process_time() - started
    found: list[Row] = [
        {
            "condition": score.metric.removeprefix("robustness."),
            "n": score.n,
            "original": f"{score.original:.4f}",
            "compressed": f"{score.compressed:.4f}",
            "difference (90%)": f"{score.difference:+.4f} ({score.low:+.4f} to {score.high:+.4f})",
        }
        for score in evaluator.scores(table)
    ]
    clean = table[table["condition"] == "clean"]
    plain: Row = {
        "condition": "clean", "n": len(clean), "original": f"{clean['original_right'].mean():.4f}",
        "compressed": f"{clean['compressed_right'].mean():.4f}", "difference (90%)": f"all in {seconds:.0f} s of processor time",
    }  # fmt: skip
    return [plain, *found]


if __name__ == "__main__":
    main()
