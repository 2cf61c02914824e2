"""Distillation: what is left learns from the original, the same way again, also when it was stopped on the way."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification

from compress_explain import Compensation, Gate, InputError, Reinstatement, RunInterrupted, compress, replay
from compress_explain.comparison.predictions import Pairs, pair, predict
from compress_explain.editing.masks import Masks
from compress_explain.editing.refits import load_refits, tunable
from compress_explain.editing.surgery import materialize
from compress_explain.evaluators import Quality, Slices
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.embedding import TOKENS
from compress_explain.pricing import AuditPlan
from compress_explain.record.checkpoint import load_compressed
from compress_explain.record.replay import standing_refits
from compress_explain.strategies import Distill, Heads, Neurons
from compress_explain.terminal.reading import print_ledger
from compress_explain.terminal.summary import print_run
from compress_explain.tuning import Tuner, lessons_for
from compress_explain.tuning.signals import chosen, transfer
from compress_explain.tuning.state import State
from compress_explain.tuning.words import made_of
from compress_explain.vocabulary import Lexicon, read_by
from tests.small_job import loaded_small_job, sentences
from tests.tiny import tiny_examples, tiny_model
from tests.words import TEXTS, read_examples, reading_model, trained_tokenizer

DISTILL = Distill(epochs=4, batch_size=16, learning_rate=2e-3, layers=2, again=0.25)
FAMILIES = ["bert", "deberta-v2", "gpt2", "qwen3", "t5", "vit"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return loaded_small_job(tmp_path_factory.mktemp("inputs"))


def run_small(inputs, out, *, strategies, gates, compensation=None, resume=False, **limits):
    _, subject, splits = inputs
    return compress(
        subject, splits, strategies=strategies, evaluators=[Quality(), Slices()], gates=gates,
        compensation=compensation, audit=AuditPlan(heads=0, neurons=0),
        reinstatement=Reinstatement(**limits), out=out, resume=resume,
    )  # fmt: skip


REMOVE = [Heads(share=0.75, rounds=1), Neurons(share=0.97, rounds=1, floor=0.0)]
STRATEGIES = [*REMOVE, DISTILL]
HARDLY = replace(DISTILL, epochs=1, learning_rate=1e-5, again=0.5)
EASY = [Gate(metric="accuracy", max_drop=0.9, rule="point")]
HARD = [Gate(metric="nll", max_rise=0.001, rule="point")]


@pytest.fixture(scope="module")
def tuned(inputs, tmp_path_factory):
    return run_small(inputs, tmp_path_factory.mktemp("run") / "out", strategies=STRATEGIES, gates=EASY)


@pytest.fixture(scope="module")
def restored(inputs, tmp_path_factory):
    """Its gates fail at first."""
    out = tmp_path_factory.mktemp("run") / "out"
    return run_small(inputs, out, strategies=[*REMOVE, HARDLY], gates=HARD, step=0.1, max_rounds=2, trims=1)


def tuner_of(masks, examples, path, strategy=DISTILL, *, words=False, tokenizer=None):
    """A tuner of a masked model on examples that are its validation too."""
    with masks.untouched():
        logits = predict(masks.model, examples)
    lexicon = Lexicon(masks=masks, tokenizer=tokenizer, calibration=examples, barred=frozenset())
    lessons = lessons_for(strategy.recipe, examples, lexicon, words=words, seed=0)
    return Tuner(
        masks=masks, recipe=strategy.recipe, lessons=lessons, validation=examples,
        original=pair(examples, logits, logits), path=path,
    )  # fmt: skip


def tiny_masks(family):
    """A tiny random model, half of whose components are gone, some sublayers without any."""
    model = tiny_model(family, labels=3)
    masks = Masks(model, read_anatomy(model, 9))
    for place, group in enumerate(masks.anatomy.groups.values()):
        masks.remove(group.components if place == 1 else group.components[::2])
    return masks, tiny_examples(family, labels=3)


# A run


def test_tuning_brings_predictions_closer_to_the_original(tuned):
    [record] = tuned.ledger.of_kind("tuned")
    facts = record.body
    assert facts["kl_after"] < 0.5 * facts["kl_before"]
    assert facts["loss_last"] < facts["loss_first"]
    assert facts["rows"] == 200 and facts["rows_read"] == 800 and facts["steps"] >= 50
    assert facts["texts"] == "calibration" and len(facts["digest"]) == 64
    assert record.files.keys() == {f"tables/tuned-{record.step}.parquet", f"tensors/tuned-{record.step}.safetensors"}


def test_the_masked_model_computes_what_was_tuned(tuned, inputs):
    """The tuner's own figures are those of the smaller model, the predictions those of the masked one."""
    [record] = tuned.ledger.of_kind("tuned")
    pairs = Pairs.load(tuned.folder / f"predictions/{record.step}-validation.parquet")
    theirs, ours = (torch.from_numpy(each).log_softmax(1) for each in (pairs.original, pairs.compressed))
    kl = float((theirs.exp() * (theirs - ours)).sum(1).mean())
    assert kl == pytest.approx(record.body["kl_after"], abs=1e-5)
    artifact = predict(load_compressed(tuned.folder / "artifact"), inputs[2].validation)
    assert np.abs(artifact - pairs.compressed).max() < 1e-5


def test_replaying_needs_no_data_and_gives_the_same_bytes(tuned, restored, inputs):
    for run in (tuned, restored):
        base = AutoModelForSequenceClassification.from_pretrained(inputs[0].model).eval()
        again = replay(base, run.folder).state_dict()
        model = load_compressed(run.folder / "artifact")
        assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_report_terminal_and_ledger_tell_of_it(tuned):
    facts = tuned.ledger.of_kind("tuned")[0].body
    page = (tuned.folder / "report.html").read_text()
    assert "What was learned again" in page and f"{facts['rows_read']:,} rows in {facts['steps']:,} steps" in page
    console = Console(file=io.StringIO(), width=200)
    print_run(tuned, console)
    print_ledger(tuned.folder, console)
    assert console.file.getvalue().count(f"KL to the original on validation from {facts['kl_before']:.4f}") == 2


def test_the_original_in_memory_is_left_as_it_was(tuned, inputs):
    base = AutoModelForSequenceClassification.from_pretrained(inputs[0].model)
    for name, value in inputs[1].model.state_dict().items():
        assert torch.equal(value, base.state_dict()[name]), name


def test_the_same_again_gives_the_same_bytes_also_after_being_stopped(tuned, inputs, tmp_path, monkeypatch):
    saves = []
    save = State.save

    def stopped(self, path):
        save(self, path)
        saves.append(path)
        if len(saves) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(State, "save", stopped)
    with pytest.raises(RunInterrupted):
        run_small(inputs, tmp_path / "out", strategies=STRATEGIES, gates=EASY)
    assert saves[0].exists()
    again = run_small(inputs, tmp_path / "out", strategies=STRATEGIES, gates=EASY, resume=True)
    assert not saves[0].exists()
    first, second = (run.ledger.of_kind("tuned")[0] for run in (tuned, again))
    assert len(saves) == 20, "what was done before the stop is not done again"
    tensors = f"tensors/tuned-{first.step}.safetensors"
    assert first.files[tensors] == second.files[tensors]


def test_what_is_put_back_is_tuned_again_briefly_from_the_weights_of_the_original(restored, inputs):
    first, *later = restored.ledger.of_kind("tuned")
    assert later and all(record.step.startswith(("reinstate", "trim")) for record in later)
    assert all(record.body["rows_read"] == 100 for record in later)  # half of 200
    assert all(record.body["kl_after"] <= record.body["kl_before"] for record in later)
    assert standing_refits(restored.ledger).name.startswith("tuned-")


def test_nothing_is_tuned_before_something_else(inputs, tmp_path):
    """Alone it starts at the original, than which nothing is closer to it."""
    strategies = [replace(DISTILL, epochs=1), Heads(share=0.25, rounds=1)]
    run = run_small(inputs, tmp_path / "out", strategies=strategies, gates=EASY, compensation=Compensation())
    first, second = run.ledger.of_kind("tuned")
    assert first.body["kl_before"] == first.body["kl_after"] == pytest.approx(0.0, abs=1e-9)
    assert second.step == "2-heads-1" and second.body["rows_read"] == 50
    assert not run.ledger.of_kind("refitted"), "what was tuned is not fitted by ridge"


def test_texts_that_stand_in_a_split_that_judges_are_left_out(inputs, tmp_path):
    _, subject, splits = inputs
    texts = [*splits.test.texts, *sentences(50, seed=9)["text"], *splits.validation.texts]
    (tmp_path / "more.txt").write_text("\n".join(texts))
    lexicon = Lexicon(
        masks=Masks(subject.model, read_anatomy(subject.model, 9)), tokenizer=subject.processor,
        calibration=splits.calibration, barred=frozenset((*splits.validation.texts, *splits.test.texts)),
    )  # fmt: skip
    recipe = replace(DISTILL, texts=str(tmp_path / "more.txt")).recipe
    lessons = lessons_for(recipe, splits.calibration, lexicon, words=True, seed=0)
    assert len(lessons.pool) == 50
    rows = [row for lesson in lessons.portion(0, 100) for row in lesson.ours["input_ids"].tolist()]
    again = [row for lesson in lessons.portion(0, 100) for row in lesson.ours["input_ids"].tolist()]
    assert len(rows) == 100 and rows == again


# Families


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_tuned_fits_the_masked_model_and_the_smaller_one(family, tmp_path):
    masks, examples = tiny_masks(family)
    strategy = replace(DISTILL, epochs=20, learning_rate=5e-3)
    tuner = tuner_of(masks, examples, tmp_path / "state.safetensors", strategy)
    before = {name: values.clone() for name, values in masks.model.state_dict().items()}
    tuned = tuner.run()
    assert all(torch.equal(values, before[name]) for name, values in masks.model.state_dict().items())
    assert tuned.best.kl < 0.7 * tuned.checkups[0].kl
    save_file(tuned.tensors, tmp_path / "tuned.safetensors")
    refits = load_refits(masks.model, masks.anatomy, masks.removed, tmp_path / "tuned.safetensors")
    smaller = materialize(masks.model, masks.anatomy, masks.removed, refits)
    with masks:
        masks.refit(refits)
        ours = predict(masks.model, examples)
    assert np.abs(ours - predict(smaller, examples)).max() < 1e-5
    assert all(torch.equal(values, before[name]) for name, values in masks.model.state_dict().items())


def test_removed_components_keep_the_weights_they_came_with(tmp_path):
    masks, examples = tiny_masks("bert")
    own = {name: masks.own_weights(name).weight.clone() for name in tunable(masks.model)}
    save_file(tuner_of(masks, examples, tmp_path / "state").run().tensors, tmp_path / "tuned")
    refits = load_refits(masks.model, masks.anatomy, masks.removed, tmp_path / "tuned")
    moved = 0
    for group in masks.anatomy.groups.values():
        gone, kept = masks.removed[group.name].nonzero().flatten(), (~masks.removed[group.name]).nonzero().flatten()
        for producer in group.producers:
            new, old = refits[producer.module].weight if producer.module in refits else None, own[producer.module]
            if new is not None:
                assert torch.equal(new[group.rows(producer, gone)], old[group.rows(producer, gone)])
                moved += not torch.equal(new[group.rows(producer, kept)], old[group.rows(producer, kept)])
        assert torch.equal(refits[group.site].weight[:, group.columns(gone)], own[group.site][:, group.columns(gone)])
    assert moved


@pytest.mark.parametrize(("family", "modules"), [("bert", 2), ("gpt2", 2), ("vit", 2)])
def test_the_head_alone(family, modules, tmp_path):
    """Pooler or final norm, and the classifier."""
    masks, examples = tiny_masks(family)
    tuned = tuner_of(masks, examples, tmp_path / "state", replace(DISTILL, tunes="head", epochs=20)).run()
    assert tuned.facts()["modules"] == modules
    assert tuned.best.kl < tuned.checkups[0].kl
    assert not any(signal.matched for signal in tuned.signals)


def test_a_smaller_vocabulary_is_learned_with_as_it_reads(tmp_path):
    """The original reads what it always did; states are compared on rows that both read alike."""
    tokenizer = trained_tokenizer("bert")
    model = reading_model("bert", tokenizer)
    with torch.no_grad():
        model.classifier.weight.mul_(30)
    masks, examples = Masks(model, read_anatomy(model, 12)), read_examples(tokenizer, TEXTS[:80])
    lexicon = Lexicon(masks=masks, tokenizer=tokenizer, calibration=examples, barred=frozenset())
    masks.remove(f"{TOKENS}.{row}" for row in lexicon.going(lexicon.choose(lexicon.usage(), 3)))
    masks.remove([name for group in masks.anatomy.groups.values() for name in group.components[1:]])
    with masks.untouched():
        logits = predict(model, examples)
    strategy = replace(DISTILL, epochs=20, learning_rate=3e-4)
    lessons = lessons_for(strategy.recipe, examples, lexicon, words=True, seed=0)
    alike = torch.cat([lesson.alike for lesson in lessons.portion(0, 80)])
    assert 0 < alike.sum() < len(alike)
    read = lexicon.read(examples).examples
    tuned = Tuner(
        masks=masks, recipe=strategy.recipe, lessons=lessons, validation=read,
        original=pair(examples, logits, logits), path=tmp_path / "state",
    ).run()  # fmt: skip
    assert tuned.best.kl < tuned.checkups[0].kl
    assert sum(signal.matched for signal in tuned.signals) == 2
    save_file(tuned.tensors, tmp_path / "tuned")
    refits = load_refits(model, masks.anatomy, masks.removed, tmp_path / "tuned")
    smaller = materialize(model, masks.anatomy, masks.removed, refits)
    with masks:
        masks.refit(refits)
        ours = predict(model, read)
    theirs = predict(smaller, read_by(examples, lexicon.without(lexicon.gone)))
    assert np.abs(ours - theirs).max() < 1e-5


# What is matched


def test_a_layer_that_lost_most_is_matched_and_the_last():
    signals = chosen({"a": 0.1, "b": 0.5, "c": 0.55, "d": 0.6}, 2)
    assert [signal.layer for signal in signals if signal.matched] == ["b", "d"]
    assert [signal.lost for signal in signals] == pytest.approx([0.1, 0.4, 0.05, 0.05])
    assert not any(signal.matched for signal in chosen({"a": 0.1, "b": 0.5}, 0))


def test_a_model_misses_nothing_of_itself_and_more_the_more_is_gone(tmp_path):
    masks, examples = tiny_masks("bert")
    layers = {layer.name: layer.module for layer in masks.anatomy.layers.values()}
    lessons = tuner_of(masks, examples, tmp_path / "state").lessons.portion(0, len(examples))
    whole = materialize(masks.model, masks.anatomy, {name: flags & False for name, flags in masks.removed.items()})
    smaller = materialize(masks.model, masks.anatomy, masks.removed)
    missing = transfer(masks.model, smaller, layers, lessons)
    assert max(transfer(masks.model, whole, layers, lessons).values()) < 0.05 < min(missing.values())


def test_what_is_kept_is_a_running_average_and_the_weights_of_now_come_back():
    weight = torch.nn.Parameter(torch.zeros(3))
    state = State(digest="", parameters={"w": weight}, optimizer=torch.optim.AdamW([weight]), best={})
    expected = torch.zeros(3)
    for steps in range(1, 40):
        with torch.no_grad():
            weight.copy_(torch.randn(3, generator=torch.Generator().manual_seed(steps)))
        state.average(steps, 0.7)
        stays = min(0.7, steps / (steps + 10))
        expected = stays * expected + (1 - stays) * weight.detach()
    now = weight.detach().clone()
    with state.averaged():
        assert torch.allclose(weight, expected, atol=1e-6) and not torch.allclose(weight, now, atol=0.1)
    assert torch.equal(weight, now)
    state.average(40, 0.0)
    assert torch.equal(state.averages["w"], now)


def test_altered_texts_are_made_of_the_words_of_texts():
    texts = ["a very long text of many words", "a short one"]
    words = {word for text in texts for word in text.split()}
    made = made_of(texts, [0, 1] * 200, 0.5, np.random.default_rng(0))
    assert {word for text in made for word in text.split()} <= words and all(made)
    assert 0.4 < np.mean([text in texts for text in made]) < 0.7
    assert made_of(texts, [0, 1], 0.0, np.random.default_rng(0)) == texts


# Bad input


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": float("nan")}, "epochs"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"temperature": 0}, "temperature"),
        ({"augment": 1.5}, "augment"),
        ({"hidden": -1}, "hidden"),
        ({"layers": 0}, "layers"),
        ({"batch_size": 0}, "batch_size"),
        ({"patience": True}, "patience"),
        ({"again": 0}, "again"),
        ({"average": 1.1}, "average"),
        ({"texts": "missing.csv"}, "texts"),
    ],
)
def test_bad_values_are_refused_when_the_strategy_is_made(options, culprit):
    with pytest.raises(InputError, match=rf"strategies: distill\.{culprit}"):
        Distill(**options)


def test_texts_for_a_model_that_reads_none_are_refused(tmp_path):
    masks, examples = tiny_masks("vit")
    (tmp_path / "some.txt").write_text("a text")
    with pytest.raises(InputError, match="reads no texts"):
        tuner_of(masks, examples, tmp_path / "state", replace(DISTILL, texts=str(tmp_path / "some.txt")))


def test_a_loss_that_is_not_finite_ends_it(tmp_path):
    masks, examples = tiny_masks("bert")
    strategy = replace(DISTILL, temperature=1e-40)  # logits divided by it overflow
    with pytest.raises(InputError, match="learning_rate"):
        tuner_of(masks, examples, tmp_path / "state", strategy).run()


def test_language_models_are_refused():
    masks, examples = tiny_masks("gpt2")
    tokenwise = replace(examples, tokenwise=True)
    lexicon = Lexicon(masks=masks, tokenizer=None, calibration=tokenwise, barred=frozenset())
    with pytest.raises(InputError, match="language model"):
        lessons_for(DISTILL.recipe, tokenwise, lexicon, words=False, seed=0)
