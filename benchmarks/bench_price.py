"""How good and how dear a price is, against exact leave-one-out, side by side in one run.

    python benchmarks/bench_price.py --model MODEL --data dev.csv [--neurons 100]

Prints the cost of pricing every head and neuron as a multiple of one evaluation pass (medians of
interleaved repetitions), and the rank correlation of the expected loss change with the exact one:
over all heads, and over a sample of neurons. Exact takes one evaluation pass a component.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr

from compress_explain.anatomy import read_anatomy
from compress_explain.data import DataSpec, encode_splits
from compress_explain.examples import Examples
from compress_explain.masks import Masks
from compress_explain.models import load_subject, quieten
from compress_explain.predictions import predict
from compress_explain.price import Prices, price
from compress_explain.slices import SliceRule
from compress_explain.sources import read_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--neurons", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cost-only", action="store_true")
    options = parser.parse_args()
    quieten()
    masks, examples = load(options.model, options.data)
    prices = cost(masks, examples, options.repeats)
    if not options.cost_only:
        quality(masks, examples, prices, options.neurons)


def load(model: str, data: str) -> tuple[Masks, Examples]:
    subject = load_subject(model, "text-classification")
    frame = read_rows("data", data)
    half = len(frame) // 2
    spec = DataSpec(calibration=data, validation=data, test=data, max_length=64, overlap="drop")
    rules = [SliceRule(name="label", column="label"), SliceRule(name="long", where="words > 20")]
    parts = {"calibration": frame[:1].copy(), "validation": frame[1:2].copy(), "test": frame}
    parts["calibration"] = frame[half:].assign(text=frame["text"][half:] + " ")
    parts["validation"] = frame[:half].assign(text=frame["text"][:half] + " ")
    examples = encode_splits({k: v.reset_index(drop=True) for k, v in parts.items()}, spec, rules, subject).test
    return Masks(subject.model, read_anatomy(subject.model, examples.tokens)), examples


def cost(masks: Masks, examples: Examples, repeats: int) -> Prices:
    """Evaluation and pricing in turn, so that both see the same machine."""
    evaluations, pricings = [], []
    predict(masks.model, examples)
    for _ in range(repeats):
        started = time.perf_counter()
        predict(masks.model, examples)
        middle = time.perf_counter()
        prices = price(masks, examples)
        evaluations.append(middle - started)
        pricings.append(time.perf_counter() - middle)
    ratios = [dear / plain for dear, plain in zip(pricings, evaluations, strict=True)]
    print(
        f"cost: pricing {len(prices.components):,} components on {len(examples):,} rows in "
        f"{statistics.median(pricings):.2f} s, one evaluation {statistics.median(evaluations):.2f} s: "
        f"{statistics.median(ratios):.2f} x (from {min(ratios):.2f} to {max(ratios):.2f}, {torch.get_num_threads()} threads)",
        flush=True,
    )
    return prices


def quality(masks: Masks, examples: Examples, prices: Prices, neurons: int) -> None:
    expected = dict(zip(prices.components, prices.loss_change(), strict=True))
    kinds = np.array(prices.kinds)
    names = np.array(prices.components)
    heads = names[kinds == "head"].tolist()
    sample = np.random.default_rng(0).choice(names[kinds == "neuron"], neurons, replace=False).tolist()
    base = loss(predict(masks.model, examples), examples)
    for label, components in (("heads", heads), ("neurons", sample)):
        exact = [leave_out(masks, examples, component) - base for component in components]
        priced = [expected[component] for component in components]
        print(
            f"{label}: Spearman {spearmanr(priced, exact).statistic:.4f}, Pearson {pearsonr(priced, exact).statistic:.4f}, "
            f"same sign {np.mean(np.sign(priced) == np.sign(exact)):.1%} (n = {len(components)})",
            flush=True,
        )


def leave_out(masks: Masks, examples: Examples, component: str) -> float:
    masks.remove([component])
    with masks:
        left = loss(predict(masks.model, examples, batch_size=64), examples)
    masks.restore([component])
    return left


def loss(logits: np.ndarray, examples: Examples) -> float:
    labels = torch.tensor(examples.labels)
    return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits).double(), labels))


if __name__ == "__main__":
    main()
