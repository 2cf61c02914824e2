"""A Llama-shaped model of random weights, from its prices to text from what is left: times and memory by step.

    python benchmarks/bench_llama.py --layers 12 --hidden 768 --out results.json

The default is about 100 million parameters: 12 layers of 768, 12 heads in 4 key-value groups, 2,048 gated neurons, 32,000
tokens with one table for reading and writing. Rows are random tokens: weights are random too, so what is measured is time
and memory, not what a removal does. Every step is taken once, all in one process of their own; memory is
the peak since its start. ``--hidden 2048 --layers 22`` is about a billion.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import Row, begin
from fresh import in_fresh_process, peak
from transformers import LlamaConfig, LlamaForCausalLM

from compress_explain.compensation import Compensation, Compensator
from compress_explain.data.examples import ALL, Examples
from compress_explain.editing.masks import Masks
from compress_explain.editing.surgery import expected_parameters, materialize
from compress_explain.model.anatomy import read_anatomy
from compress_explain.plugins.strategy import Situation, menu_of
from compress_explain.pricing import MOVES, price
from compress_explain.strategies import Structured

_VOCABULARY, _BATCH, _NEW = 32_000, 4, 64


def measure(layers: int, hidden: int, rows: int, tokens: int, kept: float, threads: int) -> list[Row]:
    """One row a step."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    steps = _Steps()
    model = steps.take("make the model", lambda: _model(layers, hidden))
    examples = _random_rows(rows, tokens)
    masks = Masks(model, read_anatomy(model, tokens))
    batch = next(examples.batches(_BATCH)).inputs
    with torch.inference_mode():
        steps.take("run it on one batch", lambda: model(**batch))
    strategy = Structured(flops_kept=kept)
    prices = steps.take(
        "price every kv group and neuron",
        lambda: price(
            masks, examples, menu=menu_of(masks.anatomy, strategy), batch_size=_BATCH, refinement=None, moves=MOVES
        ),
    )
    situation = Situation(anatomy=masks.anatomy, prices=prices, removed=masks.removed, round=0, rounds=1)
    edits = steps.take("plan", lambda: strategy.plan(situation))
    with masks:
        masks.remove(edit.component for edit in edits)
        compensator = Compensator(masks, examples, Compensation(), _BATCH)
        steps.take("refit what is left", compensator.refit)
        masked = _logits(model, batch)
        removed, refits = masks.removed, masks.refits
        with masks.untouched():
            smaller = steps.take("materialize", lambda: materialize(model, masks.anatomy, removed, refits))
        with torch.inference_mode():
            steps.take("run what is left on one batch", lambda: smaller(**batch))
        difference = float((_logits(smaller, batch) - masked).abs().max())
        expected = expected_parameters(model, masks.anatomy, removed)
    prompt = {name: values[:1, :16] for name, values in batch.items()}
    options: dict[str, Any] = {"max_new_tokens": _NEW, "min_new_tokens": _NEW, "do_sample": False, "use_cache": True}
    steps.take(f"generate {_NEW} tokens: original", lambda: model.generate(**prompt, **options))
    steps.take(f"generate {_NEW} tokens: what is left", lambda: smaller.generate(**prompt, **options))
    left = sum(each.numel() for each in smaller.parameters())
    assert left == expected, f"{left} parameters where the ledger would say {expected}"
    saved = masks.anatomy.saved(removed)[1]
    facts = {
        "parameters": masks.anatomy.parameters, "parameters left": left, "layer FLOPs kept": 1 - saved / masks.anatomy.flops,
        "components": len(prices.components), "removed": len(edits), "masked against materialized": difference,
    }  # fmt: skip
    return [
        *steps.rows,
        {"step": ", ".join(f"{name} {value:,.4g}" for name, value in facts.items()), "seconds": "", "peak MiB": ""},
    ]


class _Steps:
    def __init__(self) -> None:
        self.rows: list[Row] = []

    def take(self, name: str, step: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = step()
        self.rows.append({"step": name, "seconds": time.perf_counter() - started, "peak MiB": peak()})
        return result


def _model(layers: int, hidden: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=_VOCABULARY, hidden_size=hidden, intermediate_size=hidden * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=max(1, hidden // 192), tie_word_embeddings=True, bos_token_id=1,
        eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def _logits(model: LlamaForCausalLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return model(**batch).logits


def _random_rows(rows: int, tokens: int) -> Examples:
    generator = np.random.default_rng(0)
    return Examples(
        name="random",
        inputs={
            "input_ids": list(generator.integers(3, _VOCABULARY, (rows, tokens))),
            "attention_mask": list(np.ones((rows, tokens), dtype=np.int64)),
        },
        labels=np.zeros(rows, dtype=np.int64),
        slices={ALL: np.ones(rows, dtype=bool)},
        texts=(),
        digest="random",
        padding={"input_ids": 0, "attention_mask": 0},
        tokenwise=True,
        task="text-generation",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--kept", type=float, default=0.7, help="of the layers' FLOPs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file for the table")
    options = vars(parser.parse_args())
    report = begin(options.pop("out"), threads=options["threads"])
    report.add("A Llama of random weights", in_fresh_process("bench_llama.measure", **options))


if __name__ == "__main__":
    main()
