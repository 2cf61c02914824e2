"""Trains small language models for the benchmark of signals in training: four variants, three seeds, twelve checkpoints each.

    python benchmarks/train_small.py --data a.csv b.csv --out FOLDER

Norms before or after sublayers, with and without the residual path around the feed-forward sublayer. Every training sees the same
rows; a seed changes first weights and order. Checkpoints are ordinary folders ``checkpoint-STEP``; what is there already is not done again.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from small_language_models import TOKENS, tokenizer_of, variant
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

STEPS = (0, 10, 20, 40, 70, 110, 160, 220, 290, 370, 470, 600)
HELD_OUT = 400  # rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    torch.set_num_threads(1)
    texts = [text for path in given.data for text in pd.read_csv(path, keep_default_na=False)["text"]]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [texts[index] for index in order]
    tokenizer = tokenizer_of(texts[HELD_OUT:])
    given.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"text": texts[:HELD_OUT]}).to_csv(given.out / "held_out.csv", index=False)
    rows = [tokenizer.bos_token_id]
    for text in texts[HELD_OUT:]:
        rows += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    blocks = torch.tensor(rows[: len(rows) // TOKENS * TOKENS]).view(-1, TOKENS)
    print(f"{len(blocks)} blocks of {TOKENS} tokens", flush=True)
    for seed, norm, residual in product(range(given.seeds), ("before", "after"), (True, False)):
        folder = given.out / f"norm-{norm}-{'residual' if residual else 'none'}" / f"seed-{seed}"
        if (folder / f"checkpoint-{STEPS[-1]}").exists():
            continue
        started = time.perf_counter()
        loss = train(variant(norm, residual, seed), tokenizer, blocks, folder, given.batch, seed)
        print(f"{folder.parent.name} seed {seed}: loss {loss:.3f}, {time.perf_counter() - started:.0f} s", flush=True)


class AtSteps(TrainerCallback):
    """Saves when it is time to."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> TrainerControl:
        control.should_save = state.global_step in STEPS
        return control


def train(model: object, tokenizer: object, blocks: torch.Tensor, folder: Path, batch: int, seed: int) -> float:
    """Train and return the mean loss of the last steps, in nats a token."""
    rows = [{"input_ids": block, "labels": block} for block in blocks]
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS[-1], per_device_train_batch_size=batch, learning_rate=1e-3, warmup_steps=40,
        lr_scheduler_type="linear", weight_decay=0.01, save_strategy="no", save_only_model=True, logging_steps=50, seed=seed,
        report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=rows, processing_class=tokenizer, callbacks=[AtSteps()]
    )
    trainer.save_model(str(folder / "checkpoint-0"))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return sum(losses[-2:]) / 2


if __name__ == "__main__":
    main()
