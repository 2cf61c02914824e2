"""The transformer families whose anatomy is known: one row of data each.

To add a family, write where its parts lie, relative to ``model.base_model``, and call
:func:`register`. Nothing else in the toolkit depends on a family's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from compress_explain.errors import InputError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class AttentionParts:
    """Where one attention sublayer keeps its projections, relative to its layer.

    ``query``, ``key`` and ``value`` are separate linears, or the same path three times when they
    are fused into one linear with three equal blocks of outputs. ``split`` is the attribute in
    which a fused attention remembers the width of one block. ``position_bias`` names an embedding
    of one column a head that the first layer owns and lends to the others.
    """

    module: str
    query: str
    key: str
    value: str
    output: str
    cross: bool = False
    split: str | None = None
    position_bias: str | None = None

    @property
    def fused(self) -> bool:
        return self.query == self.key == self.value


@dataclass(frozen=True, kw_only=True)
class FeedForwardParts:
    """Where one feed-forward sublayer keeps its linears, relative to its layer."""

    up: str
    down: str
    gate: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A list of equal layers: ``encoder`` or ``decoder`` in component ids, ``layers`` in the model.

    ``feed_forward`` lists the forms that a configuration may choose between (plain, gated); the
    one whose linears exist is taken. ``norm`` says where each sublayer's norm stands: ``before``
    its linears, so that the residual stream runs through the layers unchanged but for what is
    added to it, or ``after`` the addition, so that each sublayer reads the stream itself.
    """

    name: str
    layers: str
    norm: Literal["before", "after"]
    attention: tuple[AttentionParts, ...]
    feed_forward: tuple[FeedForwardParts, ...]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture: its ``model_type`` in transformers and its stacks of layers."""

    model_type: str
    stacks: tuple[Stack, ...]


def _attention(module: str, query: str, key: str, value: str, output: str) -> AttentionParts:
    return AttentionParts(module=module, query=query, key=key, value=value, output=output)


def _bert_like(model_type: str) -> Family:
    return Family(
        model_type=model_type,
        stacks=(
            Stack(
                name="encoder",
                layers="encoder.layer",
                norm="after",
                attention=(
                    _attention(
                        "attention.self",
                        "attention.self.query",
                        "attention.self.key",
                        "attention.self.value",
                        "attention.output.dense",
                    ),
                ),
                feed_forward=(FeedForwardParts(up="intermediate.dense", down="output.dense"),),
            ),
        ),
    )


def _llama_like(model_type: str) -> Family:
    return Family(
        model_type=model_type,
        stacks=(
            Stack(
                name="decoder",
                layers="layers",
                norm="before",
                attention=(
                    _attention(
                        "self_attn",
                        "self_attn.q_proj",
                        "self_attn.k_proj",
                        "self_attn.v_proj",
                        "self_attn.o_proj",
                    ),
                ),
                feed_forward=(FeedForwardParts(gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj"),),
            ),
        ),
    )


def _t5_attention(path: str, *, cross: bool) -> AttentionParts:
    return AttentionParts(
        module=path,
        query=f"{path}.q",
        key=f"{path}.k",
        value=f"{path}.v",
        output=f"{path}.o",
        cross=cross,
        position_bias="relative_attention_bias",
    )


def _t5_feed_forward(path: str) -> tuple[FeedForwardParts, ...]:
    return (
        FeedForwardParts(up=f"{path}.wi", down=f"{path}.wo"),
        FeedForwardParts(gate=f"{path}.wi_0", up=f"{path}.wi_1", down=f"{path}.wo"),
    )


_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Add a row. A ``model_type`` that is already there is a mistake, not an override.

    Raises:
        ValueError: the ``model_type`` is taken.
    """
    if family.model_type in _FAMILIES:
        raise ValueError(f"family {family.model_type!r} is already registered")
    _FAMILIES[family.model_type] = family


def families() -> Mapping[str, Family]:
    """Every known family by its ``model_type``, read-only."""
    return MappingProxyType(_FAMILIES)


def family_of(model_type: str) -> Family:
    """The row for ``model_type``.

    Raises:
        InputError: no such row; the message lists the rows and how to add one.
    """
    try:
        return _FAMILIES[model_type]
    except KeyError:
        raise InputError(
            "model",
            model_type,
            "this architecture's anatomy is not known",
            f"{did_you_mean(model_type, _FAMILIES)}; to add one, describe where its linears lie in a "
            "compress_explain.families.Family and call compress_explain.families.register(family)",
        ) from None


register(_bert_like("bert"))
register(_bert_like("roberta"))
register(
    Family(
        model_type="distilbert",
        stacks=(
            Stack(
                name="encoder",
                layers="transformer.layer",
                norm="after",
                attention=(
                    _attention(
                        "attention",
                        "attention.q_lin",
                        "attention.k_lin",
                        "attention.v_lin",
                        "attention.out_lin",
                    ),
                ),
                feed_forward=(FeedForwardParts(up="ffn.lin1", down="ffn.lin2"),),
            ),
        ),
    )
)
register(
    Family(
        model_type="vit",
        stacks=(
            Stack(
                name="encoder",
                layers="layers",
                norm="before",
                attention=(
                    _attention(
                        "attention",
                        "attention.q_proj",
                        "attention.k_proj",
                        "attention.v_proj",
                        "attention.o_proj",
                    ),
                ),
                feed_forward=(FeedForwardParts(up="mlp.fc1", down="mlp.fc2"),),
            ),
        ),
    )
)
register(
    Family(
        model_type="gpt2",
        stacks=(
            Stack(
                name="decoder",
                layers="h",
                norm="before",
                attention=(
                    AttentionParts(
                        module="attn",
                        query="attn.c_attn",
                        key="attn.c_attn",
                        value="attn.c_attn",
                        output="attn.c_proj",
                        split="split_size",
                    ),
                ),
                feed_forward=(FeedForwardParts(up="mlp.c_fc", down="mlp.c_proj"),),
            ),
        ),
    )
)
register(_llama_like("llama"))
register(_llama_like("qwen3"))
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
            ),
        ),
    )
)
