"""What moved logits mean: against scipy, for two classes, for some, and for too many to follow one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from compress_explain.pricing.decision import MOST, Decision, decide
from compress_explain.pricing.impact import IMPACTS, TokenImpact, impact_of, impact_of_change

CLASSES = 40


def reference(before, after, label):
    """One example under one edit, in numpy."""
    was, now, one, move = softmax(before), softmax(after), np.eye(len(before))[label], after - before
    return {
        "loss_change": log_softmax(before)[label] - log_softmax(after)[label],
        "kl": np.sum(was * (log_softmax(before) - log_softmax(after))),
        "soft_kl": np.cov(move, aweights=softmax(before / 4), ddof=0) / 2,
        "flips_to_wrong": before.argmax() == label != after.argmax(),
        "flips_to_right": before.argmax() != label == after.argmax(),
        "brier_change": np.sum((now - one) ** 2) - np.sum((was - one) ** 2),
        "logit_move": np.linalg.norm(move - move.mean()),
    }


@pytest.mark.parametrize("labels", [2, 5, MOST])
def test_impacts_are_those_of_the_moved_logits(labels):
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(0, 2, (7, labels)), rng.integers(0, labels, 7)
    move = rng.normal(0, 2, (7, 3, labels))
    if labels == 2:
        move -= move.mean(-1, keepdims=True)
    got = impact_of(Decision(torch.from_numpy(logits), torch.from_numpy(truth)), torch.from_numpy(move))
    assert tuple(got) == IMPACTS
    for row in range(7):
        for component in range(3):
            expected = reference(logits[row], logits[row] + move[row, component], truth[row])
            for name, value in expected.items():
                assert float(got[name][row, component]) == pytest.approx(float(value), abs=1e-12), name


def test_two_classes_agree_with_the_general_formula():
    """A third class that is out of the question changes nothing but the formula that is used."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 2, generator=generator, dtype=torch.float64) * 3
    margin = torch.randn(50, 4, generator=generator, dtype=torch.float64) * 3
    margin = torch.where(margin.abs() < 0.03, 0.03, margin)
    move = torch.stack([-margin / 2, margin / 2], -1)
    labels = torch.randint(0, 2, (50,), generator=generator)
    hopeless = torch.full((50, 1), -1e4, dtype=torch.float64)
    binary = impact_of(Decision(logits, labels), move)
    padded = Decision(torch.cat([logits, hopeless], 1), labels)
    general = impact_of(padded, torch.nn.functional.pad(move, (0, 1)))
    change = impact_of_change(Decision(logits, labels), margin[..., None])
    for name in IMPACTS:
        assert torch.allclose(binary[name], general[name], atol=1e-12), name
        assert torch.allclose(binary[name], change[name], atol=1e-12), name
    assert binary["flips_to_wrong"].any() and binary["flips_to_right"].any()


@pytest.mark.parametrize("size", [1e-5, 1e-3, 2.9e-2, 3.1e-2, 1.0, 20.0])
def test_the_divergence_of_two_classes_keeps_its_digits_however_small_the_move(size):
    """It ranks edits, and in single precision the difference of two softplus is nothing but noise below 1e-3.

    Relative error below 0.2% for small moves; beyond, absolute error of the order of single precision.
    """
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(200, 2, generator=generator, dtype=torch.float64) * 2
    labels = torch.randint(0, 2, (200,), generator=generator)
    change = torch.where(torch.rand(200, 1, generator=generator) < 0.5, size, -size).double()
    single = impact_of_change(Decision(logits.float(), labels), change.float()[..., None])
    for row in range(200):
        sign = float(change[row, 0])
        after = logits[row].numpy() + np.array([-sign / 2, sign / 2])
        with np.errstate(all="ignore"):
            longer = [np.asarray(each, np.longdouble) for each in (logits[row].numpy(), after)]
        was, now = (each - np.log(np.exp(each - each.max()).sum()) - each.max() for each in longer)
        expected = float(np.sum(np.exp(was) * (was - now)))
        close = pytest.approx(expected, rel=2e-3) if size < 0.03 else pytest.approx(expected, abs=1e-6 * max(1, size))
        assert float(single["kl"][row, 0]) == close
        loss = float(was[labels[row]] - now[labels[row]])
        assert float(single["loss_change"][row, 0]) == pytest.approx(loss, rel=2e-3, abs=1e-6 * max(1, size))


def test_impacts_of_tokens_are_those_of_each_token_alone():
    rng = np.random.default_rng(2)
    before, after = rng.normal(0, 2, (3, 5, 11)), rng.normal(0, 2, (3, 5, 11))
    targets = rng.integers(0, 11, (3, 5))
    after[0] = before[0] + 3 * np.eye(11)[targets[0]]
    got = TokenImpact(torch.from_numpy(before), torch.from_numpy(targets)).of(torch.from_numpy(after))
    assert tuple(got) == IMPACTS
    for place in np.ndindex(3, 5):
        for name, value in reference(before[place], after[place], targets[place]).items():
            assert float(got[name][place]) == pytest.approx(float(value), abs=1e-12), name


# Many classes


def many(rows=30, seed=3):
    """Logits and labels; every other label is the likeliest class."""
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, 3, (rows, CLASSES)), rng.integers(0, CLASSES, rows)
    labels[::2] = logits.argmax(1)[::2]
    return torch.from_numpy(logits), torch.from_numpy(labels)


def test_up_to_sixteen_classes_are_followed_one_by_one():
    logits, labels = many()
    few = decide(logits[:, :MOST], labels % MOST)
    assert few.rest is None and few.classes is None and torch.equal(few.logits, logits[:, :MOST])
    assert decide(logits[:, : MOST + 1], labels % MOST).logits.shape[1] == MOST


def test_the_choices_are_the_label_the_likeliest_others_and_the_rest():
    logits, labels = many()
    decision = decide(logits, labels)
    assert decision.logits.shape == (30, MOST) and decision.labels.tolist() == [0] * 30
    full, reduced = logits.softmax(1), decision.logits.softmax(1)
    for row in range(30):
        chosen = decision.classes[row].tolist()
        others = sorted(set(range(CLASSES)) - {int(labels[row])}, key=lambda each: -logits[row, each])
        assert chosen == [int(labels[row]), *others[: MOST - 2]]
        torch.testing.assert_close(reduced[row, :-1], full[row, chosen], rtol=0, atol=1e-14)
        rest = full[row, others[MOST - 2 :]]
        assert float(reduced[row, -1]) == pytest.approx(float(rest.sum()), abs=1e-14)
        assert float(decision.rest[row]) == pytest.approx(float(((rest / rest.sum()) ** 2).sum()), abs=1e-14)
    loss = torch.nn.functional.cross_entropy
    assert float(loss(decision.logits, decision.labels)) == pytest.approx(float(loss(logits, labels)), abs=1e-14)


def test_a_move_that_leaves_the_rest_alone_has_the_impact_of_all_classes():
    """The classes of the rest move as one: then nothing is lost by counting them as one."""
    logits, labels = many()
    decision, rng = decide(logits, labels), np.random.default_rng(4)
    together = torch.from_numpy(rng.normal(0, 2, (30, 4, 1))).expand(-1, -1, CLASSES)
    chosen = decision.classes[:, None].expand(-1, 4, -1)
    move = together.scatter(2, chosen, torch.from_numpy(rng.normal(0, 2, (30, 4, MOST - 1))))
    after = logits[:, None] + move
    got = impact_of(decision, decision.of(after.transpose(0, 1)).transpose(0, 1) - decision.logits[:, None])
    flipped = 0
    for row in range(30):
        for edit in range(4):
            expected = reference(logits[row].numpy(), after[row, edit].numpy(), int(labels[row]))
            for name in ("loss_change", "kl", "brier_change"):
                assert float(got[name][row, edit]) == pytest.approx(float(expected[name]), abs=1e-10), name
            if int(after[row, edit].argmax()) in decision.classes[row]:
                for name in ("flips_to_wrong", "flips_to_right"):
                    assert float(got[name][row, edit]) == float(expected[name]), name
                flipped += int(expected["flips_to_wrong"]) + int(expected["flips_to_right"])
    assert flipped > 5


def test_of_any_move_the_loss_is_that_of_all_classes_and_the_divergence_at_most():
    logits, labels = many()
    decision, move = decide(logits, labels), torch.from_numpy(np.random.default_rng(5).normal(0, 2, (30, 4, CLASSES)))
    after = logits[:, None] + move
    got = impact_of(decision, decision.of(after.transpose(0, 1)).transpose(0, 1) - decision.logits[:, None])
    rows = [[reference(logits[r].numpy(), after[r, e].numpy(), int(labels[r])) for e in range(4)] for r in range(30)]
    expected = {name: torch.tensor([[each[name] for each in row] for row in rows]) for name in ("loss_change", "kl")}
    torch.testing.assert_close(got["loss_change"], expected["loss_change"], rtol=0, atol=1e-12)
    assert (got["kl"] <= expected["kl"] + 1e-12).all() and (got["kl"] > 0).all()


def test_a_label_that_the_model_thinks_least_likely_is_still_a_choice():
    logits, _ = many()
    labels = logits.argmin(1)
    decision = decide(logits, labels)
    assert torch.equal(decision.classes[:, 0], labels)
    torch.testing.assert_close(decision.logits[:, 0], logits.gather(1, labels[:, None])[:, 0])


def test_the_choices_pass_gradients_on_to_all_classes():
    """The slope of the rest's logit is the softmax within the rest."""
    logits, labels = many(rows=4)
    logits.requires_grad_()
    decision = decide(logits, labels)
    (slope,) = torch.autograd.grad(decision.logits[:, -1].sum(), logits)
    outside = logits.detach().scatter(1, decision.classes, -torch.inf).softmax(1)
    torch.testing.assert_close(slope, outside)


@pytest.mark.parametrize("labels", [2, 5])
def test_a_soft_kl_is_that_of_softened_predictions_for_small_moves(labels):
    draw = np.random.default_rng(3)
    logits, move = draw.normal(0, 6, (20, labels)), draw.normal(0, 0.01, (20, 1, labels))
    truth = torch.from_numpy(draw.integers(0, labels, 20))
    got = impact_of(Decision(torch.from_numpy(logits), truth), torch.from_numpy(move))["soft_kl"][:, 0]
    was, now = (log_softmax(each / 4, axis=1) for each in (logits, logits + move[:, 0]))
    np.testing.assert_allclose(got.numpy(), 16 * (np.exp(was) * (was - now)).sum(1), rtol=0.02)
