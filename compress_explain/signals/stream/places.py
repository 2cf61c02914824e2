"""Where a model's computation can be entered: the stream after each layer and what each sublayer adds, and one pass seen there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.errors import InputError
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.heads import logits_in
from compress_explain.pricing.prefix import Prefix, always, answering
from compress_explain.signals.stream.layers import EMBEDDING, Layers, passing

LAYER, ATTENTION, CROSS_ATTENTION, FEED_FORWARD = "layer", "attention", "cross_attention", "feed_forward"
_SITES = {
    "attention": ATTENTION,
    "cross_attention": CROSS_ATTENTION,
    "ffn": FEED_FORWARD,
}  # by what sublayers are called


@dataclass(frozen=True, kw_only=True)
class Place:
    """What can be put in: at ``site`` :data:`LAYER` the stream after a layer, or before the first one; at others what a sublayer adds.

    ``layer`` is its name in the original, ``module`` what gives it in the model; before the first layer, what takes it.
    """

    layer: str
    site: str
    module: str


def places_of(model: PreTrainedModel, layers: Layers) -> dict[tuple[str, str], Place]:
    """Every place of a model, by layer and site, in the order of its computation.

    Of an unknown family, and where a whole sublayer was taken out, only those of site :data:`LAYER`.
    """
    found = [Place(layer=EMBEDDING, site=LAYER, module=layers.modules[0])]
    inside = _sublayers(model)
    for name, module in zip(layers.names, layers.modules, strict=True):
        found += [Place(layer=name, site=site, module=adds) for site, adds in inside.get(module, ())]
        found.append(Place(layer=name, site=LAYER, module=module))
    return {(each.layer, each.site): each for each in found}


def _sublayers(model: PreTrainedModel) -> dict[str, list[tuple[str, str]]]:
    """By module of a layer: each sublayer's site and the module whose output is added to the stream."""
    try:
        anatomy = read_anatomy(model, tokens=1)
    except InputError:
        return {}
    return {
        layer.module: [
            (_SITES[name.rpartition(".")[2]], anatomy.groups[anatomy.sublayers[name].groups[-1]].adds)
            for name in layer.sublayers
        ]
        for layer in anatomy.layers.values()
    }


class Pass:
    """One pass of a model over a batch, which can be run again from any place on with something else there.

    What comes before the place is not computed again. Only inside ``torch.inference_mode``.
    """

    def __init__(self, model: PreTrainedModel, layers: Layers, inputs: dict[str, Tensor]) -> None:
        self.model, self.layers = model, layers
        with passing(model, layers) as seen:
            self.prefix = Prefix(model, inputs)
        self._first = seen[EMBEDDING]

    @property
    def logits(self) -> Tensor:
        """What the model gave."""
        return self.prefix.logits

    def at(self, place: Place) -> Tensor:
        """What passed there, ``(batch, tokens, width)``; of some families what a sublayer adds has both first axes in one."""
        if place.layer == EMBEDDING:
            return self._first
        output = self.prefix.output(place.module)
        return output if isinstance(output, Tensor) else output[0]

    def with_at(self, place: Place, value: Float[Tensor, "*batch width"]) -> Tensor:
        """The logits with ``value`` there."""
        with self._put(place, value):
            return logits_in(self.model(**self.prefix.inputs))

    @contextmanager
    def _put(self, place: Place, value: Float[Tensor, "*batch width"]) -> Iterator[None]:
        module = self.model.get_submodule(place.module)
        with ExitStack() as stack:
            stack.enter_context(self.prefix.reused(place.module))
            if place.layer == EMBEDDING:
                stack.enter_context(_given(module, value))
            else:
                stack.enter_context(answering(module, always(self.prefix.output(place.module))))
                stack.enter_context(giving(module, value))
            yield


@contextmanager
def giving(module: nn.Module, value: Float[Tensor, "*batch width"]) -> Iterator[None]:
    """Inside it ``module`` gives ``value``, and what else it gave before; other hooks, which may round, have had their say."""

    def swap(module: nn.Module, inputs: Any, output: Any) -> Any:
        return value if isinstance(output, Tensor) else (value, *output[1:])

    handle = module.register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _given(module: nn.Module, stream: Float[Tensor, "batch tokens width"]) -> Iterator[None]:
    """Inside it what ``module`` reads first is ``stream``, whatever it is handed."""

    def swap(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        return ((stream, *inputs[1:]), options) if inputs else (inputs, {**options, "hidden_states": stream})

    handle = module.register_forward_pre_hook(swap, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
