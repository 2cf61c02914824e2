"""Encoders of images, and CLIP, which pairs one with an encoder of text."""

from dataclasses import replace

from compress_explain.families.parts import Family, FeedForwardParts, Stack, separate
from compress_explain.families.table import register

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")

for _name in ("vit", "deit"):
    register(
        Family(
            model_type=_name,
            stacks=(
                Stack(
                    name="encoder",
                    layers="layers",
                    norm="before",
                    attention=(separate("attention", _PROJECTIONS, norm="layernorm_before"),),
                    feed_forward=(FeedForwardParts(up="mlp.fc1", down="mlp.fc2", norm="layernorm_after"),),
                ),
            ),
        )
    )


register(
    Family(
        model_type="dinov2",
        stacks=(
            Stack(
                name="encoder",
                layers="encoder.layer",
                norm="before",
                attention=(replace(separate("attention", _PROJECTIONS, norm="norm1"), scale="layer_scale1.lambda1"),),
                feed_forward=(
                    FeedForwardParts(up="mlp.fc1", down="mlp.fc2", scale="layer_scale2.lambda1", norm="norm2"),
                    FeedForwardParts(
                        gate="mlp.gate_proj",
                        up="mlp.up_proj",
                        down="mlp.down_proj",
                        scale="layer_scale2.lambda1",
                        norm="norm2",
                    ),
                ),
            ),
        ),
    )
)


def _clip(name: str, path: str, *, config: str | None = None, tokens: str | None = None) -> Stack:
    """One of CLIP's two towers, ``path`` being where it lies."""
    return Stack(
        name=name,
        layers=f"{path}encoder.layers",
        norm="before",
        attention=(
            separate(
                "self_attn",
                ("q_proj", "k_proj", "v_proj", "out_proj"),
                norm="layer_norm1",
                sizes={"num_heads": "heads"},
            ),
        ),
        feed_forward=(FeedForwardParts(up="mlp.fc1", down="mlp.fc2", norm="layer_norm2"),),
        config=config,
        tokens=tokens and f"{path}{tokens}",
    )


_PATCHES = "embeddings.position_embedding.weight"
register(
    Family(
        model_type="clip",
        stacks=(
            _clip("vision", "vision_model.", config="vision_config", tokens=_PATCHES),
            _clip("text", "text_model.", config="text_config"),
        ),
    )
)
register(Family(model_type="clip_vision_model", stacks=(_clip("vision", "", tokens=_PATCHES),)))
register(Family(model_type="clip_text_model", stacks=(_clip("text", ""),)))
