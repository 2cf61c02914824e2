"""Small language models: norms before or after sublayers, with or without the residual path around the FFN, a wide FFN or a narrow one.

A model without that path is an ordinary OPT with a hook on every ``fc2`` that subtracts what the layer adds again. The field
``ffn_residual`` of its configuration says so, and :func:`load_variant` puts the hooks back on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

WIDTH, LAYERS, HEADS, NEURONS = 128, 4, 4, 512
NARROW = 16  # neurons of an FFN that is a bottleneck


# First weights and learning rate that models with each place of norms learn with: from a spread of 0.02 those with norms after
# sublayers come no further than how common tokens are, and from 0.1 those with norms before learn slowly.
BEGUN = {"pre": (0.02, 2e-3), "post": (0.06, 1e-3)}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Where norms stand, whether what a layer's FFN reads is added to what it gives, and how wide that FFN is.

    ``begun`` says whose first weights and learning rate it has: those that suit its own norms, or those of the others, which tells
    apart what norms do from what the beginning does.
    """

    norm: str
    residual: bool = True
    neurons: int = NEURONS
    begun: str | None = None

    @property
    def spread(self) -> float:
        """Of first weights."""
        return BEGUN[self.begun or self.norm][0]

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return BEGUN[self.begun or self.norm][1]

    @property
    def name(self) -> str:
        parts = [f"{self.norm}-ln"]
        if self.begun not in (None, self.norm):
            parts.append(f"begun-as-{self.begun}")
        if self.neurons != NEURONS:
            parts.append(f"{self.neurons}-neurons")
        return "-".join([*parts, *([] if self.residual else ["no-ffn-residual"])])


VARIANTS = {
    each.name: each
    for each in (
        *(
            Variant(norm=norm, residual=kept, neurons=neurons)
            for neurons in (NEURONS, NARROW)
            for norm in ("pre", "post")
            for kept in (True, False)
        ),
        Variant(norm="pre", begun="post"),
    )
}


def new_model(variant: Variant, tokenizer: PreTrainedTokenizerFast, tokens: int, seed: int) -> OPTForCausalLM:
    """Random weights of one variant, for rows of up to ``tokens``."""
    torch.manual_seed(seed)
    config = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, word_embed_proj_dim=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        ffn_dim=variant.neurons, max_position_embeddings=tokens, do_layer_norm_before=variant.norm == "pre", dropout=0.0,
        attention_dropout=0.0, activation_function="gelu", use_cache=False, init_std=variant.spread, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, ffn_residual=variant.residual,
    )  # fmt: skip
    return _hooked(OPTForCausalLM(config))


def load_variant(folder: Path | str) -> OPTForCausalLM:
    """A model as it was trained, with its hooks where its configuration says that it has no residual path around FFNs."""
    return _hooked(OPTForCausalLM.from_pretrained(folder, dtype=torch.float32)).eval()


def _hooked(model: OPTForCausalLM) -> OPTForCausalLM:
    if not getattr(model.config, "ffn_residual", True):
        for layer in model.model.decoder.layers:
            _take_residual_out(layer)
    return model


def _take_residual_out(layer: nn.Module) -> None:
    """What is added to the FFN's output is the input of its norm where that stands before it, else of its first linear."""
    seen: dict[str, Tensor] = {}
    first = layer.final_layer_norm if layer.do_layer_norm_before else layer.fc1
    first.register_forward_pre_hook(_keeper(seen))
    layer.fc2.register_forward_hook(lambda module, inputs, output: output - seen.pop("stream"))


def _keeper(seen: dict[str, Tensor]) -> Callable[[nn.Module, Any], None]:
    def keep(module: nn.Module, inputs: Any) -> None:
        seen["stream"] = inputs[0]

    return keep
