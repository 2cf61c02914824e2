"""An independent witness: Torch-Pruning's dependency graph finds the same producers and consumers.

It follows the autograd graph of a real forward pass and knows nothing of our table of families.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from compress_explain.model.anatomy import read_anatomy
from tests.tiny import FAMILIES, answer, tiny_inputs, tiny_model, tiny_tokens

tp = pytest.importorskip("torch_pruning")

FUSED = ("gpt2", "gpt_neox", "gpt_neox-serial", "modernbert", "phi3")
SHARED = ("llama", "qwen3", "mistral", "qwen2", "gemma")
SEPARATE_HEADS = [family for family in FAMILIES if family not in FUSED + SHARED]


def traced(family):
    """The model, its anatomy, and the dependency graph of one forward pass without a cache."""
    model = tiny_model(family, attention="eager")
    anatomy = read_anatomy(model, tiny_tokens(family))
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    with_ordinary_linears(model)
    graph = tp.DependencyGraph()
    graph.build_dependency(
        model,
        example_inputs=dict(tiny_inputs(family, batch=2, padded=False)),
        forward_fn=lambda subject, example: subject(**example),
        output_transform=lambda output: answer(output).sum(),
        unwrapped_parameters=None,
        customized_pruners={},
        verbose=False,
    )
    return model, anatomy, graph


def with_ordinary_linears(model):
    """Put an equal nn.Linear in the place of each Conv1D, which the graph does not know."""
    for path, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            linear = nn.Linear(module.nx, module.nf)
            linear.weight.data, linear.bias.data = module.weight.data.T.contiguous(), module.bias.data
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, linear)


def nearest_linears(graph, module, direction):
    """The linears that are reached first from ``module``, going along the "inputs" or "outputs" of the graph."""
    found, seen = set(), set()
    waiting = list(getattr(graph.module2node[module], direction))
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node.module, nn.Linear):
            found.add(node.module)
        else:
            waiting.extend(getattr(node, direction))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_linears_meet_at_every_site(family):
    """Going back from a consumer the first linears are its producers; going on from the last of these, it."""
    model, anatomy, graph = traced(family)
    names = {module: name for name, module in model.named_modules()}
    for group in anatomy.groups.values():
        found = {names[module] for module in nearest_linears(graph, model.get_submodule(group.site), "inputs")}
        assert found == {producer.module for producer in group.producers}, group.name
        value = model.get_submodule(group.producers[-1].module)
        assert {names[module] for module in nearest_linears(graph, value, "outputs")} == {group.site}, group.name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_neuron_is_pruned_with_exactly_our_producers_and_consumer(family):
    """The pruning group of a producer's output channel: our producers as outputs, our site as an input."""
    model, anatomy, graph = traced(family)
    names = {module: name for name, module in model.named_modules()}
    for group in anatomy.of_kind("neuron"):
        module = model.get_submodule(group.producers[0].module)
        prune = graph.get_pruner_of_module(module).prune_out_channels
        for index in (0, group.count - 1):
            found = {
                (names[each.target.module], each.handler.__name__, tuple(indices))
                for each, indices in graph.get_pruning_group(module, prune, idxs=[index])
                if each.target.module in names
            }
            outputs = {
                (producer.module, "prune_out_channels", tuple(group.rows(producer, torch.tensor([index])).tolist()))
                for producer in group.producers
            }
            assert found == outputs | {(group.site, "prune_in_channels", (index,))}


@pytest.mark.parametrize("family", SEPARATE_HEADS)
def test_a_head_of_values_is_consumed_in_the_same_coordinates(family):
    """All output channels of one head's values prune the same input channels of the output projection.

    Not for shared or fused heads: the graph does not follow indices through their repetition or split.
    """
    model, anatomy, graph = traced(family)
    for group in anatomy.of_kind("head"):
        value = model.get_submodule(group.producers[-1].module)
        prune = graph.get_pruner_of_module(value).prune_out_channels
        channels = list(range(group.width, 2 * group.width))
        consumed = [
            list(indices)
            for each, indices in graph.get_pruning_group(value, prune, idxs=channels)
            if each.target.module is model.get_submodule(group.site)
        ]
        assert consumed == [channels], group.name


def test_the_graph_would_notice_a_wrong_table():
    """The witness is worth something: it tells a layer's consumer from that of the layer after."""
    model, anatomy, graph = traced("bert")
    first, second = list(anatomy.of_kind("neuron"))[:2]
    up = model.get_submodule(first.producers[0].module)
    assert model.get_submodule(second.site) not in nearest_linears(graph, up, "outputs")
