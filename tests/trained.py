"""A tiny GPT-2 that has learned something, so that what is taken out of it is missed.

Its task is an exclusive or and its head is linear: neither heads nor neurons are there for nothing.
"""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import torch
import transformers as hf

from compress_explain.data.examples import ALL, Examples

POSITIVE, NEGATIVE, NOT = range(4, 10), range(10, 16), 3
FILLERS = range(16, 40)


def reviews(rows: int, seed: int, name: str = "calibration") -> Examples:
    """Rows of fillers and one telling word; a NOT before it turns the label around, in a third of the rows.

    One label in 25 is wrong, so that no model is right or sure everywhere.
    """
    rng = np.random.default_rng(seed)
    ids, labels, negated = [], rng.integers(0, 2, rows), rng.random(rows) < 1 / 3
    for label, turned in zip(labels, negated, strict=True):
        words = list(rng.choice(FILLERS, rng.integers(3, 8)))
        telling = rng.choice(POSITIVE if label != turned else NEGATIVE)
        place = rng.integers(0, len(words) + 1)
        words[place:place] = [NOT, telling] if turned else [telling]
        ids.append(np.array([2, *words, 1]))
    labels = np.where(rng.random(rows) < 1 / 25, 1 - labels, labels)
    return Examples(
        name=name,
        inputs={"input_ids": ids, "attention_mask": [np.ones_like(row) for row in ids]},
        labels=labels,
        slices={ALL: np.ones(rows, dtype=bool), "negated": negated, "plain": ~negated},
        texts=tuple(" ".join(map(str, row)) for row in ids),
        digest=f"reviews-{rows}-{seed}",
        padding={"input_ids": 0, "attention_mask": 0},
    )


@cache
def _trained() -> hf.PreTrainedModel:
    torch.manual_seed(0)
    config = hf.GPT2Config(
        vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_inner=24, n_positions=16, num_labels=2,
        pad_token_id=0, bos_token_id=2, eos_token_id=1,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.1,
    )  # fmt: skip
    model = hf.GPT2ForSequenceClassification(config)
    examples = reviews(1500, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=8 * 24)
    rng = np.random.default_rng(0)
    for _ in range(8):
        batches = list(examples.batches(64))[::-1]
        for index in rng.permutation(len(batches)):
            batch = batches[index]
            loss = model(**batch.inputs, labels=torch.from_numpy(examples.labels[batch.rows])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def trained_model() -> hf.PreTrainedModel:
    """A copy of the model that :func:`reviews` trained; training takes a few seconds, once."""
    return copy.deepcopy(_trained())
