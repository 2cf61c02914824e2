"""What has to be said of an architecture: where the linears of its layers lie and how they are laid out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RelativePositions:
    """Distances between tokens that an attention scores beside the tokens themselves.

    ``table`` is the embedding with a row a distance, relative to the base model; without it there
    are none. A row goes through projections of its own, ``query`` and ``key``, unless the
    configuration's flag ``shared`` is set: then through those of the tokens. The configuration's
    list ``terms`` names the products that are scored, of ``known`` ones.
    """

    table: str
    query: str
    key: str
    shared: str
    terms: str
    known: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AttentionParts:
    """Where one attention sublayer keeps its projections, relative to its layer.

    ``query``, ``key`` and ``value`` are separate linears, or the same path three times when they
    are fused into one linear: with a block of outputs for all queries, one for all keys and one for
    all values, or ``interleaved``, with the three of one head side by side.

    ``sizes`` are attributes in which the module remembers the number of its query ``heads``, of its
    key-value ``groups`` or the ``width`` of all heads; ``config.NAME`` is an attribute that it reads
    from the configuration. ``position_bias`` names an embedding of one column a head that the first
    layer owns and lends to the others; ``lent_bias`` the argument through which such a bias comes
    when no layer owns it. ``scale`` is a vector that multiplies what the output projection gives.
    ``norm`` is what the residual stream passes on its way to this sublayer alone, where norms stand
    before sublayers.
    """

    module: str
    query: str
    key: str
    value: str
    output: str
    cross: bool = False
    interleaved: bool = False
    sizes: Mapping[str, Literal["heads", "groups", "width"]] = field(default_factory=dict)
    position_bias: str | None = None
    lent_bias: str | None = None
    positions: RelativePositions | None = None
    scale: str | None = None
    norm: str | None = None

    @property
    def fused(self) -> bool:
        return self.query == self.key == self.value


@dataclass(frozen=True, kw_only=True)
class FeedForwardParts:
    """Where one feed-forward sublayer keeps its linears, relative to its layer.

    ``gate`` is a separate linear, or the path of ``up`` again when the two are fused into one with
    two equal blocks of outputs. ``scale`` and ``norm`` are those of :class:`AttentionParts`.
    """

    up: str
    down: str
    gate: str | None = None
    scale: str | None = None
    norm: str | None = None

    @property
    def fused(self) -> bool:
        return self.gate == self.up


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A list of equal layers: ``name`` stands in component ids (``encoder``), ``layers`` in the model.

    ``feed_forward`` lists the forms that a configuration may choose between (plain, gated); the
    one whose linears exist is taken. ``norm`` says where each sublayer's norm stands: ``before``
    its linears, so that the residual stream runs through the layers unchanged but for what is
    added to it, or ``after`` the addition, so that each sublayer reads the stream itself.
    ``norm_before`` names the configuration's flag that decides it, where there is one.

    ``config`` names the part of the configuration that is this stack's, ``heads`` and ``groups``
    its numbers of query heads, of key-value groups and (``depth``) of layers. ``tokens`` is a
    parameter with one row a token, relative to the base model, when the stack always reads that
    many. ``after_first`` is a module, relative to the base model, that is run when the first layer
    is done: where there is one, that layer cannot be taken out.
    """

    name: str
    layers: str
    norm: Literal["before", "after"]
    attention: tuple[AttentionParts, ...]
    feed_forward: tuple[FeedForwardParts, ...]
    norm_before: str | None = None
    config: str | None = None
    heads: str = "num_attention_heads"
    groups: str = "num_key_value_heads"
    depth: str = "num_hidden_layers"
    tokens: str | None = None
    after_first: str | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture: its ``model_type`` in transformers and its stacks of layers."""

    model_type: str
    stacks: tuple[Stack, ...]


def separate(
    module: str,
    names: tuple[str, str, str, str],
    *,
    cross: bool = False,
    norm: str | None = None,
    sizes: Mapping[str, Literal["heads", "groups", "width"]] | None = None,
) -> AttentionParts:
    """An attention whose query, key, value and output projections are linears of ``module``."""
    query, key, value, output = (f"{module}.{name}" for name in names)
    return AttentionParts(
        module=module, query=query, key=key, value=value, output=output, cross=cross, norm=norm, sizes=sizes or {}
    )
