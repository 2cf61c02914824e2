"""Tiny models with some of their components removed, and examples with slices of rows and of tokens."""

from __future__ import annotations

import numpy as np
import torch

from compress_explain.data.examples import ALL, Examples
from compress_explain.editing.masks import Masks
from compress_explain.model.anatomy import read_anatomy
from tests.tiny import EOS, PAD, VOCABULARY, flagged, tiny_examples, tiny_model, tiny_tokens, uneven_removal

CAUSAL = ("gpt2", "llama", "qwen3", "opt", "gpt_neox", "phi3")


def random_state(family, labels=3, *, remove=True, dtype=torch.float32, generates=False):
    """A random model of ``family``; some components of most groups are off unless told otherwise."""
    model = tiny_model(family, labels=labels, attention="eager", generates=generates).to(dtype)
    anatomy = read_anatomy(model, tiny_tokens(family))
    masks = Masks(model, anatomy)
    if remove:
        masks.remove(flagged(anatomy, uneven_removal(anatomy)))
    return masks


def sliced_examples(family="bert", labels=3, rows=24):
    """Rows in three thirds and those with an even number."""
    third = np.arange(rows) % 3
    slices = {f"third={k}": third == k for k in range(3)} | {"even": np.arange(rows) % 2 == 0}
    return tiny_examples(family, labels=labels, rows=rows, slices=slices)


def language_examples(rows=14, seed=5, longest=8):
    """Rows of 2 tokens and more for a language model; ``early`` and ``late`` are slices of tokens, ``even`` of rows.

    Some rows have no late token at all.
    """
    rng = np.random.default_rng(seed)
    ids = [np.append(rng.integers(3, VOCABULARY, rng.integers(1, longest)), EOS) for _ in range(rows)]
    early = [np.arange(len(row) - 1) < 2 for row in ids]
    return Examples(
        name="texts",
        inputs={"input_ids": ids, "attention_mask": [np.ones_like(row) for row in ids]},
        labels=np.zeros(rows, dtype=np.int64),
        slices={ALL: np.ones(rows, dtype=bool), "even": np.arange(rows) % 2 == 0},
        texts=tuple(f"row {row}" for row in range(rows)),
        digest=f"language-{rows}-{seed}",
        padding={"input_ids": PAD, "attention_mask": 0},
        tokenwise=True,
        token_slices={"early": early, "late": [~flags for flags in early]},
    )


def traces(masks):
    """Everything that pricing could have left behind in a model: hooks, answers in place of ``forward``, the masks."""
    modules = dict(masks.model.named_modules())
    return {
        "forward": [name for name, module in modules.items() if "forward" in module.__dict__],
        "before": {name: len(module._forward_pre_hooks) for name, module in modules.items()},
        "behind": {name: len(module._forward_hooks) for name, module in modules.items()},
        "attached": masks.attached,
        "removed": masks.components,
        "asking": [name for name, parameter in masks.model.named_parameters() if parameter.requires_grad],
        "grown": [name for name, parameter in masks.model.named_parameters() if parameter.grad is not None],
        "threads": torch.get_num_threads(),
    }
