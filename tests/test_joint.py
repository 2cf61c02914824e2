"""A whole plan is priced by its summed moves, taken half-way: right to third order, where its start is right to second."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from compress_explain.comparison.predictions import Pairs
from compress_explain.editing.masks import Masks
from compress_explain.model.anatomy import read_anatomy
from compress_explain.pricing import expected_joint, observed_joint
from compress_explain.pricing.exact import masked
from compress_explain.pricing.joint import Joint
from compress_explain.pricing.linear import linearised
from compress_explain.pricing.slopes import Slopes
from compress_explain.weight_edits import Unedited, weight_edit
from tests.states import random_state, sliced_examples, traces
from tests.tiny import tiny_examples
from tests.trained import reviews, trained_model

CHOSEN = [1, 3, 10, 33, 40, 60]  # of a BERT with some components removed: both directions, heads and neurons


def everything(masks):
    return [name for group in masks.anatomy.groups.values() for name in group.components]


def logits_now(masks, examples):
    """Of all rows, in their order and in the precision of the model."""
    batch = next(examples.batches(len(examples)))
    with torch.inference_mode(), masked(masks):
        return masks.model(**batch.inputs).logits[np.argsort(batch.rows)].numpy()


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


@pytest.mark.parametrize("labels", [2, 4])
def test_at_strength_zero_the_moves_of_the_present_state_are_added(labels):
    """Checked against scipy on the summed moves of removals and restorations at once."""
    masks, examples = random_state("bert", labels), sliced_examples(labels=labels)
    slopes = Slopes(masks, list(masks.anatomy.groups.values()))
    (each,) = linearised(slopes, examples, examples.batches(len(examples)))
    back = np.argsort(each.batch.rows)
    logits, moves = each.decision.logits[back], torch.cat(list(each.moves()), 1)[back]
    names = [everything(masks)[index] for index in CHOSEN]
    assert 0 < sum(map(masks.is_removed, names)) < len(names)
    joint = expected_joint(masks, examples, names, logits.numpy(), 7, strength=0)
    after = (logits + moves[:, CHOSEN].sum(1)).double().numpy()
    for name, flags in examples.slices.items():
        assert_joint(joint[name], logits.double().numpy()[flags], after[flags], examples.labels[flags])


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("edit", ["int8-dynamic", "int4-g16"])
def test_a_linear_that_all_rows_share_is_tried(edit, labels):
    """DeBERTa's queries read the table of positions too, which has no rows: its slope is that of a whole batch."""
    masks, examples = random_state("deberta-v2", labels), sliced_examples(labels=labels, family="deberta-v2")
    name = "encoder.layer.1.attention.query"
    assert masks.anatomy.linears[name].shared
    before = logits_now(masks, examples)
    joint = expected_joint(masks, examples, [], before, 24, linears={name: weight_edit(edit)})
    masks.quantize({name: edit})
    after = logits_now(masks, examples)
    for each, flags in examples.slices.items():
        assert_joint(joint[each], before[flags].astype(float), after[flags].astype(float), examples.labels[flags])
    back = expected_joint(masks, examples, [], after, 24, linears={name: Unedited()})
    for each, flags in examples.slices.items():
        assert_joint(back[each], after[flags].astype(float), before[flags].astype(float), examples.labels[flags])


@pytest.mark.parametrize("labels", [2, 3, 20])
@pytest.mark.parametrize("family", ["bert", "vit"])
def test_half_way_is_right_to_third_order_and_the_start_to_second(family, labels):
    """The consumers' columns scaled by e: errors of each row's loss change fall as e to that power."""
    errors, sizes = {0.0: [], 0.5: []}, (1 / 32, 1 / 128)
    for size in sizes:
        masks, rows = random_state(family, labels, dtype=torch.float64), 8
        slices = {f"row={row}": np.arange(rows) == row for row in range(rows)}
        examples = tiny_examples(family, labels=labels, rows=rows, slices=slices)
        names = [everything(masks)[index] for index in CHOSEN]
        with torch.no_grad():
            for name in names:
                group, index = masks.anatomy.locate(name)
                columns = slice(index * group.width, (index + 1) * group.width)
                masks.model.get_submodule(group.site).weight[:, columns] *= size
        before = logits_now(masks, examples)
        joints = {
            0.0: expected_joint(masks, examples, names, before, 8, strength=0),
            0.5: expected_joint(masks, examples, names, before, 8),
        }
        for name in names:
            (masks.restore if masks.is_removed(name) else masks.remove)([name])
        was, now = log_softmax(before, 1), log_softmax(logits_now(masks, examples), 1)
        observed = (was - now)[np.arange(rows), examples.labels]
        for strength, found in errors.items():
            expected = np.array([joints[strength][name].loss_change for name in slices])
            found.append(np.linalg.norm(expected - observed))
    order = {strength: np.log(found[0] / found[1]) / np.log(4) for strength, found in errors.items()}
    assert order[0.0] == pytest.approx(2, abs=0.2) and order[0.5] == pytest.approx(3, abs=0.2)
    assert errors[0.5][1] < errors[0.0][1] / 10


def test_half_way_is_nearer_to_what_happens():
    """On a model that has learned something, for plans of a quarter of its neurons and a head."""
    model, examples = trained_model(), reviews(200, seed=4)
    masks = Masks(model, read_anatomy(model, 12))
    before = logits_now(masks, examples)
    heads = [name for group in masks.anatomy.of_kind("head") for name in group.components]
    neurons = [name for group in masks.anatomy.of_kind("neuron") for name in group.components]
    errors = {0.0: [], 0.5: []}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        plan = [*rng.choice(heads, 1), *rng.choice(neurons, len(neurons) // 4, replace=False)]
        masks.remove(plan)
        after = logits_now(masks, examples)
        masks.restore(plan)
        observed = (log_softmax(before, 1) - log_softmax(after, 1))[np.arange(len(examples)), examples.labels].mean()
        for strength, found in errors.items():
            joint = expected_joint(masks, examples, plan, before, 128, strength=strength)["all"]
            found.append(abs(joint.loss_change - observed))
    assert np.mean(errors[0.5]) < np.mean(errors[0.0])


@pytest.mark.parametrize("attached", [False, True])
def test_the_masks_are_at_full_strength_again_afterwards(attached):
    masks, examples = random_state("bert", 2), tiny_examples("bert", labels=2)
    if attached:
        masks.attach()
    before, logits = traces(masks), logits_now(masks, examples)
    expected_joint(masks, examples, everything(masks)[:5], logits, 8)
    assert traces(masks) == before
    assert np.array_equal(logits_now(masks, examples), logits)


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


def test_nothing_is_expected_of_nothing():
    masks, examples = random_state("bert", 3), sliced_examples("bert", 3)
    joint = expected_joint(masks, examples, [], logits_now(masks, examples), 4)
    assert list(joint) == list(examples.slices)
    for name, flags in examples.slices.items():
        assert joint[name] == Joint(
            loss_change=0, kl=0, flips_to_wrong=0, flips_to_right=0, accuracy_change=0, n=int(flags.sum())
        )
