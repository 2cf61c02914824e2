"""Channels of the residual stream: where they lie, what they are worth, masked, cut out, put back, in whole runs."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification

from compress_explain import Compensation, Gate, InputError, Reinstatement, compress, replay
from compress_explain.choosing.activations import find_activations
from compress_explain.choosing.channel_worth import IMPORTANCES, importance, worth_of
from compress_explain.choosing.meters import Bytes, Flops, Parameters, Storage, taken
from compress_explain.choosing.target import Target
from compress_explain.comparison.gates import Verdict
from compress_explain.comparison.predictions import pair, predict
from compress_explain.compensation import Compensator
from compress_explain.data.loading import DataSpec, load_splits
from compress_explain.deployment import OnnxRunner, export_onnx, run_examples
from compress_explain.deployment.deploy import deploy
from compress_explain.editing.dense import dense_twin
from compress_explain.editing.depgraph import _refuse_unlike, find_stream
from compress_explain.editing.edits import Edit, Plan
from compress_explain.editing.masks import Masks
from compress_explain.editing.narrowed_stream import silent_channels
from compress_explain.editing.refits import load_refits, save_refits
from compress_explain.editing.surgery import expected_parameters, materialize
from compress_explain.evaluators import Quality
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import load_subject
from compress_explain.model.stream import CHANNELS
from compress_explain.plugins.strategy import Situation, ranges_of
from compress_explain.pricing import AuditPlan, price
from compress_explain.pricing.channels import channels_move, loss_without_each
from compress_explain.progress import Progress
from compress_explain.record.checkpoint import MANIFEST, load_compressed, save_compressed
from compress_explain.record.course import course
from compress_explain.record.replay import Applied, applied_plans
from compress_explain.running.channels_back import blocks_gone, channels_back
from compress_explain.running.job import Job
from compress_explain.running.reinstate import choose_restorations
from compress_explain.search import Search
from compress_explain.search.space import space
from compress_explain.strategies import (
    Distill,
    Heads,
    Int8Dynamic,
    Int8Static,
    Layers,
    LowRank,
    Neurons,
    Structured,
    Sublayers,
    Vocabulary,
    Width,
)
from compress_explain.terminal.reading import print_component
from compress_explain.terminal.rehearsal import rehearse
from compress_explain.terminal.summary import print_run
from compress_explain.tuning import Tuner
from compress_explain.tuning.lessons import lessons_for
from compress_explain.vocabulary import Lexicon
from tests.every import NOT_NARROWED
from tests.small_job import loaded_small_job, sentences, tiny_tokenizer
from tests.tagged import generation_job, rewriting_job, tagging_job
from tests.test_embeddings import embedder
from tests.test_language_data import bare_tokenizer
from tests.test_task_runs import made
from tests.tiny import (
    CLASSIFIERS,
    EXPORTED,
    FAMILIES,
    GENERATORS,
    MODELS,
    flagged,
    generator_inputs,
    logits_of,
    tiny_examples,
    tiny_inputs,
    tiny_model,
    tiny_tokens,
    uneven_removal,
)
from tests.words import TEXTS, read_examples, reading_model, trained_tokenizer

ALL_AT_ONCE = 12
TOLERANCE = 1e-5
NARROWED = [family for family in CLASSIFIERS if family not in NOT_NARROWED]
NARROWED_GENERATORS = [family for family in GENERATORS if family not in (*NOT_NARROWED, "whisper")]
SOME = ("bert", "vit", "gpt2", "llama", "t5")


def standing_for_others(families):
    """Some families in the usual suite, which stand for all of them."""
    return [pytest.param(each, marks=() if each in SOME else pytest.mark.exhaustive) for each in families]


def narrowable(family, *, generates=False, **options):
    """The masks of a tiny model whose stream was found, and examples."""
    model = tiny_model(family, generates=generates, **options)
    inputs = generator_inputs(family) if generates else tiny_inputs(family)
    anatomy = read_anatomy(model, tiny_tokens(family))
    return Masks(model, anatomy.with_stream(find_stream(model, anatomy, inputs))), tiny_examples(family)


def worth(masks, examples, strategy):
    return worth_of(masks, examples, strategy, batch_size=ALL_AT_ONCE, seed=0)


def plan_of(masks, examples, strategy):
    prices = price(masks, examples.draw(2, 0), kinds=("neuron",))
    situation = Situation(
        anatomy=masks.anatomy, prices=prices, removed=masks.removed, round=0, rounds=1,
        channels=worth(masks, examples, strategy),
    )  # fmt: skip
    return Plan(step="1", author="test", edits=strategy.plan(situation))


def channels(masks, indices):
    return [f"{CHANNELS}.{index}" for index in indices]


# Where channels lie


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_are_found_or_the_model_is_refused(family):
    if family in NOT_NARROWED:
        with pytest.raises(InputError, match="strategies: width.*Remedy"):
            narrowable(family)
        return
    masks, _ = narrowable(family)
    stream, model = masks.anatomy.stream, masks.model
    assert stream.count == getattr(model.config, "hidden_size", stream.count)
    assert all(group.site in stream.writes for group in masks.anatomy.groups.values())
    for linear in masks.anatomy.linears.values():
        assert (linear.module in stream.reads) != (linear.module in stream.writes), linear.name
    for place in stream.places:
        assert model.get_parameter(place.parameter).shape[place.dimension] == len(place.starts) * stream.count


def test_what_a_graph_leaves_out_is_noticed():
    masks, _ = narrowable("bert")
    stream = masks.anatomy.stream
    less = dataclasses.replace(stream, norms=stream.norms[1:])
    with pytest.raises(InputError, match="what is cut out differs from what is masked"):
        _refuse_unlike(masks.model, masks.anatomy.with_stream(less), tiny_inputs("bert"))


def test_a_stack_with_a_stream_of_its_own_is_refused():
    with pytest.raises(InputError, match="does not write to the same residual stream"):
        narrowable("whisper", generates=True)


# What they are worth


@pytest.mark.parametrize("name", [name for name in IMPORTANCES if name != "random"])
def test_a_channel_that_hardly_carries_anything_is_worth_least(name):
    masks, examples = narrowable("llama")
    with torch.no_grad():
        for place in masks.anatomy.stream.places:
            masks.model.get_parameter(place.parameter).select(place.dimension, 5).mul_(1e-3)
    found = importance(masks, examples, name, batch_size=ALL_AT_ONCE, seed=0)
    assert int(found.argmin()) == 5 and found.isfinite().all()


def test_an_importance_is_that_of_what_is_left():
    masks, examples = narrowable("bert")
    whole = importance(masks, examples, "magnitude", batch_size=ALL_AT_ONCE, seed=0)
    masks.remove(channels(masks, [3, 8, 9]))
    masks.remove(flagged(masks.anatomy, uneven_removal(masks.anatomy)))
    left = importance(masks, examples, "magnitude", batch_size=ALL_AT_ONCE, seed=0)
    assert left.isnan().nonzero().flatten().tolist() == [3, 8, 9]
    assert not torch.equal(left[4:8], whole[4:8])
    again = importance(masks, examples, "random", batch_size=ALL_AT_ONCE, seed=1)
    assert torch.equal(again.nan_to_num(), importance(masks, examples, "random", batch_size=5, seed=1).nan_to_num())


def test_squares_of_gradients_are_those_of_every_row():
    masks, examples = narrowable("bert")
    one, two = (importance(masks, examples.draw(rows, 0), "hessian", batch_size=1, seed=0) for rows in (1, 24))
    turned = dataclasses.replace(
        examples,
        inputs={name: values[::-1] for name, values in examples.inputs.items()},
        labels=examples.labels[::-1].copy(),
    )
    backwards = importance(masks, turned, "hessian", batch_size=1, seed=0)
    assert torch.allclose(two, backwards, rtol=1e-3) and not torch.allclose(one, two, rtol=1e-2)


@pytest.mark.parametrize("family", SOME)
def test_slopes_along_channels_are_those_of_the_loss(family):
    masks, examples = narrowable(family)
    masks.remove(channels(masks, [1, 30]))
    slopes = loss_without_each(masks, examples, ALL_AT_ONCE)

    def loss(here):
        with masks, masks.channels_at(here):
            logits = torch.from_numpy(predict(masks.model, examples, ALL_AT_ONCE)).double()
        return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(examples.labels)))

    for channel in (0, 7):
        step = torch.zeros(32).index_fill(0, torch.tensor(channel), 0.003)
        measured = (loss(masks.channels_here - step) - loss(masks.channels_here + step)) / 0.006
        assert float(slopes[channel]) == pytest.approx(measured, rel=0.05, abs=5e-3)


@pytest.mark.parametrize("family", SOME)
def test_three_points_of_the_way_foretell_its_end_better_than_one(family):
    masks, examples = narrowable(family)
    chosen, wrong = channels(masks, range(0, 32, 5)), {}
    [batch] = examples.batches(ALL_AT_ONCE, np.arange(ALL_AT_ONCE))
    with masks, torch.no_grad():
        start = masks.model(**batch.inputs).logits
        for points, strength in (("one", 0.5), ("three", None)):
            wrong[points] = start + channels_move(masks, examples, batch, chosen, strength)
        masks.remove(chosen)
        end = masks.model(**batch.inputs).logits
        back = channels_move(masks, examples, batch, chosen)
    one, three = (float((wrong[points] - end).square().mean()) for points in ("one", "three"))
    assert three < 0.5 * one
    assert float((end + back - start).square().mean()) == pytest.approx(three, rel=1e-3)  # the same way, taken back


def test_a_channel_that_is_zero_everywhere_is_silent():
    masks, _ = narrowable("llama")
    with torch.no_grad():
        for place in masks.anatomy.stream.places:
            masks.model.get_parameter(place.parameter).select(place.dimension, 5).zero_()
    silent = silent_channels(masks.model, masks.anatomy.stream, channels(masks, [4, 5, 6]), dict(tiny_inputs("llama")))
    assert silent == [f"{CHANNELS}.5"]


# Masked and cut out


@pytest.mark.parametrize("family", NARROWED)
def test_what_goes_is_masked_cut_out_saved_and_put_back(family, tmp_path):
    """Together with heads and neurons, and with what is left refitted."""
    masks, examples = narrowable(family)
    model, anatomy, inputs = masks.model, masks.anatomy, tiny_inputs(family)
    before = {key: values.clone() for key, values in model.state_dict().items()}
    original = logits_of(model, inputs)
    others = flagged(anatomy, uneven_removal(anatomy))
    masks.remove(others)
    parameters, flops = anatomy.saved(masks.removed)
    plan = plan_of(masks, examples, Width(hidden_kept=0.7, multiple_of=2, importance="taylor"))
    assert len(plan) == anatomy.stream.count - round(0.35 * anatomy.stream.count) * 2
    with masks:
        masks.remove(plan.of("remove"))
        Compensator(masks, examples, Compensation(ridge=0.1), ALL_AT_ONCE).refit()
        save_refits(masks.refits, anatomy, masks.removed, tmp_path / "refits.safetensors")
        with masks.untouched():
            refits = load_refits(model, anatomy, masks.removed, tmp_path / "refits.safetensors")
        masks.refit(refits)
        masked = logits_of(model, inputs)
        removed = {key: flags.clone() for key, flags in masks.removed.items()}
    smaller = materialize(model, anatomy, removed, refits)
    assert float((logits_of(smaller, inputs) - masked).abs().max()) < TOLERANCE * max(1.0, float(masked.abs().max()))
    assert sum(each.numel() for each in smaller.parameters()) == expected_parameters(model, anatomy, removed)
    assert plan.parameters_saved == anatomy.saved(removed)[0] - parameters > 0
    assert plan.flops_saved == anatomy.saved(removed)[1] - flops > 0
    save_compressed(smaller, tmp_path / "artifact", removed=removed, base=anatomy, provenance={})
    assert torch.equal(logits_of(load_compressed(tmp_path / "artifact"), inputs), logits_of(smaller, inputs))
    with pytest.raises(InputError, match="a norm is taken over the channels that are left"):
        dense_twin(model, anatomy, removed, refits)
    masks.restore([*plan.of("remove"), *others])
    with masks:
        masks.refit({})
        assert torch.equal(logits_of(model, inputs), original)
    assert all(torch.equal(values, before[key]) for key, values in model.state_dict().items())


@pytest.mark.parametrize("family", NARROWED)
def test_flops_are_those_that_torch_counts(family):
    masks, _ = narrowable(family, attention="eager")
    model, anatomy, inputs = masks.model, masks.anatomy, tiny_inputs(family, batch=1, padded=False)
    masks.remove([*channels(masks, [0, 3, 4, 17, 20]), *flagged(anatomy, uneven_removal(anatomy))])

    def counted(subject):
        counter = FlopCounterMode(display=False)
        with counter, torch.inference_mode():
            subject.requires_grad_(False)(**inputs)
        modules = [f"{type(subject).__name__}.{layer.module}" for layer in anatomy.layers.values()]
        return sum(sum(counter.get_flop_counts()[module].values()) for module in modules)

    smaller = materialize(model, anatomy, masks.removed)
    assert counted(model) - counted(smaller) == masks.saved[1]
    meters = Flops(anatomy, channels=5), Parameters(anatomy, channels=5)
    for meter, saved in zip(meters, reversed(masks.saved), strict=True):
        assert taken(meter, masks.removed, anatomy) == meter.original - saved
    assert taken(Bytes(anatomy, Storage(), channels=5), masks.removed, anatomy) == 4 * (
        anatomy.parameters - masks.saved[0]
    )


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_whole_sublayers_and_layers_go_with_channels(family):
    masks, _ = narrowable(family)
    model, anatomy, inputs = masks.model, masks.anatomy, tiny_inputs(family)
    stack = next(iter(anatomy.layers)).split(".")[0]
    masks.remove(
        [f"{stack}.layer.1", f"{stack}.layer.0.attention", *anatomy.groups[f"{stack}.layer.2.ffn.neuron"].components]
    )
    before = masks.saved
    costs = anatomy.channel_costs(masks.removed)
    masks.remove(channels(masks, range(0, 12)))
    assert tuple(now - was for now, was in zip(masks.saved, before, strict=True)) == tuple(12 * each for each in costs)
    with masks:
        masked = logits_of(model, inputs)
    smaller = materialize(model, anatomy, masks.removed)
    assert float((logits_of(smaller, inputs) - masked).abs().max()) < TOLERANCE * max(1.0, float(masked.abs().max()))
    assert sum(each.numel() for each in smaller.parameters()) == expected_parameters(model, anatomy, masks.removed)


@pytest.mark.parametrize("family", standing_for_others(NARROWED_GENERATORS))
def test_generation_with_a_cache_goes_on(family):
    masks, _ = narrowable(family, generates=True)
    prompt = tiny_inputs(family, batch=3, padded=False)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": 1}
    with masks:
        masks.remove([*channels(masks, range(5, 13)), *flagged(masks.anatomy, uneven_removal(masks.anatomy))])
        masked = masks.model.generate(**prompt, **options)
        removed = {key: flags.clone() for key, flags in masks.removed.items()}
    smaller = materialize(masks.model, masks.anatomy, removed)
    assert torch.equal(smaller.generate(**prompt, **options, use_cache=True), masked)
    assert torch.equal(smaller.generate(**prompt, **options, use_cache=False), masked)


@pytest.mark.parametrize("family", standing_for_others(NARROWED))
def test_what_was_tuned_is_the_same_masked_and_cut_out(family, tmp_path):
    masks, examples = narrowable(family)
    masks.remove([*channels(masks, range(3, 9)), *flagged(masks.anatomy, uneven_removal(masks.anatomy))])
    with masks.untouched():
        logits = predict(masks.model, examples)
    recipe = Distill(epochs=6, batch_size=12, learning_rate=5e-3, layers=2).recipe
    lexicon = Lexicon(masks=masks, tokenizer=None, calibration=examples, barred=frozenset())
    tuner = Tuner(
        masks=masks, recipe=recipe, lessons=lessons_for(recipe, examples, lexicon, words=False, seed=0), validation=examples,
        original=pair(examples, logits, logits), path=tmp_path / "state.safetensors",
    )  # fmt: skip
    tuned = tuner.run()
    assert tuned.best.kl < 0.95 * tuned.checkups[0].kl
    save_file(tuned.tensors, tmp_path / "tuned.safetensors")
    refits = load_refits(masks.model, masks.anatomy, masks.removed, tmp_path / "tuned.safetensors")
    smaller = materialize(masks.model, masks.anatomy, masks.removed, refits)
    with masks:
        masks.refit(refits)
        ours = predict(masks.model, examples)
    assert np.abs(ours - predict(smaller, examples)).max() < TOLERANCE * max(1.0, np.abs(ours).max())


FILES = [pytest.param(family, marks=() if family == "bert" else pytest.mark.exhaustive) for family in EXPORTED]


@pytest.mark.parametrize("family", [each for each in FILES if each.values[0] in NARROWED])
def test_what_is_left_runs_from_a_file(family, tmp_path):
    masks, examples = narrowable(family)
    masks.remove([*channels(masks, range(2, 10)), *flagged(masks.anatomy, uneven_removal(masks.anatomy))])
    smaller = materialize(masks.model, masks.anatomy, masks.removed)
    file = export_onnx(smaller, examples, tmp_path / "model.onnx", anatomy=masks.anatomy)
    expected = predict(smaller, examples, 5)
    assert np.abs(run_examples(OnnxRunner(path=file.path), examples, 5) - expected).max() < 1e-4


@pytest.mark.parametrize("strategy", [Int8Dynamic(), Int8Static(smooth=0.5)], ids=["int8_dynamic", "int8_static"])
@pytest.mark.parametrize("family", [pytest.param("bert"), pytest.param("llama", marks=pytest.mark.exhaustive)])
def test_the_file_rounds_as_was_simulated(family, strategy, tmp_path):
    masks, examples = narrowable(family)
    masks.remove([*channels(masks, range(2, 10)), *flagged(masks.anatomy, uneven_removal(masks.anatomy))])
    with masks:
        in_full = predict(masks.model, examples, ALL_AT_ONCE)
        if ranges_of(strategy) is not None:
            masks.activations = find_activations(masks, examples, ranges_of(strategy))
        [edit] = strategy.weight_edits
        masks.quantize({name: edit for name, linear in masks.anatomy.linears.items() if not linear.shared})
        rounded = predict(masks.model, examples, ALL_AT_ONCE)
        quantized, found = dict(masks.quantized), masks.activations_left()
        with masks.untouched():
            smaller = materialize(masks.model, masks.anatomy, masks.removed)
    scheme = dataclasses.replace(strategy.scheme, embeddings=32)
    made = deploy(
        smaller, masks.anatomy, examples, tmp_path / "model.onnx", scheme=scheme, quantized=quantized, found=found
    )
    deployed = run_examples(OnnxRunner(path=made.path), examples, ALL_AT_ONCE)
    assert np.abs(deployed - rounded).mean() < 0.2 * np.abs(in_full - rounded).mean() + 1e-6


def test_the_readers_get_back_what_can_be_read_of_the_channels_that_went():
    masks, examples = narrowable("bert")
    with masks.untouched():
        original = predict(masks.model, examples)
    masks.remove(channels(masks, range(0, 12)))
    with masks:
        before = np.square(predict(masks.model, examples) - original).mean()
        repairs = Compensator(masks, examples, Compensation(ridge=0.01), ALL_AT_ONCE).refit()
        after = np.square(predict(masks.model, examples) - original).mean()
    assert after < 0.7 * before
    readers = [repair for repair in repairs if repair.role == "reader"]
    assert readers and all(repair.missing_after < repair.missing_before for repair in readers)


def test_rows_of_tokens_and_channels_cross(tmp_path):
    tokenizer = trained_tokenizer("bert")
    model = reading_model("bert", tokenizer)
    examples = read_examples(tokenizer, TEXTS[:40])
    anatomy = read_anatomy(model, 24)
    anatomy = anatomy.with_stream(find_stream(model, anatomy, next(examples.batches(4)).inputs))
    masks, rows = Masks(model, anatomy), len(tokenizer)
    masks.remove([*channels(masks, range(9)), *(f"embedding.token.{row}" for row in range(rows - 20, rows))])
    smaller = materialize(model, anatomy, masks.removed)
    assert sum(each.numel() for each in smaller.parameters()) == expected_parameters(model, anatomy, masks.removed)
    save_compressed(smaller, tmp_path, removed=masks.removed, base=anatomy, provenance={})
    loaded = load_compressed(tmp_path)
    assert loaded.get_input_embeddings().weight.shape == (len(tokenizer) - 20, 23)
    assert all(torch.equal(value, smaller.state_dict()[name]) for name, value in loaded.state_dict().items())
    bytes_left = taken(Bytes(anatomy, Storage(table_bits=8), channels=9), masks.removed, anatomy)
    table = loaded.get_input_embeddings().weight.numel()
    assert bytes_left == 4 * (loaded.num_parameters() - table) + table


# The strategy


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"hidden_kept": 0.0}, "hidden_kept"),
        ({"hidden_kept": 1.5}, "hidden_kept"),
        ({"hidden_kept": 0.5, "importance": "taylr"}, "taylor"),
        ({"hidden_kept": 0.5, "rounds": 0}, "rounds"),
        ({"hidden_kept": 0.5, "multiple_of": 0}, "multiple_of"),
    ],
)
def test_what_makes_no_sense_is_refused(options, culprit):
    with pytest.raises(InputError, match=culprit):
        Width(**options)


def test_a_share_that_is_no_multiple_is_refused_before_anything_is_priced():
    masks, _ = narrowable("bert")
    with pytest.raises(InputError, match="leaves 0 of 32 channels"):
        Width(hidden_kept=0.2, multiple_of=16).fit(masks.anatomy)
    with pytest.raises(InputError, match="leaves 32 of 32 channels"):
        Width(hidden_kept=0.9, multiple_of=16).fit(masks.anatomy)


def test_rounds_take_equal_multiples_of_what_is_worth_least():
    masks, examples = narrowable("bert")
    strategy, sizes = Width(hidden_kept=0.25, multiple_of=4, rounds=3, importance="magnitude"), []
    prices = price(masks, examples.draw(2, 0), kinds=("neuron",))
    for number in range(3):
        found = worth(masks, examples, strategy)
        situation = Situation(
            anatomy=masks.anatomy, prices=prices, removed=masks.removed, round=number, rounds=3, channels=found
        )
        edits = strategy.plan(situation)
        order = [int(edit.component.rpartition(".")[2]) for edit in edits]
        assert (
            found.importance[order].tolist()
            == found.importance[~found.importance.isnan()].sort().values[: len(order)].tolist()
        )
        masks.remove(edit.component for edit in edits)
        sizes.append(len(edits))
    assert sizes == [8, 8, 8] and int(masks.channels_here.sum()) == 8


# Whole runs

NO_AUDIT = AuditPlan(heads=0, neurons=0)
LENIENT = [Gate(metric="accuracy", max_drop=0.9, rule="point")]
ORDERS = {
    "first": [Width(hidden_kept=0.75), Structured(flops_kept=0.6, step=0.2), Int8Dynamic()],
    "between": [
        Heads(share=0.4, rounds=1), Width(hidden_kept=0.75, rounds=2, multiple_of=4), Neurons(share=0.4, rounds=1),
        Distill(epochs=1),
    ],
    "last": [Layers(count=1), Sublayers(count=1), Width(hidden_kept=0.5, importance="hessian", gradient_rows=32)],
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return loaded_small_job(tmp_path_factory.mktemp("inputs"))


def run(inputs, out, strategies, gates=LENIENT, compensation=None, **options):
    _, subject, splits = inputs
    return compress(
        subject, splits, strategies=strategies, evaluators=[Quality()], gates=gates, audit=NO_AUDIT, out=out,
        compensation=compensation, **options,
    )  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if name == "first" else pytest.mark.exhaustive) for name in ORDERS],
)
def finished(request, inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / request.param
    return run(inputs, folder, ORDERS[request.param], compensation=Compensation())


def test_a_run_counts_everything_once_and_is_replayed_bit_for_bit(finished, inputs):
    _, subject, splits = inputs
    assert finished.passed
    anatomy = read_anatomy(subject.model, finished.summary["tokens"])
    removals = [edit for applied in applied_plans(finished.ledger) for edit in applied.plan.edits]
    model = finished.load_model()
    assert sum(edit.parameters_saved for edit in removals) == anatomy.parameters - model.num_parameters()
    assert finished.summary["parameters"]["compressed"] == model.num_parameters()
    flops = anatomy.flops - sum(edit.flops_saved for edit in removals)
    assert finished.summary["flops"] == {"original": anatomy.flops, "compressed": flops}
    again = replay(AutoModelForSequenceClassification.from_pretrained(subject.source).eval(), finished.folder)
    assert model.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert finished.summary["deployed"]["beside_masked"]["agreement"] > 0.95


def test_people_are_told_in_words(finished):
    print_run(finished, Console(file=(text := io.StringIO()), width=160))
    assert "channels" in text.getvalue()
    counts = finished.summary["components"]["channel"]
    page = (finished.folder / "report.html").read_text()
    assert f"Of 32 channels of the residual stream {counts['removed']} are removed" in page
    rows = finished.components[finished.components["kind"] == "channel"]
    assert len(rows) == counts["removed"] and (rows["flops_saved"] > 0).all()
    print_component(finished.folder, rows["component"].iloc[0], Console(file=(text := io.StringIO()), width=160))
    assert "least important of" in text.getvalue()
    known = json.loads((finished.folder / "anatomy.json").read_text())["stream"]
    assert len(known["removed"]) == counts["removed"] and known["count"] == 32


def test_the_effect_is_foretold(inputs, tmp_path):
    finished = run(inputs, tmp_path / "out", [Width(hidden_kept=0.75)])
    [stage] = course(finished.ledger, 1)
    assert stage.held and stage.expected["kl"] == pytest.approx(stage.observed["kl"], rel=0.25, abs=1e-3)


@pytest.mark.exhaustive
def test_a_stopped_run_goes_on_to_the_same_weights(inputs, tmp_path):
    strategies = ORDERS["between"][:2]
    whole = run(inputs, tmp_path / "whole", strategies, compensation=Compensation())
    lines = (whole.folder / "ledger.jsonl").read_text().splitlines(keepends=True)
    kinds = [(record.kind, record.step) for record in whole.ledger]
    for place in (kinds.index(("planned", "2-width-1")) + 1, kinds.index(("applied", "2-width-2")) + 1):
        folder = tmp_path / f"stopped-{place}"
        shutil.copytree(whole.folder, folder)
        (folder / "ledger.jsonl").write_text("".join(lines[:place]))
        shutil.rmtree(folder / "artifact")
        again = run(inputs, folder, strategies, compensation=Compensation(), resume=True)
        ours, theirs = (each.load_model().state_dict() for each in (whole, again))
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_channels_come_back_in_blocks_when_a_gate_asks_for_them(inputs, tmp_path):
    gates = [Gate(metric="accuracy", max_drop=0.0, rule="point")]
    limits = Reinstatement(max_share=1.0, step=0.1, max_rounds=8, reserve=0.0)
    strategies = [Heads(share=0.5, rounds=1), Width(hidden_kept=0.25, multiple_of=4, importance="random")]
    finished = run(inputs, tmp_path / "out", strategies, gates, reinstatement=limits)
    back = [edit for each in applied_plans(finished.ledger) for edit in each.plan.edits if edit.action == "restore"]
    mine = [edit for edit in back if edit.kind == "channel"]
    assert mine and all("slack for accuracy" in edit.reason or "channels come back" in edit.reason for edit in mine)
    gone = [edit.component for edit in list(applied_plans(finished.ledger))[1].plan.edits][::-1]
    blocks = [set(gone[start : start + 4]) for start in range(0, len(gone), 4)]
    assert {edit.component for edit in mine[:4]} in blocks[:4]
    counts = finished.summary["components"]["channel"]
    assert counts["restored"] > 0 and counts["removed"] % 4 == 0
    if finished.passed:
        manifest = json.loads((finished.folder / "artifact" / MANIFEST).read_text())
        assert len(manifest["removed"][CHANNELS]) == counts["removed"]


@pytest.fixture
def narrowed():
    """A model without twelve channels, the blocks that they went in, and examples with the original's answers."""
    masks, examples = narrowable("bert")
    examples = dataclasses.replace(examples, labels=predict(masks.model, examples, ALL_AT_ONCE).argmax(1))
    masks.remove(channels(masks, range(12)))
    edits = tuple(
        Edit(component=each, kind="channel", action="remove", reason="", expected_loss_change=0.1, parameters_saved=1,
             flops_saved=1)
        for each in channels(masks, range(12))
    )  # fmt: skip
    blocks = blocks_gone([Applied(plan=Plan(step="1", author="test", edits=edits), reverted=False)], masks, 4)
    return masks, examples, blocks


def test_blocks_come_back_as_far_as_there_is_room(narrowed):
    masks, _, blocks = narrowed
    each = blocks[0].flops(masks)
    assert [block.components for block in blocks] == [
        channels(masks, reversed(range(start, start + 4))) for start in (8, 4, 0)
    ]
    two = channels_back(blocks, masks, flops=2.5 * each, most=9 * each)
    assert [edit.component for edit in two] == [*blocks[0].components, *blocks[1].components]
    assert sum(edit.expected_loss_change for edit in two) == pytest.approx(-0.8)
    assert len(channels_back(blocks, masks, flops=0.5 * each, most=1.5 * each)) == 4
    assert not channels_back(blocks, masks, flops=0.5 * each, most=0.5 * each)


def test_the_block_that_is_seen_to_help_most_comes_back_first(narrowed):
    masks, examples, blocks = narrowed
    with masks:
        now, tried = predict(masks.model, examples, ALL_AT_ONCE), []
        for block in blocks:
            masks.restore(block.components)
            tried.append(predict(masks.model, examples, ALL_AT_ONCE))
            masks.remove(block.components)
    changes = [_loss(logits, examples) - _loss(now, examples) for logits in tried]
    best, room = int(np.argmin(changes)), 1.5 * blocks[0].flops(masks)
    verdict = Verdict(
        gate=Gate(metric="nll", max_rise=0.0, rule="point"), slice="all", state="fail", estimate=0.5, low=0.4, high=0.6,
        slack=-0.5, n=24, n_needed=None, message="",
    )  # fmt: skip
    picked = choose_restorations(
        masks, examples, [verdict], flops=room, most=room, reserve=0.0, batch_size=ALL_AT_ONCE, blocks=blocks
    )
    assert changes[best] < 0 and [edit.component for edit in picked] == blocks[best].components
    assert sum(edit.expected_loss_change for edit in picked) == pytest.approx(changes[best], abs=1e-4)


def _loss(logits, examples):
    return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(examples.labels)))


def test_a_rehearsal_proposes_the_same_and_leaves_the_model_as_it_was(inputs):
    _, subject, splits = inputs
    before = {name: values.clone() for name, values in subject.model.state_dict().items()}
    job = Job(
        subject=subject, splits=splits, strategies=[Heads(share=0.25), Width(hidden_kept=0.75)], gates=LENIENT,
        evaluators=[Quality()],
    )  # fmt: skip
    edits = rehearse(job, Progress(quiet=True))
    assert [edit.kind for edit in edits].count("channel") == 8
    assert all(torch.equal(values, before[name]) for name, values in subject.model.state_dict().items())


@pytest.mark.parametrize("first", [True, False])
def test_tokens_and_channels_go_in_either_order(tmp_path, first):
    tokenizer, width = trained_tokenizer("bert"), Width(hidden_kept=0.75)
    tokenizer.save_pretrained(tmp_path / "model")
    reading_model("bert", tokenizer).save_pretrained(tmp_path / "model")
    for name, rows, seed in (("calibration", 64, 2), ("validation", 48, 3), ("test", 48, 4)):
        sentences(rows, seed).to_csv(tmp_path / f"{name}.csv", index=False)
    subject = load_subject(str(tmp_path / "model"), "text-classification")
    files = {name: str(tmp_path / f"{name}.csv") for name in ("calibration", "validation", "test")}
    splits = load_splits(DataSpec(**files, max_length=24), [], subject, seed=0)
    finished = run((None, subject, splits), tmp_path / "out", [width, Vocabulary()] if first else [Vocabulary(), width])
    assert finished.summary["components"]["channel"]["removed"] == 8
    assert finished.summary["components"]["token"]["removed"] > 0
    base = AutoModelForSequenceClassification.from_pretrained(subject.source).eval()
    model, again = finished.load_model().state_dict(), replay(base, finished.folder).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.items())
    assert finished.summary["deployed"]["beside_masked"]["logits"] < 1e-4


@pytest.fixture(scope="module", params=["tagging", "gpt2", pytest.param("t5", marks=pytest.mark.exhaustive)])
def of_tokens(request, tmp_path_factory):
    """A run of a model that answers for words or tokens."""
    folder, tokenizer = tmp_path_factory.mktemp(request.param), tiny_tokenizer()
    strategies = "strategies=[{neurons: {share: 0.3, rounds: 1}}, {width: {hidden_kept: 0.75}}]"
    if request.param == "tagging":
        return made(tagging_job(folder), ["runtime=onnx", strategies])
    torch.manual_seed(0)
    tiny = MODELS[request.param]
    if request.param == "gpt2":
        model = tiny.generator(tiny.config(**tiny.options))
        return made(generation_job(folder, model, bare_tokenizer()), ["runtime=onnx", strategies])
    tokenizer.add_special_tokens({"eos_token": "[SEP]"})
    tokens = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0}
    model = tiny.generator(tiny.config(**{**tiny.options, **tokens}))
    return made(rewriting_job(folder, model, tokenizer), [strategies])


def test_models_of_words_and_tokens_become_narrower_too(of_tokens):
    run, subject, splits = of_tokens
    assert run.summary["components"]["channel"]["removed"] == 8
    stage = next(each for each in run.course if each.author == "width")
    assert stage.expected["n"] == stage.observed["n"] == splits.validation.decisions.sum()
    assert all(np.isfinite(value) for value in (*stage.expected.values(), *stage.observed.values()))
    assert stage.expected["loss_change"] == pytest.approx(stage.observed["loss_change"], rel=0.1, abs=1e-3)
    model, again = load_compressed(run.folder / "artifact").state_dict(), replay(subject.model, run.folder).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.items())
    assert run.summary["deployed"]["beside_masked"]["agreement"] > 0.99


# What cannot be


def test_an_embedding_that_is_the_stream_itself_cannot_become_narrower():
    model = embedder("bert")
    with pytest.raises(InputError, match="its answer is the residual stream itself"):
        find_stream(model, read_anatomy(model, 9), tiny_inputs("bert"))


def test_what_cannot_be_is_refused_before_anything_is_priced(inputs, tmp_path):
    width = Width(hidden_kept=0.75)
    refused = {
        "a norm is taken over": ([width], {"artifacts": ["checkpoint", "dense"]}),
        "factors of a linear are of its whole width": ([width, LowRank(flops_kept=0.5)], {}),
        "factors of a linear": ([LowRank(flops_kept=0.5), width], {}),
        "sublayers in their whole width": ([width, Structured()], {"target": Target(speedup=1.2)}),
        "leaves 32 of 32": ([Width(hidden_kept=0.99)], {}),
    }
    for number, (words, (strategies, options)) in enumerate(refused.items()):
        with pytest.raises(InputError, match=words):
            run(inputs, tmp_path / str(number), strategies, **options)
        assert not list(tmp_path.glob(f"{number}/tables/prices*"))


def test_a_search_leaves_it_out():
    assert "width" in space(Search(), None).left_out
    with pytest.raises(InputError, match="does not price yet"):
        space(Search(strategies=[{"width": {"hidden_kept": 0.5}}]), None)
    with pytest.raises(InputError, match="does not price yet"):
        space(Search(strategies=[Width(hidden_kept=0.5)]), None)


def test_a_checkpoint_that_does_not_say_where_channels_lay_is_refused(inputs, tmp_path):
    finished = run(inputs, tmp_path / "out", [Width(hidden_kept=0.75)])
    path = finished.folder / "artifact" / MANIFEST
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "stream": {"count": 32}}))
    with pytest.raises(InputError, match="does not say where"):
        load_compressed(path.parent)
