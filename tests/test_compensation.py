"""Refitting what is left: the right regression, of the right stream, and nothing that cannot be undone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from compress_explain.compensation import Compensation, Compensator
from compress_explain.compensation.ridge import Moments
from compress_explain.editing.masks import Masks
from compress_explain.editing.refits import load_refits, save_refits
from compress_explain.editing.surgery import materialize
from compress_explain.errors import InputError
from compress_explain.model.anatomy import read_anatomy
from tests.tiny import FAMILIES, flagged, logits_of, tiny_examples, tiny_inputs, tiny_model, tiny_tokens, uneven_removal

TOLERANCE = 1e-5  # of logits of order 1 to 5


def refitted(family, *, rows=64, ridge=0.01):
    """A tiny model with something missing nearly everywhere, and what makes up for it."""
    model, examples = tiny_model(family), tiny_examples(family, rows=rows)
    masks = Masks(model, read_anatomy(model, tiny_tokens(family)))
    masks.attach()
    masks.remove(flagged(masks.anatomy, uneven_removal(masks.anatomy)))
    compensator = Compensator(masks, examples, Compensation(ridge=ridge), batch_size=16)
    return model, compensator.examples, masks, compensator


# The regression


@pytest.mark.parametrize("intercept", [True, False])
def test_the_fit_is_ridge_regression_towards_the_start(intercept):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(60, 5)), generator.normal(size=(60, 3))
    start = generator.normal(size=(5 + intercept, 3))
    moments = Moments(intercept=intercept)
    for rows in (slice(0, 25), slice(25, 60)):
        moments.add(torch.from_numpy(x[rows]), torch.from_numpy(y[rows]))
    fitted = moments.fit(torch.from_numpy(start), ridge=0.3).numpy()
    full = np.hstack([x, np.ones((60, 1))]) if intercept else x
    pull = np.sqrt(0.3 * np.square(x).sum(0).mean()) * np.eye(5, 5 + intercept)  # rows that say: stay at the start
    expected = np.linalg.lstsq(np.vstack([full, pull]), np.vstack([y, pull @ start]), rcond=None)[0]
    np.testing.assert_allclose(fitted, expected, atol=1e-6)
    error = np.square(y - full @ fitted).sum() / np.square(y).sum()
    assert moments.missing(torch.from_numpy(fitted)) == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize(
    ("family", "norms"),
    [
        ("bert", "output.LayerNorm"),
        ("deberta-v2", "output.LayerNorm"),
        ("vit", None),
        ("llama", None),
        ("gpt_neox", None),
        ("phi3", None),
        ("dinov2", None),
    ],
)
def test_each_consumer_brings_the_stream_closest_to_the_originals(family, norms):
    """The normal equations hold for what plain hooks see in whole passes of both models."""
    model, examples, masks, compensator = refitted(family)
    inputs = next(examples.batches(len(examples))).inputs
    compensator.refit()
    live = inputs["attention_mask"].bool() if "attention_mask" in inputs else slice(None)
    for layer in masks.anatomy.layers.values():
        group = masks.anatomy.groups[masks.anatomy.sublayers[layer.sublayers[-1]].groups[0]]
        end = f"{layer.module}.{norms}" if norms else layer.module
        x, added, stream = seen(model, inputs, group.site, end, before=bool(norms))
        with masks.untouched():
            wanted = seen(model, inputs, group.site, end, before=bool(norms))[2]
        columns = group.columns((~masks.removed[group.name]).nonzero().flatten())
        scale_of = model.get_parameter(group.scale).detach() if group.scale else 1.0
        target = ((wanted - (stream - scale_of * added)) / scale_of)[live].flatten(0, -2).double()
        x = x[live].flatten(0, -2)[:, columns].double()
        own, now = masks.own_weights(group.site), masks.refits.get(group.site, masks.own_weights(group.site))
        moved = (now.weight - own.weight)[:, columns].double()
        left = target - x @ now.weight[:, columns].double().T - (0 if now.bias is None else now.bias.double())
        pull = 0.01 * x.square().sum(0).mean() * moved
        scale = (left.T @ x).abs().max() + target.abs().max() * x.abs().sum(0).max()
        assert ((left.T @ x) - pull).abs().max() < 1e-5 * scale
        if now.bias is not None:
            assert left.sum(0).abs().max() < 1e-4 * target.abs().sum(0).max()


def seen(model, inputs, site, end, *, before):
    """Into and out of ``site``, and the residual stream at ``end``: what enters a norm, or leaves a layer."""
    found = {}
    hooks = [
        model.get_submodule(site).register_forward_hook(lambda m, i, o: found.update(x=i[0], y=o)),
        model.get_submodule(end).register_forward_hook(
            lambda m, i, o: found.update(s=i[0] if before else (o[0] if isinstance(o, tuple) else o))
        ),
    ]
    logits_of(model, inputs)
    for hook in hooks:
        hook.remove()
    return found["x"], found["y"], found["s"]


# Every family


@pytest.mark.parametrize("family", FAMILIES)
def test_it_makes_up_for_what_is_gone(family):
    model, examples, masks, compensator = refitted(family, rows=96)
    inputs = next(examples.batches(len(examples))).inputs
    bare = logits_of(model, inputs)
    repairs = compensator.refit()
    whole = logits_of(model, inputs)
    with masks.untouched():
        original = logits_of(model, inputs)
    assert (whole - original).square().mean() < 0.8 * (bare - original).square().mean()
    assert all(repair.missing_after <= repair.missing_before for repair in repairs)
    assert {repair.role for repair in repairs} == {"reader", "consumer", "readout"}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_materialized_computes_what_the_masks_computed(family):
    model, _, masks, compensator = refitted(family)
    compensator.refit()
    inputs = tiny_inputs(family)
    masked = logits_of(model, inputs)
    with masks.untouched():
        pass
    assert torch.equal(logits_of(model, inputs), masked), "looking at the original changes nothing"
    refits = masks.refits
    with masks.untouched():
        smaller = materialize(model, masks.anatomy, masks.removed, refits)
    assert (logits_of(smaller, inputs) - masked).abs().max() < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_gives_the_same_weights_again_bit_for_bit(family, tmp_path):
    model, _, masks, compensator = refitted(family)
    compensator.refit()
    refits, flags, path = masks.refits, masks.removed, tmp_path / "refits.safetensors"
    save_refits(refits, masks.anatomy, flags, path)
    with masks.untouched():
        again = load_refits(model, masks.anatomy, flags, path)
        smaller = [materialize(model, masks.anatomy, flags, each).state_dict() for each in (refits, again)]
    assert refits.keys() == again.keys()
    assert all(torch.equal(value, smaller[1][name]) for name, value in smaller[0].items())


@pytest.mark.parametrize("family", FAMILIES)
def test_undoing_every_removal_gives_the_original_back_bit_for_bit(family):
    model = tiny_model(family)
    weights = copy.deepcopy(model.state_dict())
    masks = Masks(model, read_anatomy(model, tiny_tokens(family)))
    components = flagged(masks.anatomy, uneven_removal(masks.anatomy))
    with masks:
        compensator = Compensator(masks, tiny_examples(family), Compensation())
        assert compensator.refit() == [] and not masks.refits, "nothing is gone"
        masks.remove(components)
        compensator.refit()
        assert masks.refits
        masks.restore(components)
        compensator.refit()
        assert not masks.refits
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        masks.remove(components)
        compensator.refit()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_only_what_depends_on_a_change_is_refitted(family):
    model, examples, masks, compensator = refitted(family)
    compensator.refit()
    last = [group for group in masks.anatomy.groups.values() if not masks.removed[group.name].all()][-1]
    earlier = {name: refit for name, refit in masks.refits.items() if not name.startswith(last.site.rpartition(".")[0])}
    kept = int((~masks.removed[last.name]).nonzero()[0])
    masks.remove([last.components[kept]])
    repairs = compensator.refit()
    layers = {repair.linear.rsplit(".", 2)[0] for repair in repairs if repair.role != "readout"}
    assert layers == {last.layer}
    assert any(masks.refits[name] is refit for name, refit in earlier.items()), "what comes before stays as it is"
    by_parts = {name: refit.weight for name, refit in masks.refits.items()}
    masks.refit({})
    Compensator(masks, examples, Compensation(perturbed=False), batch_size=16).refit()
    assert by_parts.keys() == masks.refits.keys()
    for name, weight in by_parts.items():
        torch.testing.assert_close(weight, masks.refits[name].weight, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_change_that_was_taken_back_and_comes_again_is_refitted_again(family):
    """What weights were fitted to goes back with them; nobody remembers the state that was tried."""
    _, examples, masks, compensator = refitted(family)
    compensator.refit()
    before = masks.refits
    early, late = (
        next(part for part in group.components if not masks.is_removed(part))
        for group in (list(masks.anatomy.groups.values())[place] for place in (1, -1))
    )
    masks.remove([early])
    compensator.refit()
    masks.restore([early])
    masks.refit(before)
    masks.remove([early, late])
    compensator.refit()
    found = masks.refits
    masks.refit({})
    Compensator(masks, examples, Compensation(perturbed=False), batch_size=16).refit()
    assert found.keys() == masks.refits.keys()
    assert all(torch.equal(found[name].weight, refit.weight) for name, refit in masks.refits.items())


def test_a_compensator_that_comes_later_sees_what_weights_were_fitted_to():
    """As on resuming: putting back all that a layer lacked gives its own weights back."""
    _, examples, masks, compensator = refitted("bert")
    compensator.refit()
    masks.restore(masks.components)
    Compensator(masks, examples, Compensation(perturbed=False), batch_size=16).refit()
    assert not masks.refits


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "vit"])
@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_sublayer_without_components_gets_the_constant_that_helps_most(family, place):
    """Its consumer has no input left; what is missing on the rows of the refit does not grow."""
    _, examples, masks, _ = refitted(family)
    group = list(masks.anatomy.groups.values())[place]
    masks.remove(part for part in group.components if not masks.is_removed(part))
    repairs = Compensator(masks, examples, Compensation(perturbed=False), batch_size=16).refit()
    [mine] = [
        repair
        for repair in repairs
        if repair.role == "consumer" and masks.anatomy.linears[repair.linear].module == group.site
    ]
    assert mine.missing_after <= mine.missing_before + 1e-9
    own = masks.own_weights(group.site)
    assert (own.bias is None) == (group.site not in masks.refits)
    assert not {producer.module for producer in group.producers} & masks.refits.keys()


def test_a_ridge_that_makes_no_sense_is_refused():
    with pytest.raises(InputError, match=r"compensation\.ridge"):
        Compensation(ridge=0.0)


# What makes the answer


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("bert", ["bert.pooler.dense", "classifier"]),
        ("roberta", ["classifier.dense", "classifier.out_proj"]),
        ("distilbert", ["pre_classifier", "classifier"]),
        ("vit", ["classifier"]),
        ("llama", ["score"]),
        ("bart", ["classification_head.dense", "classification_head.out_proj"]),
    ],
)
def test_what_makes_the_answer_is_fitted_last_to_the_originals(family, names):
    model, examples, masks, compensator = refitted(family)
    repairs = compensator.refit()
    assert [repair.linear for repair in repairs if repair.role == "readout"] == names
    assert [repair.role for repair in repairs[-len(names) :]] == ["readout"] * len(names)
    assert all(repair.missing_after <= repair.missing_before for repair in repairs if repair.role == "readout")
    refits = dict(masks.refits)
    error = distance_of(masks, examples)
    masks.refit({name: refit for name, refit in refits.items() if name not in names})
    assert error < distance_of(masks, examples)


def distance_of(masks, examples):
    """The squared distance of the logits from the original's."""
    inputs = next(examples.batches(len(examples))).inputs
    now = logits_of(masks.model, inputs)
    with masks.untouched():
        return float((now - logits_of(masks.model, inputs)).square().mean())


def test_other_rows_ask_for_every_layer_anew():
    _, examples, masks, compensator = refitted("bert")
    compensator.refit()
    assert not compensator.refit()
    assert len(compensator.refit(anew=True)) == len(compensator.refit(anew=True)) > 0
