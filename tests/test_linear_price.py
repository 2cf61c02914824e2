"""A price is the derivative that it claims to be, and is exact in the limit of small edits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from compress_explain.pricing import price, read_menu
from compress_explain.pricing.linear import linearised
from compress_explain.pricing.slopes import Slopes, prepared_edits
from compress_explain.weight_edits import weight_edit
from tests.states import random_state, sliced_examples
from tests.tiny import FAMILIES, tiny_examples


def collect(masks, examples, batch_size=8):
    """Logits ``(rows, classes)`` and moves ``(rows, components, classes)`` in the order of the rows."""
    slopes = Slopes(masks, list(masks.anatomy.groups.values()))
    rows, logits, moves = [], [], []
    for each in linearised(slopes, examples, examples.batches(batch_size)):
        rows.append(each.batch.rows)
        logits.append(each.decision.logits)
        moves.append(torch.cat(list(each.moves()), 1))
    order = np.argsort(np.concatenate(rows))
    return torch.cat(logits)[order], torch.cat(moves)[order]


def derivative_in_multipliers(model, anatomy, removed, inputs):
    """d logits / d multiplier of every component, ``(rows, components, classes)``.

    Each component's share of its consumer's input is multiplied by a number of its own: 1 for
    those that are there, 0 for those that are removed.
    """
    multipliers, hooks = {}, []
    rows = len(next(iter(inputs.values())))
    for name, group in anatomy.groups.items():
        here = (~removed[name]).to(model.dtype).expand(rows, -1).clone().requires_grad_()
        multipliers[name] = here

        def multiply(module, arguments, here=here, width=group.width):
            return (arguments[0] * here.repeat_interleave(width, dim=1)[:, None], *arguments[1:])

        hooks.append(model.get_submodule(group.site).register_forward_pre_hook(multiply))
    try:
        logits = model(**inputs).logits
    finally:
        for hook in hooks:
            hook.remove()
    slopes = [
        torch.cat(torch.autograd.grad(logits[:, k].sum(), list(multipliers.values()), retain_graph=True), 1)
        for k in range(logits.shape[1])
    ]
    return torch.stack(slopes, -1)


# The linearisation


@pytest.mark.parametrize("remove", [False, True])
@pytest.mark.parametrize("labels", [2, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_moves_are_the_derivatives_of_the_logits(family, labels, remove):
    """Minus the derivative for what is there (to be removed), plus it for what is not (to be restored)."""
    masks = random_state(family, labels, remove=remove)
    examples = tiny_examples(family, labels=labels)
    _, moves = collect(masks, examples)
    expected = torch.zeros_like(moves)
    sign = torch.cat([torch.where(flags, 1.0, -1.0) for flags in masks.removed.values()])
    for batch in examples.batches(6):
        slopes = derivative_in_multipliers(masks.model, masks.anatomy, masks.removed, batch.inputs)
        expected[batch.rows] = slopes * sign[:, None]
    if labels == 2:  # only the difference of two logits matters
        moves, expected = moves[..., 1] - moves[..., 0], expected[..., 1] - expected[..., 0]
    scale = float(expected.abs().max())
    assert scale > 0.1
    assert float((moves - expected).abs().max()) < 1e-5 * max(1.0, scale)


def test_moves_are_finite_differences_too():
    """Nothing of autograd on this side: central differences of each multiplier in double precision."""
    masks = random_state("bert", 3, dtype=torch.float64)
    examples = tiny_examples("bert", rows=6)
    _, moves = collect(masks, examples)
    group = masks.anatomy.groups["encoder.layer.1.attention.head"]
    first = list(masks.anatomy.groups).index(group.name)
    start = sum(each.count for each in list(masks.anatomy.groups.values())[:first])
    batch = next(examples.batches(6))
    site = masks.model.get_submodule(group.site)
    with masks:
        for index in range(group.count):
            removed = bool(masks.removed[group.name][index])
            here, values = (0.0 if removed else 1.0), []
            for multiplier in (here + 1e-5, here - 1e-5):
                columns = slice(index * group.width, (index + 1) * group.width)
                masks.detach()

                def scale(module, arguments, columns=columns, multiplier=multiplier):
                    value = arguments[0].clone()
                    value[..., masks.coordinates(group)] = 0
                    value[..., columns] = arguments[0][..., columns] * multiplier
                    return (value, *arguments[1:])

                masks.attach()
                masks.detach_from(group)
                hook = site.register_forward_pre_hook(scale)
                with torch.inference_mode():
                    values.append(masks.model(**batch.inputs).logits)
                hook.remove()
            slope = (values[0] - values[1]) / 2e-5
            expected = slope if removed else -slope
            assert torch.allclose(moves[batch.rows, start + index], expected, atol=1e-7)


@pytest.mark.parametrize("family", ["bert", "vit", "llama"])
def test_the_price_of_a_small_component_is_exact_to_second_order(family):
    """With its consumer's columns scaled by e, error of the price falls as e squared: 16-fold for a quarter."""
    errors = {}
    for scale in (1 / 8, 1 / 32, 1 / 128):
        masks = random_state(family, 3, remove=False, dtype=torch.float64)
        examples = tiny_examples(family, rows=8)
        chosen = [next(masks.anatomy.of_kind(kind)) for kind in masks.anatomy.kinds]
        errors[scale] = []
        for group in chosen:
            with torch.no_grad():
                masks.model.get_submodule(group.site).weight[:, : group.width] *= scale
        _, moves = collect(masks, examples)
        batch = next(examples.batches(8))
        for group in chosen:
            position = list(masks.anatomy.groups).index(group.name)
            column = sum(each.count for each in list(masks.anatomy.groups.values())[:position])
            with torch.inference_mode():
                before = masks.model(**batch.inputs).logits
                masks.remove([group.components[0]])
                with masks:
                    after = masks.model(**batch.inputs).logits
                masks.restore([group.components[0]])
            errors[scale].append(float((moves[batch.rows, column] - (after - before)).abs().max()))
    for large, middle, small in zip(*errors.values(), strict=True):
        assert middle / small == pytest.approx(16, rel=0.25)
        assert large > middle > small > 1e-9
