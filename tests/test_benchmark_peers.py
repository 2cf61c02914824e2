"""What the benchmarks compare with is what it is said to be: each peer against its own formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compress_explain.editing.masks import Masks
from compress_explain.model.anatomy import read_anatomy
from tests.tiny import tiny_examples, tiny_model, tiny_tokens

pytest.importorskip("captum")
pytest.importorskip("torch_pruning")

from benchmarks import peers

ROUNDING = 2e-5  # of mask gradients up to 4.4 in float32; largest seen 5.2e-6, in float64 none
CASES = [("bert", False), ("vit", False), ("gpt2", False), ("gpt2", True)]


def subject(family, generates):
    """Masks of a tiny model, 24 rows with the slices "all" and "odd", and the loss that suits both."""
    model = tiny_model(family, generates=generates)
    examples = replace(tiny_examples(family, slices={"odd": np.arange(24) % 2 == 1}), tokenwise=generates)
    loss = peers.next_token_loss if generates else peers.classification_loss
    return Masks(model, read_anatomy(model, tiny_tokens(family))), examples, loss


def some_of_every_group(masks):
    """The first two and the last component of each group, out of order."""
    return [group.components[index] for group in masks.anatomy.groups.values() for index in (1, 0, -1)]


@pytest.mark.parametrize(("family", "generates"), CASES)
@pytest.mark.parametrize("at_once", [1, 3])
def test_captum_measures_what_the_naive_loop_measures(family, generates, at_once):
    masks, examples, loss = subject(family, generates)
    names = some_of_every_group(masks)
    ours = peers.leave_one_out(masks, examples, loss=loss, batch_size=7, components=names)
    theirs = peers.captum(masks, examples, loss=loss, batch_size=7, components=names, at_once=at_once)
    assert theirs.components == ours.components == tuple(names)
    assert np.abs(ours.per_example).max() > 0.1
    np.testing.assert_allclose(theirs.per_example, ours.per_example, atol=1e-5)
    np.testing.assert_allclose(ours.slices["odd"], mean_of_odd_rows(ours, examples))


def mean_of_odd_rows(ranking, examples):
    """Over rows; for a language model over predicted tokens."""
    tokens = [len(row) - 1 for row in examples.inputs["input_ids"][1::2]] if examples.tokenwise else None
    return np.average(ranking.per_example[1::2].astype(float), axis=0, weights=tokens)


@pytest.mark.parametrize(("family", "generates"), CASES)
def test_michel_is_the_gradient_of_a_mask_multiplied_in(family, generates):
    """One example at a time, through a mask of ones on every head and neuron."""
    masks, examples, loss = subject(family, generates)
    ranking = peers.michel(masks, examples, loss=loss, batch_size=7)
    groups = masks.anatomy.groups.values()
    gates = {group.name: torch.ones(group.count, requires_grad=True) for group in groups}
    hooks = [
        masks.model.get_submodule(group.site).register_forward_pre_hook(
            lambda module, inputs, group=group: (inputs[0] * gates[group.name].repeat_interleave(group.width),)
        )
        for group in groups
    ]
    for batch in examples.batches(1):
        losses = loss(masks.model, batch.inputs, torch.from_numpy(examples.labels[batch.rows]))
        slopes = torch.cat(torch.autograd.grad(losses[0], list(gates.values())))
        np.testing.assert_allclose(ranking.per_example[batch.rows[0]], slopes.abs().numpy(), atol=ROUNDING)
    for hook in hooks:
        hook.remove()
    np.testing.assert_allclose(ranking.slices["odd"], mean_of_odd_rows(ranking, examples), rtol=1e-5)


def test_michel_normalises_each_layer_to_length_one():
    masks, examples, loss = subject("bert", False)
    plain = peers.michel(masks, examples, loss=loss)
    normalised = peers.michel(masks, examples, loss=loss, layers_normalised=True)
    for group in masks.anatomy.groups.values():
        places = [plain.components.index(component) for component in group.components]
        scores = plain.slices["odd"][places]
        np.testing.assert_allclose(normalised.slices["odd"][places], scores / np.linalg.norm(scores))


@pytest.mark.parametrize(("family", "generates"), CASES)
def test_magnitude_is_the_mean_squared_norm_of_what_goes_together(family, generates):
    masks, examples, _ = subject(family, generates)
    ranking = peers.magnitude(masks, examples)
    expected = weight_scores(masks, lambda parameter: parameter.detach().square())
    np.testing.assert_allclose(ranking.slices["all"], expected, rtol=1e-4)
    np.testing.assert_array_equal(ranking.slices["all"], ranking.slices["odd"])


@pytest.mark.parametrize(("family", "generates"), CASES)
def test_taylor_is_the_weight_times_its_gradient_on_the_rows_of_the_slice(family, generates):
    masks, examples, loss = subject(family, generates)
    ranking = peers.taylor(masks, examples, loss=loss, batch_size=7)
    for slice_name, members in examples.slices.items():
        masks.model.zero_grad()
        for batch in examples.batches(1):
            if members[batch.rows[0]]:
                row_loss = loss(masks.model, batch.inputs, torch.from_numpy(examples.labels[batch.rows]))[0]
                (row_loss * (batch.inputs["input_ids"].shape[1] - 1 if generates else 1)).backward()
        expected = weight_scores(masks, lambda parameter: (parameter * parameter.grad).abs().detach())
        np.testing.assert_allclose(ranking.slices[slice_name], expected, rtol=2e-3)


def test_hessian_is_the_squared_weight_times_the_mean_squared_gradient_of_a_row():
    masks, examples, loss = subject("bert", False)
    ranking = peers.hessian(masks, examples, loss=loss)
    squares = {}
    for batch in examples.batches(1):
        masks.model.zero_grad()
        loss(masks.model, batch.inputs, torch.from_numpy(examples.labels[batch.rows])).sum().backward()
        for each in masks.model.parameters():
            squares[each] = squares.get(each, 0) + each.grad.square() / len(examples)
    expected = weight_scores(masks, lambda parameter: (parameter.square() * squares[parameter]).detach())
    np.testing.assert_allclose(ranking.slices["all"], expected, rtol=2e-3)


def weight_scores(masks, of):
    """Per component the mean over its channels, producers and consumer of ``of(weight)``, over the layer's mean."""
    scores = []
    for group in masks.anatomy.groups.values():
        rows = []
        for producer in group.producers:
            rows += rows_of(masks.model.get_submodule(producer.module), of).chunk(producer.blocks)
        consumer = masks.model.get_submodule(group.site)
        columns = of(consumer.weight).sum(0 if isinstance(consumer, torch.nn.Linear) else 1)
        channels = torch.stack([*rows, columns]).mean(0)
        scores.append((channels / channels.mean()).view(group.count, group.width).mean(1))
    return torch.cat(scores).numpy()


def rows_of(producer, of):
    return of(producer.weight).sum(1 if isinstance(producer, torch.nn.Linear) else 0)


@pytest.mark.parametrize("method", [peers.michel, peers.taylor, peers.hessian, peers.captum, peers.leave_one_out])
def test_nobody_leaves_a_trace_on_the_model(method):
    masks, examples, loss = subject("gpt2", True)
    before = {name: value.clone() for name, value in masks.model.state_dict().items()}
    method(masks, examples, loss=loss)
    after = masks.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert not any(module._forward_pre_hooks for module in masks.model.modules())
    assert all(parameter.grad is None for parameter in masks.model.parameters())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_loss_of_a_row_does_not_depend_on_the_padding_beside_it(family):
    masks, examples, loss = subject(family, True)
    alone = peers._losses(masks, examples, loss, batch_size=1)
    np.testing.assert_allclose(peers._losses(masks, examples, loss, batch_size=24), alone, atol=1e-5)
