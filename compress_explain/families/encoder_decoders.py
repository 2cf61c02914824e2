"""Encoders with a decoder that attends to them."""

from dataclasses import replace
from typing import Literal

from compress_explain.families.parts import AttentionParts, Family, FeedForwardParts, Stack, separate
from compress_explain.families.table import register


def _t5_attention(path: str, *, cross: bool) -> AttentionParts:
    norm = f"{path.rpartition('.')[0]}.layer_norm"
    parts = separate(path, ("q", "k", "v", "o"), cross=cross, norm=norm, sizes={"n_heads": "heads"})
    return replace(parts, position_bias="relative_attention_bias")


def _t5_feed_forward(path: str) -> tuple[FeedForwardParts, ...]:
    norm = f"{path.rpartition('.')[0]}.layer_norm"
    return (
        FeedForwardParts(up=f"{path}.wi", down=f"{path}.wo", norm=norm),
        FeedForwardParts(gate=f"{path}.wi_0", up=f"{path}.wi_1", down=f"{path}.wo", norm=norm),
    )


register(
    Family(
        model_type="t5",
        stacks=(
            Stack(
                name="encoder",
                layers="encoder.block",
                norm="before",
                attention=(_t5_attention("layer.0.SelfAttention", cross=False),),
                feed_forward=_t5_feed_forward("layer.1.DenseReluDense"),
            ),
            Stack(
                name="decoder",
                layers="decoder.block",
                norm="before",
                attention=(
                    _t5_attention("layer.0.SelfAttention", cross=False),
                    _t5_attention("layer.1.EncDecAttention", cross=True),
                ),
                feed_forward=_t5_feed_forward("layer.2.DenseReluDense"),
                depth="num_decoder_layers",
            ),
        ),
    )
)


def _bart_like(model_type: str, norm: Literal["before", "after"], *, tokens: str | None = None) -> Family:
    """``tokens`` is that of the encoder's stack."""
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    own = separate("self_attn", projections, norm="self_attn_layer_norm", sizes={"num_heads": "heads"})
    cross = separate(
        "encoder_attn", projections, norm="encoder_attn_layer_norm", sizes={"num_heads": "heads"}, cross=True
    )
    feed_forward = (FeedForwardParts(up="fc1", down="fc2", norm="final_layer_norm"),)
    return Family(
        model_type=model_type,
        stacks=(
            Stack(
                name="encoder",
                layers="encoder.layers",
                norm=norm,
                attention=(own,),
                feed_forward=feed_forward,
                heads="encoder_attention_heads",
                depth="encoder_layers",
                tokens=tokens,
            ),
            Stack(
                name="decoder",
                layers="decoder.layers",
                norm=norm,
                attention=(own, cross),
                feed_forward=feed_forward,
                heads="decoder_attention_heads",
                depth="decoder_layers",
            ),
        ),
    )


register(_bart_like("bart", "after"))
register(_bart_like("whisper", "before", tokens="encoder.embed_positions.weight"))
