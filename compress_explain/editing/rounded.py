"""A compressed model in torch whose quantized linears compute as the file that is deployed does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.autograd import forward_ad
from transformers import PreTrainedModel

from compress_explain.editing.refits import weights_of
from compress_explain.model.anatomy import Anatomy
from compress_explain.model.factored import FactoredLinear
from compress_explain.weight_edits import Found, Prepared, knowing, weight_edit


def let_round(model: PreTrainedModel, anatomy: Anatomy, quantized: Mapping[str, str], found: Found) -> None:
    """From now on let linears of ``model``, by name in ``anatomy``, give what their weight edits make of their inputs.

    ``found`` is what is known to enter each. Gradients pass as if nothing were rounded. Linears that are gone, and those in the place
    of which two stand, are left as they are.
    """
    for name, into in quantized.items():
        if name not in anatomy.linears:
            continue
        path = anatomy.linears[name].module
        module = model.get_submodule(path)
        if not isinstance(module, FactoredLinear):
            own = weights_of(model, path)
            edit = knowing(weight_edit(into), found.get(name))
            module.register_forward_hook(_rounding(edit.prepare(own.weight.detach().contiguous(), own.bias)))


def rounded(prepared: Prepared, given: Tensor, output: Tensor) -> Tensor:
    """What a linear gives under its edit of what it is ``given``, for the ``output`` that it computes in full; gradients pass as if it did not round."""
    found = prepared.apply(given.detach()).to(output.dtype)
    passes = output.requires_grad or forward_ad.unpack_dual(output).tangent is not None
    return output + (found - output).detach() if passes else found


def _rounding(prepared: Prepared) -> Callable[..., Tensor]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return rounded(prepared, inputs[0], output)

    return hook
