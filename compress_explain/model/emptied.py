"""What stands where an attention sublayer lost its last head, and where a linear of a removed sublayer was."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class EmptiedAttention(nn.Module):
    """An attention without heads: nothing goes into its output projection, so that only a bias comes out.

    ``inside`` is the name that the projection has within the attention module, or None where it
    stands behind it and is handed what comes out of here. The cache is told of every token:
    lengths are read off whichever layer comes first.
    """

    def __init__(self, attention: nn.Module, inside: str | None, *, hands_on_bias: bool) -> None:
        super().__init__()
        self.layer_idx: int | None = getattr(attention, "layer_idx", None)
        self.inside, self.hands_on_bias = inside, hands_on_bias
        if inside is not None:
            self.add_module(inside, attention.get_submodule(inside))

    def forward(
        self, hidden_states: Tensor, *others: Any, past_key_values: Any = None, **options: Any
    ) -> tuple[Any, ...]:
        if past_key_values is not None and self.layer_idx is not None and options.get("key_value_states") is None:
            told = hidden_states[:, None, :, :1]  # one head of width one, so that it counts as filled
            getattr(past_key_values, "self_attention_cache", past_key_values).update(told, told, self.layer_idx)
        nothing = hidden_states[..., :0]
        output = nothing if self.inside is None else self.get_submodule(self.inside)(nothing)
        return (output, None, None) if self.hands_on_bias else (output, None)


class Nothing(nn.Module):
    """A linear that went with its sublayer: ``width`` zeros for every token, from no parameters."""

    weight = None  # asked for by models that compute in the format of the next weight

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states.new_zeros(*hidden_states.shape[:-1], self.width)
