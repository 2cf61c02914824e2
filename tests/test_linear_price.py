"""A price is the derivative that it claims to be, and is exact in the limit of small edits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from transformers.pytorch_utils import Conv1D

from compress_explain.pricing import price, read_menu
from compress_explain.pricing.exact import Trials, exact_sums
from compress_explain.pricing.linear import linearised
from compress_explain.pricing.rows import by_row
from compress_explain.pricing.slopes import Slopes
from compress_explain.weight_edits import weight_edit
from tests.states import random_state
from tests.tiny import CLASSIFIERS, tiny_examples


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
            value = by_row(arguments[0], len(here)) * here.repeat_interleave(width, dim=1)[:, None]
            return (value.view(arguments[0].shape), *arguments[1:])

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


def relative(moves: torch.Tensor) -> torch.Tensor:
    """Less the move of the first logit: only differences of logits matter."""
    return moves - moves[..., :1]


@pytest.mark.parametrize("remove", [False, True])
@pytest.mark.parametrize("labels", [2, 5])
@pytest.mark.parametrize("family", CLASSIFIERS)
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
    expected = relative(expected)
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
            expected = relative(slope if removed else -slope)
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
            errors[scale].append(float((moves[batch.rows, column] - relative(after - before)).abs().max()))
    for large, middle, small in zip(*errors.values(), strict=True):
        assert middle / small == pytest.approx(16, rel=0.25)
        assert large > middle > small > 1e-9


# Edits of weights


@dataclass(frozen=True, kw_only=True)
class Nudge:
    """A weight edit in double precision: the weight plus ``scale`` times some noise."""

    scale: float

    @property
    def name(self):
        return f"nudge{self.scale}"

    @property
    def batchwise(self):
        return False

    def prepare(self, weight, bias):
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return Nudged(weight=weight, bias=bias, difference=self.scale * noise)

    def bytes_of(self, outputs, inputs):
        return 8 * outputs * inputs

    def parameters_of(self, outputs, inputs):
        return outputs * inputs

    def flops_per_token(self, outputs, inputs):
        return 2 * outputs * inputs


@dataclass(frozen=True, kw_only=True)
class Nudged:
    weight: torch.Tensor
    bias: torch.Tensor | None
    difference: torch.Tensor

    def apply(self, x):
        return torch.nn.functional.linear(x, self.weight + self.difference, self.bias)

    def delta(self, x, y):
        return torch.nn.functional.linear(x, self.difference)


def moved_along(model, module, edit, amount, inputs):
    """Logits with a linear's weight moved by ``amount`` of an edit, for each row its own; by no code of ours."""
    weight = module.weight.detach().T if isinstance(module, Conv1D) else module.weight.detach()
    difference = (edit.prepare(weight.contiguous(), None).weight - weight).to(weight.dtype)
    hook = module.register_forward_hook(
        lambda module, arguments, output: output + amount[:, None, None] * (arguments[0] @ difference.T)
    )
    try:
        return model(**inputs).logits
    finally:
        hook.remove()


@pytest.mark.parametrize("labels", [2, 4])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5-gated", "vit"])
def test_changes_of_weight_edits_are_the_derivatives_of_the_logits(family, labels):
    """Of every linear moved towards its edited weight, with some components removed."""
    masks, examples = random_state(family, labels), tiny_examples(family, labels=labels, rows=5)
    edits = [weight_edit("int4-g16"), weight_edit("rank2")]
    linears = list(masks.anatomy.linears.values())[::3]
    (each,) = linearised(Slopes(masks, [], {linear.name: edits for linear in linears}), examples, examples.batches(5))
    with masks:
        for linear, changes in zip(linears, each.moves(), strict=True):
            for column, edit in enumerate(edits):
                amount = torch.zeros(5, requires_grad=True)
                module = masks.model.get_submodule(linear.module)
                logits = moved_along(masks.model, module, edit, amount, each.batch.inputs)
                slopes = [torch.autograd.grad(one.sum(), amount, retain_graph=True)[0] for one in logits.unbind(1)]
                expected, got = torch.stack(slopes, 1), changes[:, column]
                expected = relative(expected)
                assert float(expected.abs().max()) > 1e-3
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-5 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_the_price_of_a_small_weight_edit_is_exact_to_second_order(family):
    """With the change of the weight scaled by e, the error falls as e squared: 16-fold for a quarter."""
    masks = random_state(family, 3, dtype=torch.float64)
    examples = double(tiny_examples(family, rows=4))
    linears = list(masks.anatomy.linears.values())[::4]
    scales = (1e-2, 2.5e-3)
    edits = [Nudge(scale=scale) for scale in scales]
    (each,) = linearised(Slopes(masks, [], {linear.name: edits for linear in linears}), examples, examples.batches(4))
    with masks, torch.inference_mode():
        for linear, changes in zip(linears, each.moves(), strict=True):
            module = masks.model.get_submodule(linear.module)
            errors = []
            for column, edit in enumerate(edits):
                after = moved_along(masks.model, module, Absolute(edit), torch.ones(4).double(), each.batch.inputs)
                errors.append(float((changes[:, column] - relative(after - each.decision.logits)).abs().max()))
            assert errors[0] / errors[1] == pytest.approx(16, rel=0.2), linear.name
            assert errors[1] > 1e-9


@dataclass(frozen=True)
class Absolute:
    """A nudge as :func:`moved_along` reads it: a weight."""

    nudge: Nudge

    def prepare(self, weight, bias):
        prepared = self.nudge.prepare(weight, bias)
        return replace(prepared, weight=weight + prepared.difference)


def double(examples):
    inputs = {name: [np.asarray(row, np.float64) if row.dtype == np.float32 else row for row in rows]
              for name, rows in examples.inputs.items()}  # fmt: skip
    return replace(examples, inputs=inputs)


# Gradient flow


@pytest.mark.parametrize("labels", [2, 4, 20])
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_flow_is_the_mean_squared_gradient_of_each_examples_loss(family, labels):
    """By autograd on one row at a time, at the coordinates of each component."""
    masks, examples = random_state(family, labels), tiny_examples(family, labels=labels, rows=6)
    prices = price(masks, examples, menu=read_menu(masks.anatomy, "heads,neurons,linears:int8"), flow=True)
    expected = torch.zeros(sum(group.count for group in masks.anatomy.groups.values()), dtype=torch.float64)
    with masks:
        for batch in examples.batches(1):
            seen, hooks = [], []
            for group in masks.anatomy.groups.values():
                site = masks.model.get_submodule(group.site)
                hooks.append(site.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0])))
            logits = masks.model(**batch.inputs).logits
            for hook in hooks:
                hook.remove()
            loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(examples.labels[batch.rows]))
            gradients = torch.autograd.grad(loss, seen)
            squares = [
                gradient[0].double().square().sum(0).view(group.count, group.width).sum(1)
                for gradient, group in zip(gradients, masks.anatomy.groups.values(), strict=True)
            ]
            expected += torch.cat(squares) / len(examples)
    flow = prices.flow[: len(expected)]
    assert np.allclose(flow, expected.numpy(), rtol=1e-4, atol=1e-9) and flow.max() > 1e-4
    assert np.isnan(prices.flow[len(expected) :]).all()
    assert np.isnan(price(masks, examples).flow).all(), "not asked for"


def test_linears_that_all_rows_share_a_part_of_are_priced_exactly():
    """DeBERTa's queries and keys are also given the table of positions: no example owns what they make of it."""
    masks, examples = random_state("deberta-v2", remove=False), tiny_examples("deberta-v2", rows=8)
    menu = read_menu(masks.anatomy, "linears:int4")
    prices = price(masks, examples, menu=menu)
    methods = dict(zip(prices.components, prices.methods, strict=True))
    shared = {each.name for each in masks.anatomy.linears.values() if each.shared}
    assert len(shared) == 2 * 3 and {name for name, method in methods.items() if method == "exact"} == shared
    assert set(methods) == set(masks.anatomy.linears)
    trials = Trials(masks, menu.wholes)
    observed = exact_sums(trials, examples, examples.batches(8), reuse=False).means()["loss_change"]
    columns = [prices.components.index(candidate.component) for candidate in trials.candidates]
    np.testing.assert_allclose(prices.values["loss_change"][:, columns], observed, rtol=1e-6)
    assert np.abs(observed).min() > 0
