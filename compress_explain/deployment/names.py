"""Which node of an ONNX graph is which linear of the anatomy, and nodes that are called by it.

The exporter writes the path of the torch module on every node that it makes. Nodes of the anatomy's
linears are given the name of the component, their weights that name and ``.weight``; embedding tables
are called by the path of their module. Quantizers keep these names and add endings to them, so what
became of a component can be read from any file made from this one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from compress_explain.errors import ArtifactError

SCOPES = "pkg.torch.onnx.name_scopes"
WEIGHT = ".weight"
_EMBEDDING = "embedding:"


def name_linears(model: ModelProto, modules: Mapping[str, str]) -> None:
    """Call the node of each linear by its component, in place, as a ``MatMul`` with its weight as ``(inputs, outputs)``.

    ``modules`` is the torch module of each component. A ``Gemm`` becomes ``MatMul`` and ``Add``: the
    quantizers of ONNX Runtime know the one form only.

    Raises:
        ArtifactError: a linear has no node of its own in the graph, or several.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    transposed = {node.output[0]: node for node in model.graph.node if node.op_type == "Transpose"}
    components = {module: component for component, module in modules.items()}
    found: dict[str, int] = {}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        component = components.get(_module(node)) if node.op_type in ("MatMul", "Gemm") else None
        weight = None if component is None else _weight(node, weights, transposed)
        if component is None or weight is None:
            nodes.append(node)
            continue
        found[component] = found.get(component, 0) + 1
        model.graph.initializer.append(numpy_helper.from_array(weight, component + WEIGHT))
        nodes.extend(_named(node, component))
    _refuse_unless_one_each(found, modules)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _drop_unused(model)


def name_embeddings(model: ModelProto) -> None:
    """Call every look-up in a two-dimensional float table by the path of its module, in place."""
    tables = {tensor.name: tensor for tensor in model.graph.initializer if _is_table(tensor)}
    taken: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in tables and _module(node):
            name = _EMBEDDING + _module(node)
            node.name = name if name not in taken else f"{name}.{len(taken)}"
            taken.add(node.name)


def embedding_nodes(model: ModelProto) -> dict[str, NodeProto]:
    """The look-ups that :func:`name_embeddings` named, by that name."""
    return {node.name: node for node in model.graph.node if node.name.startswith(_EMBEDDING)}


def linear_nodes(model: ModelProto) -> dict[str, NodeProto]:
    """The nodes that :func:`name_linears` named, by component, in a file that nothing else was done to."""
    return {
        node.name: node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] == node.name + WEIGHT
    }


def weights_of(model: ModelProto) -> dict[str, np.ndarray]:
    """The weight ``(inputs, outputs)`` of every named linear."""
    names = {node.input[1]: component for component, node in linear_nodes(model).items()}
    return {
        names[tensor.name]: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name in names
    }


def _module(node: NodeProto) -> str:
    """The path of the torch module that ``node`` belongs to: the last but the operation itself."""
    for prop in node.metadata_props:
        if prop.key == SCOPES:
            return str(["", *ast.literal_eval(prop.value)][-2])
    return ""


def _weight(
    node: NodeProto, weights: Mapping[str, TensorProto], transposed: Mapping[str, NodeProto]
) -> np.ndarray | None:
    """The constant that ``node`` multiplies by, ``(inputs, outputs)``; of attention's own products there is none."""
    name, flip = node.input[1], _attribute(node, "transB", 0) == 1
    if name in transposed and name not in weights:
        name, flip = transposed[name].input[0], not flip
    if name not in weights or len(weights[name].dims) != 2:
        return None
    array = numpy_helper.to_array(weights[name])
    return np.ascontiguousarray(array.T if flip else array)


def _named(node: NodeProto, component: str) -> Iterator[NodeProto]:
    plain = node.op_type == "MatMul" or len(node.input) < 3
    output = node.output[0] if plain else component + ".product"
    yield onnx.helper.make_node("MatMul", [node.input[0], component + WEIGHT], [output], name=component)
    if not plain:
        yield onnx.helper.make_node("Add", [output, node.input[2]], [node.output[0]], name=component + ".bias")


def _refuse_unless_one_each(found: Mapping[str, int], modules: Mapping[str, str]) -> None:
    wrong = [component for component in modules if found.get(component, 0) != 1]
    if wrong:
        times = "no node" if wrong[0] not in found else f"{found[wrong[0]]} nodes"
        raise ArtifactError(
            f"{wrong[0]}: {times} in the exported graph where one was expected ({len(wrong)} of {len(modules)} "
            "linears). Remedy: export the model as transformers defines it, without hooks that skip or repeat layers"
        )


def _attribute(node: NodeProto, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            return float(onnx.helper.get_attribute_value(attribute))
    return default


def _is_table(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2


def _drop_unused(model: ModelProto) -> None:
    """Nodes that only moved a weight, and the constants that nothing reads any more."""
    used = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if used.intersection(node.output):
            used.update(node.input)
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
