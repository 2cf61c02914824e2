"""Tiny random models of every family, inputs for them, and splits small enough to check by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import Tensor

from compress_explain.anatomy import Anatomy
from compress_explain.examples import ALL, Examples

VOCABULARY = 60
PAD, EOS = 0, 1
TOKENS = 9

_TEXT = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": 2, "eos_token_id": EOS}
_ENCODER = {
    **_TEXT,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "hidden_act": "gelu",
}
_DECODER = {**_ENCODER, "num_attention_heads": 8, "num_key_value_heads": 4, "hidden_act": "silu", "use_cache": True}
_T5 = {
    **_TEXT,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 24,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": PAD,
}


@dataclass(frozen=True)
class Tiny:
    """How one family's tiny model is made: its configuration and its classes."""

    config: Callable[..., Any]
    options: dict[str, Any]
    classifier: type
    generator: type | None = None


MODELS = {
    "bert": Tiny(hf.BertConfig, _ENCODER, hf.BertForSequenceClassification),
    "roberta": Tiny(hf.RobertaConfig, _ENCODER, hf.RobertaForSequenceClassification),
    "distilbert": Tiny(
        hf.DistilBertConfig,
        {**_TEXT, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 24, "max_position_embeddings": 40},
        hf.DistilBertForSequenceClassification,
    ),
    "vit": Tiny(
        hf.ViTConfig,
        {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 24,
            "image_size": 8,
            "patch_size": 4,
            "num_channels": 2,
        },
        hf.ViTForImageClassification,
    ),
    "gpt2": Tiny(
        hf.GPT2Config,
        {**_TEXT, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 24, "n_positions": 40},
        hf.GPT2ForSequenceClassification,
        hf.GPT2LMHeadModel,
    ),
    "llama": Tiny(hf.LlamaConfig, _DECODER, hf.LlamaForSequenceClassification, hf.LlamaForCausalLM),
    "qwen3": Tiny(hf.Qwen3Config, {**_DECODER, "head_dim": 6}, hf.Qwen3ForSequenceClassification, hf.Qwen3ForCausalLM),
    "t5": Tiny(hf.T5Config, _T5, hf.T5ForSequenceClassification, hf.T5ForConditionalGeneration),
    "t5-gated": Tiny(
        hf.T5Config,
        {**_T5, "feed_forward_proj": "gated-gelu"},
        hf.T5ForSequenceClassification,
        hf.T5ForConditionalGeneration,
    ),
}
FAMILIES = tuple(MODELS)
GENERATORS = tuple(name for name, tiny in MODELS.items() if tiny.generator)
WITH_AND_WITHOUT_GENERATION = [(name, False) for name in FAMILIES] + [(name, True) for name in GENERATORS]


def tiny_model(name: str, *, labels: int = 3, attention: str = "sdpa", generates: bool = False, seed: int = 0) -> Any:
    """A random model in evaluation mode whose every parameter matters: no zero biases, no unit norms."""
    tiny = MODELS[name]
    config = tiny.config(**tiny.options, num_labels=labels)
    config._attn_implementation = attention
    model = (tiny.generator if generates else tiny.classifier)(config)  # type: ignore[misc]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            noise = 0.25 * torch.randn(parameter.shape, generator=generator)
            norm = "norm" in parameter_name.lower() or ".ln_" in parameter_name
            if parameter_name.endswith("Attention.q.weight"):  # T5 does not scale its attention scores
                noise /= config.d_kv**0.5
            parameter.copy_(1 + noise if norm and parameter_name.endswith("weight") else noise)
    return model.eval()


def tiny_inputs(
    name: str, batch: int = 4, tokens: int = TOKENS, *, seed: int = 1, padded: bool = True
) -> dict[str, Tensor]:
    """Random inputs; text rows have different lengths, are padded on the right and end with EOS."""
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        return {"pixel_values": torch.randn(batch, 2, 8, 8, generator=generator)}
    ids = torch.randint(3, VOCABULARY, (batch, tokens), generator=generator)
    lengths = torch.full((batch,), tokens)
    if padded:
        lengths = tokens - torch.arange(batch) % min(4, tokens - 2)
    positions = torch.arange(tokens)
    ids[positions == lengths[:, None] - 1] = EOS
    ids[positions >= lengths[:, None]] = PAD
    return {"input_ids": ids, "attention_mask": (positions < lengths[:, None]).long()}


def tiny_tokens(name: str) -> int:
    """Tokens of one unpadded example of :func:`tiny_inputs`: for an image its 4 patches and class token."""
    return 5 if name == "vit" else TOKENS


def uneven_removal(anatomy: Anatomy, seed: int = 0) -> dict[str, Tensor]:
    """Flags that take a different number of components out of each group, none at all out of some."""
    generator = torch.Generator().manual_seed(seed)
    removed = {}
    for position, (name, group) in enumerate(anatomy.groups.items()):
        flags = torch.zeros(group.count, dtype=torch.bool)
        wanted = (0.7, 0.45, 0.2, 0.0, 0.5)[position % 5]
        flags[torch.randperm(group.count, generator=generator)[: round(wanted * group.count)]] = True
        removed[name] = flags
    return removed


def flagged(anatomy: Anatomy, removed: dict[str, Tensor]) -> list[str]:
    """The component ids that ``removed`` flags."""
    return [
        anatomy.groups[name].components[index]
        for name, flags in removed.items()
        for index in flags.nonzero().flatten().tolist()
    ]


def tiny_examples(
    name: str,
    *,
    rows: int = 24,
    labels: int = 3,
    seed: int = 5,
    slices: dict[str, np.ndarray] | None = None,
    split: str = "calibration",
) -> Examples:
    """A split of random rows of different lengths with random labels."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, labels, rows)
    if name == "vit":
        inputs: dict[str, list[np.ndarray]] = {
            "pixel_values": list(rng.normal(size=(rows, 2, 8, 8)).astype(np.float32))
        }
        padding = {}
    else:
        ids = [np.append(rng.integers(3, VOCABULARY, rng.integers(2, 9)), EOS) for _ in range(rows)]
        inputs = {"input_ids": ids, "attention_mask": [np.ones_like(row) for row in ids]}
        padding = {"input_ids": PAD, "attention_mask": 0}
    return Examples(
        name=split,
        inputs=inputs,
        labels=truth,
        slices={ALL: np.ones(rows, dtype=bool), **(slices or {})},
        texts=tuple(f"row {row}" for row in range(rows)),
        digest=f"random-{seed}",
        padding=padding,
    )
