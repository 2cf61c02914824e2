"""Small language models trained on text, with checkpoints on the way: what their signals do is then observed.

    python benchmarks/bench_training.py --data sentences.csv news.csv --out models

Every variant of ``small_models.py`` is trained with every seed, 12 checkpoints each, the steps of which are spaced by their
logarithm; the first is taken before the first step. The order of rows and the first weights follow from the seed; the tokenizer and
the rows that are held out are the same for all. A training that is there already is not done again. ``bench_observing.py`` looks at what they leave.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from figures import Row, begin
from small_models import VARIANTS, Variant, new_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import Dataset
from transformers import (
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

TOKENS, BATCH, VOCABULARY = 96, 16, 4_000
CHECKPOINTS, FIRST = 12, 8  # the steps of the second checkpoint
HELD_OUT = 64  # blocks
FIELDS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


class Blocks(Dataset):
    """Texts one after another, cut into rows of :data:`TOKENS` tokens."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = torch.from_numpy(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def learned_tokenizer(texts: Sequence[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Byte-level BPE of ``texts``, which has no unknown text."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(FIELDS.values()), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=TOKENS, **FIELDS)


def in_blocks(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Shuffled texts, the end of each marked, as ``(blocks, tokens)``."""
    order = np.random.default_rng(0).permutation(len(texts))
    rows = tokenizer([texts[index] for index in order], add_special_tokens=False)["input_ids"]
    ids = np.concatenate([[*row, tokenizer.eos_token_id] for row in rows])
    return ids[: len(ids) // TOKENS * TOKENS].reshape(-1, TOKENS)


def unigram_entropy(blocks: np.ndarray) -> float:
    """Of tokens, each by its share alone, in nats: the loss of a model that only knows how common they are."""
    share = np.bincount(blocks.ravel()) / blocks.size
    return float(-(share[share > 0] * np.log(share[share > 0])).sum())


def steps_kept(steps: int) -> tuple[int, ...]:
    """Steps after which a checkpoint is written, the first before any.

    >>> steps_kept(800)
    (0, 8, 13, 20, 32, 50, 80, 127, 201, 319, 505, 800)
    """
    spaced = np.geomspace(min(FIRST, steps), steps, CHECKPOINTS - 1).round().astype(int)
    return (0, *sorted(set(spaced.tolist())))


class _SaveAt(TrainerCallback):
    """Saves, and takes the loss on held-out blocks, at chosen steps."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = set(steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> TrainerControl:
        if state.global_step in self.steps:
            control.should_save = control.should_evaluate = True
        return control


def train(
    variant: Variant, seed: int, tokenizer: PreTrainedTokenizerFast, blocks: np.ndarray, steps: int, folder: Path
) -> Row:
    """One training; what it took and learned is kept beside its checkpoints."""
    done = folder / "trained.json"
    if done.exists():
        return json.loads(done.read_text())
    model = new_model(variant, tokenizer, TOKENS, seed)
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH, learning_rate=variant.rate,
        warmup_steps=steps // 5, lr_scheduler_type="linear", weight_decay=0.01, seed=seed, data_seed=seed, save_strategy="no",
        eval_strategy="no", logging_steps=20, save_only_model=True, report_to=[], use_cpu=True, disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Blocks(blocks[HELD_OUT:]), eval_dataset=Blocks(blocks[:HELD_OUT]),
        processing_class=tokenizer, callbacks=[_SaveAt(steps_kept(steps))],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    started = time.perf_counter()
    before = trainer.evaluate()["eval_loss"]
    trainer.save_model(str(folder / "checkpoint-0"))
    trainer.train()
    losses = {0: before} | {
        entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry
    }
    told = {
        "variant": variant.name, "seed": seed, "steps": steps, "seconds": time.perf_counter() - started,
        "held-out loss": losses[steps], "unigram entropy": unigram_entropy(blocks), "losses": losses,
        "log": [entry for entry in trainer.state.log_history if "loss" in entry],
    }  # fmt: skip
    done.write_text(json.dumps(told, indent=1) + "\n")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="CSV files with a column text")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the models")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="some of them")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    report = begin(None, options.threads)
    texts = [str(text) for file in options.data for text in pd.read_csv(file)["text"]]
    variants = [VARIANTS[name] for name in options.variants.split(",")]
    tokenizer = learned_tokenizer(texts)
    blocks = in_blocks(texts, tokenizer)
    print(f"{len(texts)} texts, {len(blocks)} blocks, unigram entropy {unigram_entropy(blocks):.3f} nats", flush=True)
    for seed in range(options.seeds):
        for variant in variants:
            told = train(variant, seed, tokenizer, blocks, options.steps, options.out / f"{variant.name}-seed{seed}")
            columns = ("variant", "seed", "seconds", "held-out loss", "unigram entropy")
            row = {name: told[name] for name in columns} | {"perplexity": math.exp(told["held-out loss"])}
            report.add(f"{variant.name}, seed {seed}", [row])


if __name__ == "__main__":
    main()
