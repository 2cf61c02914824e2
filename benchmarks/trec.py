"""A classifier of many classes, fine-tuned here, once: 50 types of questions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from compress_explain.data.sources import read_rows
from compress_explain.progress import Progress

EPOCHS, BATCH, RATE = 3, 32, 1e-4
SEED = 0


def trec_model(encoder: Path, training: Path, cache: Path) -> Path:
    """The folder of ``encoder`` under a new head for column ``fine`` of ``training``.

    It is trained when ``cache`` does not hold it (some eight minutes on one thread).
    """
    folder = cache / "compress-explain" / f"trec-fine-{EPOCHS}-{BATCH}-{RATE:g}-{SEED}"
    if not (folder / "model.safetensors").exists():
        model, tokenizer = _train(encoder, read_rows("data", str(training)))
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)  # last: its presence says that all is there
    return folder


def _train(encoder: Path, rows: pd.DataFrame) -> tuple[PreTrainedModel, AutoTokenizer]:
    """AdamW under a one-cycle rate over all weights."""
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = _with_new_head(encoder, sorted(rows["fine"].unique()))
    labels = torch.tensor([model.config.label2id[name] for name in rows["fine"]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    steps = EPOCHS * -(-len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps, pct_start=0.1)
    with Progress().track("fine-tuning on questions", EPOCHS * len(rows)) as advance:
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(rows)).split(BATCH):
                texts = rows["text"].iloc[chosen.tolist()].tolist()
                logits = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits
                torch.nn.functional.cross_entropy(logits, labels[chosen]).backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                advance(len(chosen))
    return model.eval(), tokenizer


def _with_new_head(encoder: Path, names: list[str]) -> PreTrainedModel:
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
    )
    return model.train()
