"""Tiny random models of every family, inputs for them, and splits small enough to check by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import Tensor

from compress_explain.data.examples import ALL, Examples
from compress_explain.model.anatomy import Anatomy

VOCABULARY = 60
PAD, EOS = 0, 1
TOKENS = 9
FRAMES = 7  # that Whisper's encoder always reads

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
_OPT = {**_ENCODER, "ffn_dim": 24, "word_embed_proj_dim": 32, "activation_function": "gelu"}
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


_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 2,
}
_DINOV2 = {**{key: value for key, value in _VIT.items() if key != "intermediate_size"}, "mlp_ratio": 1}
_CLIP_TEXT = {**_ENCODER, "projection_dim": 12}
_CLIP_VISION = {**_VIT, "num_hidden_layers": 2, "projection_dim": 12}
_BART = {
    **_TEXT,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 40,
    "decoder_start_token_id": EOS,
    "forced_eos_token_id": None,
}
_WHISPER = {
    **_BART,
    "decoder_start_token_id": 2,
    "num_mel_bins": 5,
    "max_source_positions": FRAMES,
    "max_target_positions": 40,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "classifier_proj_size": 16,
}
_DEBERTA = {
    **_ENCODER,
    "relative_attention": True,
    "position_buckets": 4,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}


@dataclass(frozen=True)
class Tiny:
    """How one family's tiny model is made: its configuration and its classes; ``reads`` are the kinds of its inputs.

    ``kernels`` are the ways in which it can compute attention.
    """

    config: Callable[..., Any]
    options: dict[str, Any]
    classifier: type
    generator: type | None = None
    reads: tuple[str, ...] = ("text",)
    kernels: tuple[str, ...] = ("eager", "sdpa")


MODELS = {
    "bert": Tiny(hf.BertConfig, _ENCODER, hf.BertForSequenceClassification),
    "roberta": Tiny(hf.RobertaConfig, _ENCODER, hf.RobertaForSequenceClassification),
    "distilbert": Tiny(
        hf.DistilBertConfig,
        {**_TEXT, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 24, "max_position_embeddings": 40},
        hf.DistilBertForSequenceClassification,
    ),
    "xlm-roberta": Tiny(hf.XLMRobertaConfig, _ENCODER, hf.XLMRobertaForSequenceClassification),
    "electra": Tiny(hf.ElectraConfig, {**_ENCODER, "embedding_size": 16}, hf.ElectraForSequenceClassification),
    "mpnet": Tiny(hf.MPNetConfig, _ENCODER, hf.MPNetForSequenceClassification, kernels=("eager",)),
    "deberta-v2": Tiny(
        hf.DebertaV2Config,
        {**_DEBERTA, "share_att_key": True},
        hf.DebertaV2ForSequenceClassification,
        kernels=("eager",),
    ),
    "deberta-v2-own": Tiny(
        hf.DebertaV2Config,
        {**_DEBERTA, "share_att_key": False, "conv_kernel_size": 3},
        hf.DebertaV2ForSequenceClassification,
        kernels=("eager",),
    ),
    "modernbert": Tiny(
        hf.ModernBertConfig,
        {
            **_ENCODER,
            "hidden_activation": "gelu",
            "attention_bias": True,
            "local_attention": 6,
            "global_attn_every_n_layers": 2,
        },
        hf.ModernBertForSequenceClassification,
    ),
    "vit": Tiny(hf.ViTConfig, _VIT, hf.ViTForImageClassification, reads=("image",)),
    "deit": Tiny(hf.DeiTConfig, _VIT, hf.DeiTForImageClassification, reads=("image",)),
    "dinov2": Tiny(hf.Dinov2Config, {**_DINOV2, "hidden_size": 24}, hf.Dinov2ForImageClassification, reads=("image",)),
    "dinov2-gated": Tiny(
        hf.Dinov2Config,
        {**_DINOV2, "use_swiglu_ffn": True},
        hf.Dinov2ForImageClassification,
        reads=("image",),
    ),
    "clip": Tiny(
        hf.CLIPConfig,
        {"vision_config": _CLIP_VISION, "text_config": _CLIP_TEXT, "projection_dim": 12},
        hf.CLIPForImageClassification,
        reads=("image",),
    ),
    "clip-pair": Tiny(
        hf.CLIPConfig,
        {"vision_config": _CLIP_VISION, "text_config": _CLIP_TEXT, "projection_dim": 12},
        hf.CLIPModel,
        reads=("text", "image"),
    ),
    "clip_vision_model": Tiny(hf.CLIPVisionConfig, _CLIP_VISION, hf.CLIPVisionModelWithProjection, reads=("image",)),
    "clip_text_model": Tiny(hf.CLIPTextConfig, _CLIP_TEXT, hf.CLIPTextModelWithProjection),
    "gpt2": Tiny(
        hf.GPT2Config,
        {**_TEXT, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 24, "n_positions": 40},
        hf.GPT2ForSequenceClassification,
        hf.GPT2LMHeadModel,
    ),
    "llama": Tiny(hf.LlamaConfig, _DECODER, hf.LlamaForSequenceClassification, hf.LlamaForCausalLM),
    "qwen3": Tiny(hf.Qwen3Config, {**_DECODER, "head_dim": 6}, hf.Qwen3ForSequenceClassification, hf.Qwen3ForCausalLM),
    "mistral": Tiny(
        hf.MistralConfig,
        {**_DECODER, "sliding_window": 5},
        hf.MistralForSequenceClassification,
        hf.MistralForCausalLM,
    ),
    "qwen2": Tiny(hf.Qwen2Config, _DECODER, hf.Qwen2ForSequenceClassification, hf.Qwen2ForCausalLM),
    "gemma": Tiny(hf.GemmaConfig, {**_DECODER, "head_dim": 6}, hf.GemmaForSequenceClassification, hf.GemmaForCausalLM),
    "opt": Tiny(hf.OPTConfig, _OPT, hf.OPTForSequenceClassification, hf.OPTForCausalLM),
    "opt-after": Tiny(
        hf.OPTConfig,
        {**_OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16},
        hf.OPTForSequenceClassification,
        hf.OPTForCausalLM,
    ),
    "gpt_neox": Tiny(
        hf.GPTNeoXConfig, {**_ENCODER, "rotary_pct": 0.5}, hf.GPTNeoXForSequenceClassification, hf.GPTNeoXForCausalLM
    ),
    "gpt_neox-serial": Tiny(
        hf.GPTNeoXConfig,
        {**_ENCODER, "use_parallel_residual": False},
        hf.GPTNeoXForSequenceClassification,
        hf.GPTNeoXForCausalLM,
    ),
    "phi3": Tiny(hf.Phi3Config, _DECODER, hf.Phi3ForSequenceClassification, hf.Phi3ForCausalLM),
    "t5": Tiny(hf.T5Config, _T5, hf.T5ForSequenceClassification, hf.T5ForConditionalGeneration),
    "t5-gated": Tiny(
        hf.T5Config,
        {**_T5, "feed_forward_proj": "gated-gelu"},
        hf.T5ForSequenceClassification,
        hf.T5ForConditionalGeneration,
    ),
    "bart": Tiny(hf.BartConfig, _BART, hf.BartForSequenceClassification, hf.BartForConditionalGeneration),
    "whisper": Tiny(
        hf.WhisperConfig,
        _WHISPER,
        hf.WhisperForAudioClassification,
        hf.WhisperForConditionalGeneration,
        reads=("audio",),
    ),
}
FAMILIES = tuple(MODELS)
CLASSIFIERS = tuple(name for name in MODELS if not name.startswith(("clip-", "clip_")))  # the others have no labels
NOT_EXPORTED = {  # to ONNX, and what is said
    "deberta-v2": "2 nodes in the exported graph where one was expected",  # content and positions share projections
    "whisper": "'input_features': an input of no known shape",
}
EXPORTED_LIKE = {  # the same modules in the graph; an export takes seconds
    "roberta": "bert", "xlm-roberta": "bert", "electra": "bert", "deit": "vit", "clip": "vit", "dinov2-gated": "dinov2",
    "mistral": "llama", "qwen2": "llama", "qwen3": "llama", "gemma": "llama", "opt-after": "opt",
    "gpt_neox-serial": "gpt_neox", "t5-gated": "t5",
}  # fmt: skip
EXPORTED = tuple(name for name in CLASSIFIERS if name not in {*NOT_EXPORTED, *EXPORTED_LIKE})
GENERATORS = tuple(name for name, tiny in MODELS.items() if tiny.generator)
KERNELS = [(name, kernel) for name, tiny in MODELS.items() for kernel in tiny.kernels]
GENERATOR_KERNELS = [(name, kernel) for name, kernel in KERNELS if name in GENERATORS]
WITH_AND_WITHOUT_GENERATION = [(name, False) for name in FAMILIES] + [(name, True) for name in GENERATORS]


def tiny_model(
    name: str, *, labels: int = 3, attention: str | None = None, generates: bool = False, seed: int = 0
) -> Any:
    """A random model in evaluation mode whose every parameter matters: no zero biases, no unit norms."""
    tiny = MODELS[name]
    config = tiny.config(**tiny.options, num_labels=labels)
    config._attn_implementation = attention or tiny.kernels[-1]
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
    reads, inputs = MODELS[name].reads, {}
    if "image" in reads:
        inputs["pixel_values"] = torch.randn(batch, 2, 8, 8, generator=generator)
    if "audio" in reads:
        inputs["input_features"] = torch.randn(batch, 5, 2 * FRAMES, generator=generator)
    if "text" not in reads:
        return inputs
    ids = torch.randint(3, VOCABULARY, (batch, tokens), generator=generator)
    lengths = torch.full((batch,), tokens)
    if padded:
        lengths = tokens - torch.arange(batch) % min(4, tokens - 2)
    positions = torch.arange(tokens)
    ids[positions == lengths[:, None] - 1] = EOS
    ids[positions >= lengths[:, None]] = PAD
    return inputs | {"input_ids": ids, "attention_mask": (positions < lengths[:, None]).long()}


def generator_inputs(name: str, batch: int = 4) -> dict[str, Tensor]:
    """Unpadded inputs for a whole pass of a tiny model that generates, with as many tokens for its decoder."""
    inputs = tiny_inputs(name, batch, padded=False)
    if name.startswith(("t5", "whisper")):
        inputs["decoder_input_ids"] = tiny_inputs("t5", batch, padded=False)["input_ids"]
    return inputs


def answer(output: Any) -> Tensor:
    """What a model gives: logits, or the embedding of a text or an image."""
    return next(output[key] for key in ("logits", "logits_per_image", "text_embeds", "image_embeds") if key in output)


def logits_of(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The answer without gradients."""
    with torch.inference_mode():
        return answer(model(**inputs))


def tiny_tokens(name: str) -> int:
    """Tokens of one unpadded example of :func:`tiny_inputs`: for an image its 4 patches and class tokens."""
    return TOKENS if MODELS[name].reads != ("image",) else 6 if name == "deit" else 5


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
    reads = MODELS[name].reads
    inputs: dict[str, list[np.ndarray]] = {}
    padding = {}
    if "image" in reads:
        inputs["pixel_values"] = list(rng.normal(size=(rows, 2, 8, 8)).astype(np.float32))
    if "audio" in reads:
        inputs["input_features"] = list(rng.normal(size=(rows, 5, 2 * FRAMES)).astype(np.float32))
    if "text" in reads:
        ids = [np.append(rng.integers(3, VOCABULARY, rng.integers(2, 9)), EOS) for _ in range(rows)]
        inputs |= {"input_ids": ids, "attention_mask": [np.ones_like(row) for row in ids]}
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
