"""Small language models that differ in where norms stand and in whether the stream passes around the feed-forward sublayer."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

LAYERS, WIDTH, HEADS, TOKENS, VOCABULARY = 4, 128, 4, 64, 4000


def variant(norm: str, residual: bool, seed: int) -> OPTForCausalLM:
    """An OPT of four layers with random weights; ``norm`` stands before or after its sublayers."""
    torch.manual_seed(seed)
    config = OPTConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, word_embed_proj_dim=WIDTH, ffn_dim=4 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=TOKENS, dropout=0.0, attention_dropout=0.0,
        do_layer_norm_before=norm == "before", bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    config.feed_forward_residual = residual
    return _as_configured(OPTForCausalLM(config))


def load_variant(folder: Path) -> OPTForCausalLM:
    """A checkpoint, computing as it did when it was trained."""
    return _as_configured(OPTForCausalLM.from_pretrained(folder)).eval()


def _as_configured(model: OPTForCausalLM) -> OPTForCausalLM:
    if not getattr(model.config, "feed_forward_residual", True):
        for layer in model.model.decoder.layers:
            _cut_residual(layer, before=model.config.do_layer_norm_before)
    return model


def _cut_residual(layer: nn.Module, *, before: bool) -> None:
    """Let the layer add to the output of its feed-forward sublayer what it is without: the stream is added and taken away."""
    kept: dict[str, Tensor] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept["stream"] = inputs[0]

    def take_away(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output - kept["stream"].reshape(output.shape)

    entry = layer.final_layer_norm if before else layer.fc1
    assert isinstance(entry, nn.Module) and isinstance(layer.fc2, nn.Module)
    entry.register_forward_pre_hook(keep)
    layer.fc2.register_forward_hook(take_away)


def tokenizer_of(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 4,000 tokens, learned from the texts."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<pad>", "<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="<s>", model_max_length=TOKENS
    )
