"""Decoders of text."""

from compress_explain.families.parts import AttentionParts, Family, FeedForwardParts, Stack, separate
from compress_explain.families.table import register


def _llama_like(model_type: str) -> Family:
    return Family(
        model_type=model_type,
        stacks=(
            Stack(
                name="decoder",
                layers="layers",
                norm="before",
                attention=(separate("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),),
                feed_forward=(FeedForwardParts(gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj"),),
            ),
        ),
    )


for _name in ("llama", "qwen3", "mistral", "qwen2", "gemma"):
    register(_llama_like(_name))
register(
    Family(
        model_type="gpt2",
        stacks=(
            Stack(
                name="decoder",
                layers="h",
                norm="before",
                attention=(separate("attn", ("c_attn", "c_attn", "c_attn", "c_proj"), sizes={"split_size": "width"}),),
                feed_forward=(FeedForwardParts(up="mlp.c_fc", down="mlp.c_proj"),),
            ),
        ),
    )
)
register(
    Family(
        model_type="opt",
        stacks=(
            Stack(
                name="decoder",
                layers="decoder.layers",
                norm="before",
                norm_before="do_layer_norm_before",
                attention=(
                    separate("self_attn", ("q_proj", "k_proj", "v_proj", "out_proj"), sizes={"num_heads": "heads"}),
                ),
                feed_forward=(FeedForwardParts(up="fc1", down="fc2"),),
            ),
        ),
    )
)
register(
    Family(
        model_type="gpt_neox",
        stacks=(
            Stack(
                name="decoder",
                layers="layers",
                norm="before",
                attention=(
                    AttentionParts(
                        module="attention",
                        query="attention.query_key_value",
                        key="attention.query_key_value",
                        value="attention.query_key_value",
                        output="attention.dense",
                        interleaved=True,
                    ),
                ),
                feed_forward=(FeedForwardParts(up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h"),),
            ),
        ),
    )
)
register(
    Family(
        model_type="phi3",
        stacks=(
            Stack(
                name="decoder",
                layers="layers",
                norm="before",
                attention=(
                    separate(
                        "self_attn",
                        ("qkv_proj", "qkv_proj", "qkv_proj", "o_proj"),
                        sizes={"config.num_attention_heads": "heads", "num_key_value_heads": "groups"},
                    ),
                ),
                feed_forward=(FeedForwardParts(gate="mlp.gate_up_proj", up="mlp.gate_up_proj", down="mlp.down_proj"),),
            ),
        ),
    )
)
