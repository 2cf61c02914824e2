"""What a linearisation leaves out is learned from the pairs that are exact, and only from those."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress_explain.pricing import Refinement, price, refine
from compress_explain.pricing.curvature import bent
from compress_explain.pricing.impact import with_first
from compress_explain.pricing.linear import linearised
from compress_explain.pricing.rows import by_row
from compress_explain.pricing.slopes import Slopes
from tests.states import random_state
from tests.tiny import CLASSIFIERS, tiny_examples

ROWS, EDITS = 200, 12


def drawn(choices, seed=0):
    """Logits, linear changes, reach, and a tenth of the pairs, those of the largest changes, as exact."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(ROWS, choices, generator=generator)
    linear = 0.1 * torch.randn(ROWS, EDITS, choices - 1, generator=generator)
    reach = torch.rand(ROWS, EDITS, generator=generator).square()
    sizes = linear.norm(dim=-1)
    return logits, linear, reach, sizes > sizes.flatten().quantile(0.9)


def shrunk(logits, linear, reach, coefficients):
    """Changes after which the logits of a row are also nearer to one another."""
    apart = torch.nn.functional.normalize(logits - logits.mean(1, keepdim=True), dim=1)
    full = with_first(linear) - (coefficients * reach)[..., None] * apart[:, None]
    return full[..., 1:] - full[..., :1]


@pytest.mark.parametrize("choices", [2, 5])
def test_a_common_shrinking_is_found_and_applied_to_all_other_pairs(choices):
    logits, linear, reach, exact = drawn(choices)
    truth = shrunk(logits, linear, reach, torch.tensor(0.3))
    known = torch.where(exact[..., None], truth, linear)
    assert torch.allclose(bent(logits, linear, known, exact, reach), truth, atol=1e-5)


def test_edits_that_shrink_more_than_others_are_corrected_by_more():
    logits, linear, reach, exact = drawn(3)
    coefficients = torch.linspace(0.1, 0.5, EDITS)
    truth = shrunk(logits, linear, reach, coefficients)
    known = torch.where(exact[..., None], truth, linear)
    got = bent(logits, linear, known, exact, reach)
    common = shrunk(logits, linear, reach, torch.tensor(0.3))
    assert (got - truth).norm() < 0.7 * (common - truth).norm() < 0.7 * (linear - truth).norm()


def test_what_is_exact_stays_as_it_is():
    logits, linear, reach, exact = drawn(4)
    known = torch.where(exact[..., None], shrunk(logits, linear, reach, torch.tensor(1.0)), linear)
    assert torch.equal(bent(logits, linear, known, exact, reach)[exact], known[exact])


NOTHING = {
    "no pair is exact": lambda linear, reach, exact: (linear, reach, torch.zeros_like(exact)),
    "no edit reaches anything": lambda linear, reach, exact: (linear, torch.zeros_like(reach), exact),
    "no edit": lambda linear, reach, exact: (linear[:, :0], reach[:, :0], exact[:, :0]),
    "too few rows": lambda linear, reach, exact: (linear, reach, exact & (torch.arange(ROWS) < 9)[:, None]),
}


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize("left_out", [0.0, 0.1])
def test_where_nothing_can_be_learned_nothing_is_corrected(nothing, left_out):
    logits, *rest = drawn(3)
    linear, reach, exact = NOTHING[nothing](*rest)
    known = torch.where(exact[..., None], linear + left_out, linear)
    assert torch.equal(bent(logits, linear, known, exact, reach), known)


def test_where_nothing_was_left_out_nothing_is_corrected():
    logits, linear, reach, exact = drawn(3)
    assert torch.equal(bent(logits, linear, linear, exact, reach), linear)


def test_chance_is_not_taken_for_a_shrinking():
    """Errors that have nothing to do with the reach: the correction is a small part of them."""
    sizes = []
    for seed in range(20):
        logits, linear, reach, exact = drawn(3, seed)
        error = 0.1 * torch.randn(linear.shape, generator=torch.Generator().manual_seed(100 + seed))
        known = torch.where(exact[..., None], linear + error, linear)
        sizes.append(float((bent(logits, linear, known, exact, reach) - known).norm() / error.norm()))
    assert np.mean(sizes) < 0.1


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_reach_is_the_size_of_what_is_added_times_the_steepness_there(family):
    """Squared, token by token, over the differences of the logits from the first."""
    masks, examples = random_state(family, 3, remove=False), tiny_examples(family, labels=3, rows=6)
    groups = list(masks.anatomy.groups.values())
    (each,) = linearised(Slopes(masks, groups), examples, examples.batches(6), reach=range(len(groups)))
    seen = {}
    for group in groups:
        site = masks.model.get_submodule(group.site)
        site.register_forward_pre_hook(lambda _, inputs, name=group.name: seen.update({name: inputs[0]}))
    logits = masks.model(**each.batch.inputs).logits
    for index, group in enumerate(groups):
        x, weight = by_row(seen[group.name], 6), masks.model.get_submodule(group.site).weight.detach()
        weight = weight.T if family == "gpt2" else weight  # Conv1D keeps it the other way round
        steep = [
            torch.autograd.grad((logits[:, k] - logits[:, 0]).sum(), seen[group.name], retain_graph=True)[0]
            for k in (1, 2)
        ]
        steep = sum(by_row(slope, 6).square().sum(-1) for slope in steep)
        for member in range(group.count):
            mine = slice(member * group.width, (member + 1) * group.width)
            added = (x[..., mine] @ weight[:, mine].T).square().sum(-1)
            assert torch.allclose(each.reach[index][:, member], (added * steep).flatten(1).sum(1), rtol=1e-3)


def test_reach_is_there_only_for_what_it_is_asked_of():
    masks, examples = random_state("bert", 3), tiny_examples("bert", labels=3)
    slopes = Slopes(masks, list(masks.anatomy.groups.values()))
    (each,) = linearised(slopes, examples, examples.batches(len(examples)), reach=[1])
    assert list(each.reach) == [1] and each.reach[1].shape == each.changes[1].shape[:2]


def test_removals_and_restorations_are_learned_from_apart(monkeypatch):
    """The second phase hands over the heads of all layers at once, those to be removed and those to be put back."""
    masks, examples = random_state("bert", 3), tiny_examples("bert", labels=3, rows=12)
    seen = []

    def spy(logits, linear, known, exact, reach):
        seen.append((linear.shape, known[~exact].equal(linear[~exact]), int(exact.sum()), reach.shape))
        return known

    monkeypatch.setattr(refine, "bent", spy)
    price(masks, examples, refinement=Refinement(heads=1.0))
    heads = torch.cat([masks.removed[group.name] for group in masks.anatomy.of_kind("head")])
    assert [shape for shape, *_ in seen] == [(12, int((~heads).sum()), 2), (12, int(heads.sum()), 2)]
    assert all(same and shape[:2] == reached for shape, same, _, reached in seen)
    assert sum(pairs for *_, pairs, _ in seen) > 0
