"""One layer of a model on its own, with some of its components gone, as something that can be run and timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.deployment.compiled import threads as torch_threads
from compress_explain.deployment.export import OPSET, ready, save, tidy
from compress_explain.deployment.names import name_linears
from compress_explain.deployment.runtime import OnnxRunner, Runner
from compress_explain.deployment.scheme import Scheme
from compress_explain.editing.surgery import materialize
from compress_explain.errors import ArtifactError
from compress_explain.model.anatomy import Anatomy, Group, Layer

HIDDEN = "hidden_states"
_FIXED_SIZE_FUSIONS = ("MatMulAddFusion",)  # which a file for batches of any size does not get
Call = tuple[tuple[Any, ...], dict[str, Any]]  # the arguments that a layer is given


@dataclass(frozen=True, kw_only=True)
class LayerBench:
    """Makes runners of single layers of ``model``, as it computes ``inputs``.

    ``scheme`` quantizes the linears of ONNX layers; files go to ``folder``.
    """

    model: PreTrainedModel = field(repr=False)
    anatomy: Anatomy = field(repr=False)
    inputs: Mapping[str, Tensor] = field(repr=False)
    runtime: Literal["torch", "onnx"]
    scheme: Scheme | None
    threads: int
    folder: Path

    def runner(self, layer: Layer, left: Mapping[str, int]) -> Runner:
        """``layer`` with so many components of each of its groups ``left``, given what the original's is given.

        Raises:
            ArtifactError: the exporter cannot express the layer.
            InputError: the scheme cannot quantize it by itself.
        """
        removed = {name: torch.arange(self.anatomy.groups[name].count) >= count for name, count in left.items()}
        smaller = materialize(self.model, self.anatomy, removed)
        arguments, options = self._call(layer)
        module = _Alone(smaller.get_submodule(layer.module), arguments[1:], options)
        given = {HIDDEN: arguments[0]}
        if self.runtime == "torch":
            return Always(_TorchLayer(module, self.threads), given)
        path = self.folder / f"{layer.name}-{'-'.join(map(str, left.values()))}.onnx"
        with ready(smaller, attention="eager"):
            linears = self._export(module, layer, arguments[0], path)
        if self.scheme is not None and linears:
            source, path = path, path.with_suffix(".quantized.onnx")
            self.scheme.quantize(source, path)
        return Always(OnnxRunner(path=path, threads=self.threads, without=_FIXED_SIZE_FUSIONS), given)

    def _export(self, module: _Alone, layer: Layer, hidden: Tensor, path: Path) -> list[str]:
        """Write the layer for inputs of this one size and return the linears in it."""
        try:
            exported = torch.onnx.export(
                module, (hidden,), input_names=[HIDDEN], output_names=["output"], opset_version=OPSET, dynamo=True,
                verbose=False,
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            cause = str(error.__cause__ or error).strip().splitlines()[0][:200]
            raise ArtifactError(
                f"{layer.name}: cannot be exported to ONNX by itself, so its time cannot be foretold ({cause}). Remedy: give "
                "strategies a budget in FLOPs, parameters or bytes"
            ) from error
        assert exported is not None, "the dynamo exporter returns the program"
        document = exported.model_proto
        del document.graph.output[1:]
        linears = self._linears(module, layer)
        name_linears(document, linears)
        tidy(document)
        save(document, path)
        return list(linears)

    def _linears(self, module: _Alone, layer: Layer) -> dict[str, str]:
        """The place in ``module`` of each linear of the layer that still computes something."""
        modules = dict(module.named_modules())
        names = [name for sublayer in layer.sublayers for name in self.anatomy.sublayers[sublayer].linears]
        places = {name: "layer" + self.anatomy.linears[name].module.removeprefix(layer.module) for name in names}
        return {name: place for name, place in places.items() if place in modules and modules[place].weight.numel()}  # type: ignore[operator,union-attr]

    def _call(self, layer: Layer) -> Call:
        """What the original gives ``layer``; files are written with a mask, as that of the whole model has one."""
        seen: list[Call] = []
        inputs = dict(self.inputs)
        if self.runtime == "onnx" and "attention_mask" in inputs:
            inputs["attention_mask"] = inputs["attention_mask"].clone()
            inputs["attention_mask"][:, -1] = 0
        hook = self.model.get_submodule(layer.module).register_forward_pre_hook(
            lambda module, arguments, options: seen.append((arguments, options)), with_kwargs=True
        )
        try:
            with ready(self.model, attention="eager" if self.runtime == "onnx" else None):
                self.model(**inputs)
        finally:
            hook.remove()
        arguments, options = seen[0]
        if arguments:
            return arguments, options
        hidden = options.pop(HIDDEN)
        return (hidden,), options


def layer_shapes(model: PreTrainedModel, anatomy: Anatomy) -> dict[str, list[Layer]]:
    """Layers that compute alike, by what they are made of: the class and the shape of every parameter."""
    alike: dict[str, list[Layer]] = {}
    for layer in anatomy.layers.values():
        module = model.get_submodule(layer.module)
        shapes = [f"{name}{tuple(parameter.shape)}" for name, parameter in module.named_parameters()]
        alike.setdefault(f"{layer.stack}: {type(module).__name__} {' '.join(shapes)}", []).append(layer)
    return alike


def groups_of(anatomy: Anatomy, layer: Layer) -> list[Group]:
    """The groups of a layer, in order."""
    return [anatomy.groups[name] for sublayer in layer.sublayers for name in anatomy.sublayers[sublayer].groups]


@dataclass(frozen=True)
class Always:
    """A runner that is always given the same."""

    runner: Runner = field(repr=False)
    inputs: Mapping[str, Tensor] = field(repr=False)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Float[np.ndarray, "*shape"]:
        return self.runner(self.inputs)


class _Alone(nn.Module):
    """A layer as a function of the residual stream alone; whatever else it is given stays as it was."""

    def __init__(self, layer: nn.Module, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
        super().__init__()
        self.layer, self.arguments, self.options = layer, tuple(arguments), dict(options)

    def forward(self, hidden_states: Tensor) -> Tensor:
        output = self.layer(hidden_states, *self.arguments, **self.options)
        return output[0] if isinstance(output, tuple) else output


@dataclass(frozen=True)
class _TorchLayer:
    module: _Alone = field(repr=False)
    threads: int

    def __call__(self, inputs: Mapping[str, Tensor]) -> Float[np.ndarray, "*shape"]:
        with torch_threads(self.threads), torch.inference_mode():
            return self.module(inputs[HIDDEN]).numpy()
