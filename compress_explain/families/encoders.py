"""Encoders of text."""

from dataclasses import replace

from compress_explain.families.parts import (
    AttentionParts,
    Family,
    FeedForwardParts,
    RelativePositions,
    Stack,
    separate,
)
from compress_explain.families.table import refuse, register

_FEED_FORWARD = (FeedForwardParts(up="intermediate.dense", down="output.dense"),)


def _bert_like(model_type: str, attention: AttentionParts, *, after_first: str | None = None) -> Family:
    """Norms after the additions, and a feed-forward of two modules."""
    stack = Stack(
        name="encoder",
        layers="encoder.layer",
        norm="after",
        attention=(attention,),
        feed_forward=_FEED_FORWARD,
        after_first=after_first,
    )
    return Family(model_type=model_type, stacks=(stack,))


for _name in ("bert", "roberta", "xlm-roberta", "electra"):
    register(
        _bert_like(
            _name,
            AttentionParts(
                module="attention.self",
                query="attention.self.query",
                key="attention.self.key",
                value="attention.self.value",
                output="attention.output.dense",
            ),
        )
    )
register(
    _bert_like(
        "mpnet",
        replace(
            separate(
                "attention.attn",
                ("q", "k", "v", "o"),
                sizes={"num_attention_heads": "heads", "all_head_size": "width"},
            ),
            lent_bias="position_bias",
        ),
    )
)
register(
    _bert_like(
        "deberta-v2",
        AttentionParts(
            module="attention.self",
            query="attention.self.query_proj",
            key="attention.self.key_proj",
            value="attention.self.value_proj",
            output="attention.output.dense",
            sizes={"num_attention_heads": "heads", "all_head_size": "width"},
            positions=RelativePositions(
                table="encoder.rel_embeddings",
                query="attention.self.pos_query_proj",
                key="attention.self.pos_key_proj",
                shared="share_att_key",
                terms="pos_att_type",
                known=("c2p", "p2c"),
            ),
        ),
        after_first="encoder.conv",
    )
)
register(
    Family(
        model_type="distilbert",
        stacks=(
            Stack(
                name="encoder",
                layers="transformer.layer",
                norm="after",
                attention=(separate("attention", ("q_lin", "k_lin", "v_lin", "out_lin")),),
                feed_forward=(FeedForwardParts(up="ffn.lin1", down="ffn.lin2"),),
            ),
        ),
    )
)
register(
    Family(
        model_type="modernbert",
        stacks=(
            Stack(
                name="encoder",
                layers="layers",
                norm="before",
                attention=(separate("attn", ("Wqkv", "Wqkv", "Wqkv", "Wo"), norm="attn_norm"),),
                feed_forward=(FeedForwardParts(gate="mlp.Wi", up="mlp.Wi", down="mlp.Wo", norm="mlp_norm"),),
            ),
        ),
    )
)
refuse(
    "albert",
    "its layers share one set of weights: what is removed from one layer would be gone from all of them, "
    "so no layer has a component of its own",
)
