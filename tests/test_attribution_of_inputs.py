"""Attributions are what they are by hand, agree where models agree, and name what models use."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from compress_explain.data.examples import ALL, Batch
from compress_explain.errors import InputError
from compress_explain.signals.attribution.patch_pieces import Patches
from compress_explain.signals.attribution.saliency import pieces_of, saliency
from compress_explain.signals.attribution.token_pieces import Tokens
from compress_explain.signals.stream.read_alike import rows_read_alike
from tests.tiny import tiny_examples, tiny_model
from tests.trained import FILLERS, reviews, trained_model

QUICK = {"steps": 8, "batch_size": 32}


class Counted(PreTrainedModel):
    """With s the sum of w·e over a row's embeddings: the logits s and s squared."""

    config_class = PretrainedConfig

    def __init__(self):
        super().__init__(PretrainedConfig())
        torch.manual_seed(3)
        self.table = torch.nn.Embedding(12, 4)
        self.w = torch.nn.Parameter(torch.randn(4))

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids, attention_mask):
        total = ((self.table(input_ids) @ self.w) * attention_mask).sum(1)
        return SequenceClassifierOutput(logits=torch.stack([total, total.square()], 1))


class Weighed(PreTrainedModel):
    """The logits are the weighted sum of all pixels, and its square."""

    config_class = PretrainedConfig

    def __init__(self):
        super().__init__(PretrainedConfig(patch_size=2))
        torch.manual_seed(4)
        self.w = torch.nn.Parameter(torch.randn(3, 4, 6))

    def forward(self, pixel_values):
        total = (pixel_values * self.w).sum((1, 2, 3))
        return SequenceClassifierOutput(logits=torch.stack([total, total.square()], 1))


def of(findings, figure, model="", slice=ALL):
    (found,) = [each for each in findings if (each.figure, each.model, each.slice) == (figure, model, slice)]
    return found


def changed(model, size, seed=0):
    """With noise of that size, relative to each parameter's spread."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter.std() if parameter.numel() > 1 else 0
            parameter += size * spread * torch.randn(parameter.shape, generator=generator)
    return model


def anew(model, seed=0):
    """With the same parameters in another order: weights that say nothing."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                parameter.flatten()[torch.randperm(parameter.numel(), generator=generator)].view_as(parameter)
            )
    return model


@pytest.fixture(scope="module")
def model():
    return trained_model()


@pytest.fixture(scope="module")
def split():
    return reviews(80, seed=9)


@pytest.fixture(scope="module")
def with_itself(model, split):
    return saliency(model, copy.deepcopy(model), split, split, top=2, rows=80, steps=32)


def test_attributions_to_tokens_are_those_by_hand():
    model = Counted()
    ids = torch.tensor([[2, 7, 8, 9, 3], [2, 5, 3, 0, 0]])
    batch = Batch({"input_ids": ids, "attention_mask": (ids != 0).long()}, np.arange(2))
    tokens = Tokens(model=model, blank=0, around=frozenset({2, 3}))
    free = tokens.free(batch)
    assert free.tolist() == [[False, True, True, True, False], [False, True, False, False, False]]
    each = (model.table(ids) @ model.w).detach()
    blank = float((model.table(torch.tensor(0)) @ model.w).detach())
    moved = torch.where(free, each - blank, 0.0)
    there = batch.inputs["attention_mask"]
    total = (each * there).sum(1, keepdim=True)
    before = total - moved.sum(1, keepdim=True)
    for column, slope, path in ((0, 1.0, 1.0), (1, 2 * total, total + before)):
        classes = torch.full((2,), column)
        assert torch.allclose(tokens.integrated_gradients(batch, classes, 4), moved * path, atol=1e-5)
        assert torch.allclose(tokens.input_x_gradient(batch, classes), each * there * slope, atol=1e-5)
    assert torch.allclose(tokens.logits(batch, free)[:, :1], before, atol=1e-5)


def test_attributions_to_patches_are_those_by_hand():
    model = Weighed()
    pixels = torch.randn(2, 3, 4, 6)
    batch = Batch({"pixel_values": pixels}, np.arange(2))
    patches = Patches(model=model, side=2)
    share = (pixels * model.w).detach().sum(1).view(2, 2, 2, 3, 2).sum((2, 4)).flatten(1)
    for column, factor in ((0, 1.0), (1, share.sum(1, keepdim=True))):
        classes = torch.full((2,), column)
        assert torch.allclose(patches.integrated_gradients(batch, classes, 4), share * factor, atol=1e-4)
        slope = factor if column == 0 else 2 * factor
        assert torch.allclose(patches.input_x_gradient(batch, classes), share * slope, atol=1e-4)
    without = torch.tensor([[True, False, False, False, False, True], [False] * 6])
    assert torch.allclose(patches.logits(batch, without)[:, 0], (share * ~without).sum(1), atol=1e-4)


def test_a_model_agrees_with_itself(with_itself, split):
    for method in ("integrated_gradients", "input_x_gradient"):
        for figure in ("agreement", "overlap"):
            found = of(with_itself, f"{figure}.{method}")
            assert (found.value, found.low, found.high) == (pytest.approx(1), pytest.approx(1), pytest.approx(1))
            assert found.n == len(split)
    assert not [each for each in with_itself if each.slice == "flipped"]
    pieces = np.array([len(row) - 2 for row in split.inputs["input_ids"]])
    by_chance = np.mean(np.minimum(2, pieces // 2) / pieces)
    assert of(with_itself, "overlap_by_chance").value == pytest.approx(by_chance)
    for figure in ("deletion.integrated_gradients", "deletion.random", "completeness"):
        assert of(with_itself, figure, "original").value == of(with_itself, figure, "compressed").value


def test_what_attributions_name_is_what_the_model_uses(with_itself):
    gain = of(with_itself, "deletion.gain", "original")
    assert gain.low > 0.1
    assert gain.value == pytest.approx(
        of(with_itself, "deletion.integrated_gradients", "original").value
        - of(with_itself, "deletion.random", "original").value
    )
    assert of(with_itself, "completeness", "original").value < 0.05


def test_the_token_that_is_named_first_is_the_telling_one(model, split):
    tokens = pieces_of(model, split)
    named = []
    for batch in split.batches(40):
        classes = tokens.logits(batch).argmax(-1)
        scores = tokens.integrated_gradients(batch, classes, 32).masked_fill(~tokens.free(batch), -torch.inf)
        named += batch.inputs["input_ids"].gather(1, scores.argmax(1, keepdim=True)).flatten().tolist()
    assert np.mean([token not in FILLERS for token in named]) > 0.9


def test_little_noise_agrees_more_than_weights_that_say_nothing(model, split):
    near = saliency(model, changed(model, 0.05), split, split, **QUICK)
    far = saliency(model, anew(model), split, split, **QUICK)
    for figure in ("agreement.integrated_gradients", "overlap.integrated_gradients", "agreement.input_x_gradient"):
        assert of(near, figure).low > of(far, figure).high
    assert of(near, "agreement.integrated_gradients").value > 0.9
    assert abs(of(far, "agreement.integrated_gradients").value) < 0.4
    flipped = of(far, "agreement.integrated_gradients", slice="flipped")
    assert 0 < flipped.n < len(split)


def test_slices_are_told_where_they_are_large_enough(model, split):
    few = np.arange(len(split)) < 29
    split = replace(split, slices={**split.slices, "few": few})
    found = saliency(model, changed(model, 0.05), split, split, **QUICK)
    told = {each.slice for each in found if each.figure == "agreement.integrated_gradients"}
    assert {"plain"} <= told and "few" not in told
    assert of(found, "agreement.integrated_gradients", slice="plain").n == split.slices["plain"].sum()


@pytest.mark.exhaustive
def test_padding_and_the_size_of_batches_change_nothing(model, split):
    alone = saliency(model, changed(model, 0.1), split, split, rows=12, steps=8, batch_size=1)
    together = saliency(model, changed(model, 0.1), split, split, rows=12, steps=8, batch_size=12)
    assert len(alone) == len(together)
    for one, other in zip(alone, together, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-4), one.figure


def test_classes_in_another_order_are_the_same_classes(model, split):
    turned = copy.deepcopy(model)
    with torch.no_grad():
        turned.score.weight.copy_(model.score.weight.flip(0))
    right = saliency(model, turned, split, split, order=(1, 0), **QUICK)
    wrong = saliency(model, turned, split, split, **QUICK)
    assert of(right, "agreement.integrated_gradients").value == pytest.approx(1)
    assert of(wrong, "agreement.integrated_gradients").value < 0


def test_models_are_as_before(model, split):
    batch = split.batch(np.arange(8))
    before, state = model(**batch.inputs).logits, copy.deepcopy(model.state_dict())
    saliency(model, model, split, split, rows=8, **QUICK)
    assert torch.equal(before, model(**batch.inputs).logits)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_rows_that_are_read_otherwise_are_left_out(model, split):
    ids = list(split.inputs["input_ids"])
    ids[3], ids[5] = ids[3][:-2], np.append(ids[5], 1)
    other = replace(split, inputs={"input_ids": ids, "attention_mask": [np.ones_like(row) for row in ids]})
    assert set(range(80)) - set(rows_read_alike(split, other).tolist()) == {3, 5}
    found = of(saliency(model, model, split, other, **QUICK), "agreement.integrated_gradients")
    assert found.n == 78 and "2 that the models read as other pieces" in found.note


def test_numbers_of_a_smaller_vocabulary_stand_for_the_same_tokens(split):
    moved = [np.where(row > 20, row - 1, row) for row in split.inputs["input_ids"]]  # 21 is read as 20 now
    other = replace(split, inputs={**split.inputs, "input_ids": moved})
    assert len(rows_read_alike(split, other)) == len(split)
    generator = np.random.default_rng(0)
    mixed = [generator.permutation(row) for row in split.inputs["input_ids"]]
    assert len(rows_read_alike(split, replace(split, inputs={**split.inputs, "input_ids": mixed}))) < 8


def test_where_no_row_is_read_alike_that_is_what_is_told(model, split):
    longer = [np.append(row, 1) for row in split.inputs["input_ids"]]
    other = replace(split, inputs={"input_ids": longer, "attention_mask": [np.ones_like(row) for row in longer]})
    (found,) = saliency(model, model, split, other, **QUICK)
    assert np.isnan(found.value) and found.n == 0 and "no row" in found.note


def test_images_agree_with_themselves_and_less_with_noise():
    model, split = tiny_model("vit"), tiny_examples("vit", rows=40)
    assert of(saliency(model, model, split, split, **QUICK), "agreement.integrated_gradients").value == pytest.approx(1)
    near = of(saliency(model, changed(model, 0.02), split, split, **QUICK), "agreement.integrated_gradients")
    far = of(saliency(model, anew(model), split, split, **QUICK), "agreement.integrated_gradients")
    assert near.low > far.high


def test_a_model_that_looks_its_tokens_up_twice_is_refused_in_words():
    model, split = tiny_model("t5"), tiny_examples("t5", rows=6)
    with pytest.raises(InputError, match="one look-up"):
        pieces_of(model, split)
    (found,) = saliency(model, model, split, split, **QUICK)
    assert np.isnan(found.value) and "one look-up" in found.note


def test_frozen_models_are_attributed_too(split):
    frozen = trained_model().requires_grad_(False)
    assert of(saliency(frozen, frozen, split, split, rows=4, **QUICK), "agreement.input_x_gradient").value == 1


def test_other_tasks_have_none(model, split):
    assert saliency(model, model, replace(split, task="text-generation", tokenwise=True), split) == []


def test_progress_counts_every_row_once(model, split):
    told: list[int] = []
    saliency(model, model, split, split, rows=10, advance=told.append, steps=4, batch_size=4)
    assert sum(told) == 10
