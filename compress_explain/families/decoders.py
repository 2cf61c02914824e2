"""Decoders of text."""

from dataclasses import replace

from compress_explain.families.parts import AttentionParts, Family, FeedForwardParts, Stack, separate
from compress_explain.families.table import register


def _decoder(
    model_type: str,
    layers: str,
    attention: AttentionParts,
    feed_forward: FeedForwardParts,
    *,
    norm_before: str | None = None,
) -> Family:
    """One stack, its norms before what they feed."""
    stack = Stack(
        name="decoder",
        layers=layers,
        norm="before",
        norm_before=norm_before,
        attention=(attention,),
        feed_forward=(feed_forward,),
    )
    return Family(model_type=model_type, stacks=(stack,))


for _name in ("llama", "qwen3", "mistral", "qwen2", "gemma"):
    register(
        _decoder(
            _name,
            "layers",
            separate("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj"), norm="input_layernorm"),
            FeedForwardParts(
                gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj", norm="post_attention_layernorm"
            ),
        )
    )
register(
    _decoder(
        "gpt2",
        "h",
        separate("attn", ("c_attn", "c_attn", "c_attn", "c_proj"), norm="ln_1", sizes={"split_size": "width"}),
        FeedForwardParts(up="mlp.c_fc", down="mlp.c_proj", norm="ln_2"),
    )
)
register(
    _decoder(
        "opt",
        "decoder.layers",
        separate(
            "self_attn",
            ("q_proj", "k_proj", "v_proj", "out_proj"),
            norm="self_attn_layer_norm",
            sizes={"num_heads": "heads"},
        ),
        FeedForwardParts(up="fc1", down="fc2", norm="final_layer_norm"),
        norm_before="do_layer_norm_before",
    )
)
register(
    _decoder(
        "gpt_neox",
        "layers",
        replace(
            separate(
                "attention",
                ("query_key_value", "query_key_value", "query_key_value", "dense"),
                norm="input_layernorm",
            ),
            interleaved=True,
        ),
        FeedForwardParts(up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h", norm="post_attention_layernorm"),
    )
)
register(
    _decoder(
        "phi3",
        "layers",
        separate(
            "self_attn",
            ("qkv_proj", "qkv_proj", "qkv_proj", "o_proj"),
            norm="input_layernorm",
            sizes={"config.num_attention_heads": "heads", "num_key_value_heads": "groups"},
        ),
        FeedForwardParts(
            gate="mlp.gate_up_proj", up="mlp.gate_up_proj", down="mlp.down_proj", norm="post_attention_layernorm"
        ),
    )
)
