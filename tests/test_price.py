"""A price is the derivative that it claims to be, and is exact in the limit of small components."""

from __future__ import annotations

import gc

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax, softmax

from compress_explain.anatomy import read_anatomy
from compress_explain.errors import InputError
from compress_explain.joint import expected_joint, observed_joint
from compress_explain.masks import Masks
from compress_explain.predictions import Pairs, predict
from compress_explain.price import IMPACTS, Prices, impact_of, linearised, price
from tests.tiny import FAMILIES, flagged, tiny_examples, tiny_model, tiny_tokens, uneven_removal


def collect(masks, examples, batch_size=8):
    """Logits ``(rows, classes)`` and moves ``(rows, components, classes)`` in the order of the rows."""
    groups = list(masks.anatomy.groups.values())
    rows, logits, moves = [], [], []
    for batch, batch_logits, batch_moves in linearised(masks, examples, groups, batch_size):
        rows.append(batch.rows)
        logits.append(batch_logits)
        moves.append(torch.cat(list(batch_moves), 1))
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


def random_state(family, labels, *, remove=True, dtype=torch.float32):
    model = tiny_model(family, labels=labels, attention="eager").to(dtype)
    anatomy = read_anatomy(model, tiny_tokens(family))
    masks = Masks(model, anatomy)
    if remove:
        masks.remove(flagged(anatomy, uneven_removal(anatomy)))
    return masks


def sliced_examples(family="bert", labels=3, rows=24):
    plain = tiny_examples(family, labels=labels, rows=rows)
    third = np.arange(rows) % 3
    slices = {f"third={k}": third == k for k in range(3)} | {"even": np.arange(rows) % 2 == 0}
    return tiny_examples(family, labels=labels, rows=rows, slices=slices), plain.labels, third


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
                masks._hooks[first].remove()
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


# What moved logits mean


@pytest.mark.parametrize("labels", [2, 5])
def test_impacts_are_those_of_the_moved_logits(labels):
    """Against scipy's softmax, one example and one component at a time."""
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(0, 2, (7, labels)), rng.integers(0, labels, 7)
    move = rng.normal(0, 2, (7, 3, labels))
    if labels == 2:
        move -= move.mean(-1, keepdims=True)
    got = impact_of(torch.from_numpy(logits), torch.from_numpy(move), torch.from_numpy(truth))
    assert tuple(got) == IMPACTS
    for row in range(7):
        for component in range(3):
            before, after = logits[row], logits[row] + move[row, component]
            was, now, one = softmax(before), softmax(after), np.eye(labels)[truth[row]]
            expected = {
                "loss_change": np.log(was[truth[row]] / now[truth[row]]),
                "kl": np.sum(was * np.log(was / now)),
                "flips_to_wrong": before.argmax() == truth[row] != after.argmax(),
                "flips_to_right": before.argmax() != truth[row] == after.argmax(),
                "brier_change": np.sum((now - one) ** 2) - np.sum((was - one) ** 2),
                "logit_move": np.linalg.norm(move[row, component] - move[row, component].mean()),
            }
            for name, value in expected.items():
                assert float(got[name][row, component]) == pytest.approx(float(value), abs=1e-12), name


def test_two_classes_agree_with_the_general_formula():
    """A third class that is out of the question changes nothing but the formula that is used."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 2, generator=generator, dtype=torch.float64) * 3
    margin = torch.randn(50, 4, generator=generator, dtype=torch.float64) * 3
    move = torch.stack([-margin / 2, margin / 2], -1)
    labels = torch.randint(0, 2, (50,), generator=generator)
    hopeless = torch.full((50, 1), -1e4, dtype=torch.float64)
    binary = impact_of(logits, move, labels)
    general = impact_of(torch.cat([logits, hopeless], 1), torch.nn.functional.pad(move, (0, 1)), labels)
    for name in IMPACTS:
        assert torch.allclose(binary[name], general[name], atol=1e-12), name
    assert binary["flips_to_wrong"].any() and binary["flips_to_right"].any()


# Adding up


@pytest.mark.parametrize("labels", [2, 3])
def test_slices_are_groupby_means_of_the_examples(labels):
    masks = random_state("bert", labels)
    examples, truth, third = sliced_examples(labels=labels)
    prices = price(masks, examples, batch_size=5)
    logits, moves = collect(masks, examples)
    impact = impact_of(logits, moves, torch.from_numpy(truth))
    assert prices.slices == ("all", "third=0", "third=1", "third=2", "even")
    assert prices.counts == (24, 8, 8, 8, 12)
    for name in IMPACTS:
        table = pd.DataFrame(impact[name].double().numpy())
        assert np.allclose(prices.values[name][0], table.mean(), atol=1e-6)
        assert np.allclose(prices.values[name][1:4], table.groupby(third).mean(), atol=1e-6)
        assert np.allclose(prices.values[name][4], table[::2].mean(), atol=1e-6)
    loss = pd.DataFrame(impact["loss_change"].double().numpy())
    assert np.allclose(prices.standard_error[0], loss.sem(), atol=1e-6)
    assert np.allclose(prices.standard_error[1:4], loss.groupby(third).sem(), atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "vit", "gpt2", "t5"])
def test_the_batch_size_does_not_matter(family):
    masks = random_state(family, 3)
    examples = tiny_examples(family)
    one, many = price(masks, examples, batch_size=1), price(masks, examples, batch_size=24)
    for name in IMPACTS:
        assert np.allclose(one.values[name], many.values[name], atol=1e-6), name


def test_kinds_choose_what_is_priced():
    masks = random_state("bert", 2)
    examples = tiny_examples("bert", labels=2)
    everything, heads = price(masks, examples), price(masks, examples, kinds=("head", "kv_group"))
    chosen = [index for index, kind in enumerate(everything.kinds) if kind == "head"]
    assert heads.components == tuple(everything.components[index] for index in chosen)
    assert np.allclose(heads.loss_change(), everything.loss_change()[chosen], atol=1e-7)
    with pytest.raises(InputError, match="choose from head, neuron"):
        price(masks, examples, kinds=("kv_group",))


def test_every_component_has_its_size_and_direction():
    masks = random_state("llama", 2)
    prices = price(masks, tiny_examples("llama", labels=2))
    assert prices.components == tuple(name for group in masks.anatomy.groups.values() for name in group.components)
    assert {name for name, back in zip(prices.components, prices.restores, strict=True) if back} == set(
        masks.components
    )
    for index, component in enumerate(prices.components):
        group, _ = masks.anatomy.locate(component)
        assert (prices.kinds[index], prices.parameters[index], prices.flops[index]) == (
            group.kind,
            group.parameters,
            group.flops,
        )


@pytest.mark.parametrize("attached", [False, True])
def test_pricing_leaves_the_model_and_the_masks_as_they_were(attached):
    masks = random_state("bert", 2)
    examples = tiny_examples("bert", labels=2)
    frozen = masks.model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    with masks:
        if not attached:
            masks.detach()
        before = predict(masks.model, examples)
        price(masks, examples)
        assert masks.attached is attached
        assert np.array_equal(predict(masks.model, examples), before)
    assert not frozen.requires_grad
    others = [parameter for parameter in masks.model.parameters() if parameter is not frozen]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in others)
    assert not any(module._forward_pre_hooks for module in masks.model.modules())


def test_memory_does_not_grow_with_the_number_of_examples():
    """The most tensor elements alive after any batch: the same for 8 batches as for 2."""
    peaks = {}
    for rows in (16, 64):
        masks = random_state("vit", 3)
        examples = tiny_examples("vit", rows=rows)
        gc.collect()
        before = _live_elements()
        seen = []
        price(masks, examples, batch_size=8, advance=lambda _, seen=seen: seen.append(_live_elements()))
        assert len(seen) == rows // 8
        peaks[rows] = max(seen) - before
    assert peaks[64] <= peaks[16] * 1.05


def _live_elements():
    tensors = {id(each): each.numel() for each in gc.get_objects() if issubclass(type(each), torch.Tensor)}
    return sum(tensors.values())


def test_prices_come_back_from_disk_to_the_last_bit(tmp_path):
    masks = random_state("bert", 3)
    examples, _, _ = sliced_examples()
    prices = price(masks, examples)
    prices.save(tmp_path / "prices.parquet")
    loaded = Prices.load(tmp_path / "prices.parquet")
    for field in ("components", "kinds", "slices", "counts", "method"):
        assert getattr(loaded, field) == getattr(prices, field)
    for field in ("restores", "parameters", "flops", "standard_error"):
        assert np.array_equal(getattr(loaded, field), getattr(prices, field))
    assert all(np.array_equal(loaded.values[name], prices.values[name]) for name in IMPACTS)
    assert loaded.restores.any() and not loaded.restores.all()


def test_the_shares_of_the_decision_add_up_within_a_kind():
    masks = random_state("bert", 2)
    examples, _, _ = sliced_examples(labels=2)
    prices = price(masks, examples)
    for kind in ("head", "neuron"):
        mine = [index for index, each in enumerate(prices.kinds) if each == kind]
        assert np.allclose(sum(prices.decision_share(index) for index in mine), 1)


# Several edits together


@pytest.mark.parametrize("labels", [2, 4])
def test_a_plan_is_priced_by_its_summed_moves(labels):
    """Checked against scipy on the summed moves of removals and restorations at once."""
    masks = random_state("bert", labels)
    examples = tiny_examples("bert", labels=labels)
    everything = [name for group in masks.anatomy.groups.values() for name in group.components]
    chosen = [1, 3, 10, 33, 40, 60]
    logits, moves = collect(masks, examples)
    joint = expected_joint(masks, examples, [everything[index] for index in chosen], batch_size=7)["all"]
    after = (logits + moves[:, chosen].sum(1)).double().numpy()
    assert_joint(joint, logits.double().numpy(), after, examples.labels)


def test_what_was_observed_compares_two_states_of_the_compressed_model():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 40)
    before, after = (rng.normal(0, 2, (40, 3)) for _ in range(2))
    states = [
        Pairs(
            split="validation", digest="d", labels=labels, original=rng.normal(size=(40, 3)), compressed=each, slices={}
        )
        for each in (before, after)
    ]
    assert_joint(observed_joint(*states), before, after, labels)


def assert_joint(joint, before, after, labels):
    rows = np.arange(len(labels))
    was, now = log_softmax(before, 1), log_softmax(after, 1)
    right_before, right_after = before.argmax(1) == labels, after.argmax(1) == labels
    assert joint.n == len(labels)
    assert joint.loss_change == pytest.approx((was - now)[rows, labels].mean(), abs=1e-5)
    assert joint.kl == pytest.approx((np.exp(was) * (was - now)).sum(1).mean(), abs=1e-5)
    assert joint.flips_to_wrong == pytest.approx((right_before & ~right_after).mean())
    assert joint.flips_to_right == pytest.approx((~right_before & right_after).mean())
    assert joint.accuracy_change == pytest.approx(right_after.mean() - right_before.mean())
