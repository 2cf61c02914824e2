"""Taking out tokens: the smaller tokenizer, the rows, and that what is judged is what will be deployed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from compress_explain import Gate, InputError, Masks, Reinstatement, compress, load_compressed, read_anatomy, replay
from compress_explain.cli import app
from compress_explain.comparison.predictions import Pairs, predict
from compress_explain.data.examples import ALL
from compress_explain.data.loading import DataSpec, load_splits
from compress_explain.editing.surgery import expected_parameters, materialize
from compress_explain.errors import EditError
from compress_explain.evaluators import Quality, Slices
from compress_explain.model.embedding import TOKENS, check_rows, needed_rows
from compress_explain.model.loading import load_subject
from compress_explain.plugins.strategy import Situation
from compress_explain.pricing import AuditPlan, price
from compress_explain.record.checkpoint import read_manifest, save_compressed
from compress_explain.record.replay import applied_plans, read_ledger, removed_components
from compress_explain.strategies import Heads, Vocabulary
from compress_explain.terminal.reading import print_component, print_ledger
from compress_explain.terminal.summary import print_run
from compress_explain.vocabulary import Lexicon, read_by, read_pieces
from tests.small_job import sentences
from tests.tiny import tiny_model
from tests.words import EXTRA, KINDS, TEXTS, read_examples, reading_model, trained_tokenizer

UNSEEN = ["a wonderful thunderstorm", "unbelievably sleepless and restless", "the naïve café of 1984", "unbearable B"]


def lexicon_of(family, *, texts=None, generates=False, rows_beyond=0):
    tokenizer = trained_tokenizer(family)
    model = reading_model(family, tokenizer, generates=generates, rows_beyond=rows_beyond)
    masks = Masks(model, read_anatomy(model, 12))
    calibration = read_examples(tokenizer, texts or list(sentences(40, seed=2)["text"]))
    return Lexicon(masks=masks, tokenizer=tokenizer, calibration=calibration, barred=frozenset())


def plan_of(lexicon, **options):
    prices = price(lexicon.masks, lexicon.calibration.draw(4, 0), kinds=("head",))
    situation = Situation(
        anatomy=lexicon.masks.anatomy, prices=prices, removed=lexicon.masks.removed, round=0, lexicon=lexicon
    )
    return Vocabulary(**options).plan(situation)


def carried_out(family, **options):
    """A lexicon whose unused tokens are masked."""
    lexicon = lexicon_of(family, **options)
    lexicon.masks.remove(edit.component for edit in plan_of(lexicon))
    return lexicon


# The smaller tokenizer


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_texts_whose_tokens_all_stay_are_cut_as_before(family, seed):
    """Against random vocabularies, not only those of a strategy: whatever stays whole must do this."""
    tokenizer = trained_tokenizer(family)
    pieces = read_pieces(tokenizer, len(tokenizer), TEXTS)
    wanted = np.random.default_rng(seed).random(pieces.rows) < 0.6
    stay = np.flatnonzero(pieces.whole(wanted))
    smaller = pieces.reduced(stay)
    assert len(smaller) == len(stay) < len(tokenizer)
    words = sorted({word for text in TEXTS for word in text.split()})
    untouched = 0
    for text in [*TEXTS, *words, *UNSEEN]:
        own = tokenizer(text)["input_ids"]
        if set(own) <= set(stay.tolist()):
            untouched += 1
            assert stay[smaller(text)["input_ids"]].tolist() == own, text
    assert untouched > 5


@pytest.mark.parametrize("family", KINDS)
def test_every_text_can_still_be_spelled(family):
    tokenizer = trained_tokenizer(family)
    pieces = read_pieces(tokenizer, len(tokenizer), TEXTS)
    smaller = pieces.reduced(np.flatnonzero(pieces.whole(np.zeros(pieces.rows, dtype=bool))))
    for text in [*TEXTS, *UNSEEN, EXTRA]:
        if tokenizer.unk_token_id not in tokenizer(text)["input_ids"]:
            after = smaller(text)["input_ids"]
            assert smaller.unk_token_id is None or smaller.unk_token_id not in after
            assert smaller.decode(after, skip_special_tokens=True) == tokenizer.decode(
                tokenizer(text)["input_ids"], skip_special_tokens=True
            )


@pytest.mark.parametrize("family", KINDS)
def test_a_token_that_stays_can_still_be_reached(family):
    """Every token that occurs is found again, alone among what it needs."""
    tokenizer = trained_tokenizer(family)
    pieces = read_pieces(tokenizer, len(tokenizer), TEXTS)
    occurring = {(text, number) for text in TEXTS[:30] for number in tokenizer(text)["input_ids"]}
    for text, number in sorted(occurring)[:150:3]:
        wanted = np.zeros(pieces.rows, dtype=bool)
        wanted[number] = True
        stay = np.flatnonzero(pieces.whole(wanted))
        assert number in stay[pieces.reduced(stay)(text)["input_ids"]], (text, pieces.names[number])


@pytest.mark.parametrize("family", KINDS)
def test_the_smaller_tokenizer_is_saved_and_loaded_with_its_settings(family, tmp_path):
    lexicon = carried_out(family)
    masks, smaller = lexicon.masks, lexicon.without(lexicon.gone)
    model = materialize(masks.model, masks.anatomy, masks.removed)  # its configuration also tells what to load
    save_compressed(model, tmp_path, removed=masks.removed, base=masks.anatomy, provenance={})
    smaller.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == smaller.get_vocab()
    assert set(loaded.get_vocab()) == {
        name for row, name in enumerate(lexicon.pieces.names) if not lexicon.gone[row] and name
    }
    for text in [*TEXTS[:20], *UNSEEN]:
        assert dict(loaded(text)) == dict(smaller(text))
    own = lexicon.tokenizer
    for name in (
        "pad_token",
        "unk_token",
        "eos_token",
        "cls_token",
        "padding_side",
        "model_max_length",
        "model_input_names",
    ):
        assert getattr(loaded, name) == getattr(own, name), name
    assert loaded.all_special_tokens == own.all_special_tokens


def test_other_tokenizers_are_refused_with_a_remedy():
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(InputError, match="WordLevel.*cannot be made smaller.*WordPiece, BPE or Unigram"):
        read_pieces(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"), 2, ["a"])
    with pytest.raises(InputError, match="not a fast tokenizer"):
        read_pieces(object(), 2, [])
    with pytest.raises(InputError, match="the model only 10 rows"):
        read_pieces(trained_tokenizer("bert"), 10, [])


class _Shouting(PreTrainedTokenizerFast):
    def __call__(self, texts, **options):
        return super().__call__([text.upper() for text in texts], **options)


def test_a_tokenizer_that_does_more_than_its_json_is_refused():
    own = trained_tokenizer("gpt2")
    loud = _Shouting(tokenizer_object=own.backend_tokenizer, eos_token="<|endoftext|>", model_max_length=40)
    with pytest.raises(InputError, match=r"more than its tokenizer.json says"):
        read_pieces(loud, len(own), ["a good film"])


# What stays


@pytest.mark.parametrize("family", KINDS)
def test_what_calibration_uses_stays_and_its_rows_are_read_as_before(family):
    lexicon = carried_out(family)
    used = {number for row in lexicon.calibration.inputs["input_ids"] for number in row.tolist()}
    assert not lexicon.gone[sorted(used)].any()
    assert not lexicon.read(lexicon.calibration).changed.any()
    assert lexicon.gone.sum() > 30
    assert lexicon.read(read_examples(lexicon.tokenizer, UNSEEN, "validation")).changed.all()


@pytest.mark.parametrize("family", KINDS)
def test_asking_for_more_use_keeps_less(family):
    sizes = [len(plan_of(lexicon_of(family), least=least)) for least in (1, 2, 20)]
    assert sizes[0] <= sizes[1] <= sizes[2]
    assert sizes[0] < sizes[2]


@pytest.mark.parametrize("family", KINDS)
def test_the_first_pieces_stay_until_as_many_stay_as_are_to_be_kept(family):
    lexicon = lexicon_of(family)
    alone, usage = lexicon.choose(lexicon.usage(), 1), lexicon.usage()
    wanted = int(alone.stay.sum()) + 9
    choice = lexicon.choose(usage, 1, wanted)
    assert wanted <= choice.stay.sum() < wanted + 6  # a piece brings what is made on the way to it
    assert choice.stay[alone.stay].all()
    more = choice.stay & ~alone.stay
    left = lexicon.pieces.met & ~choice.stay
    assert np.flatnonzero(left).min() >= choice.first
    assert choice.unseen_share <= alone.unseen_share
    assert len(plan_of(lexicon, keep=wanted)) == len(lexicon.going(alone)) - more.sum()
    assert plan_of(lexicon, keep=10**6) == ()
    assert lexicon.choose(usage, 1, 3).stay.tolist() == alone.stay.tolist()


def test_a_piece_that_no_text_has_is_not_kept_for_standing_first():
    pieces = lexicon_of("bert").pieces
    names = {name: row for row, name in enumerate(pieces.names)}
    model = replace(
        pieces.model, document={**pieces.model.document, "vocab": {**pieces.model.ids, "[unused1]": pieces.rows}}
    )
    assert not replace(pieces, model=model, rows=pieces.rows + 1).met[pieces.rows]
    assert pieces.met[names["a"]]


def test_more_texts_keep_more_and_those_that_judge_are_not_counted(tmp_path):
    (tmp_path / "more.txt").write_text("\n".join(UNSEEN))
    pd.DataFrame({"line": UNSEEN}).to_csv(tmp_path / "more.csv", index=False)
    lexicon = lexicon_of("bert")
    alone, text, table = (
        len(plan_of(lexicon, **options))
        for options in (
            {},
            {"texts": str(tmp_path / "more.txt")},
            {"texts": str(tmp_path / "more.csv"), "column": "line"},
        )
    )
    assert text == table < alone
    barred = replace(lexicon, barred=frozenset(UNSEEN))
    usage = barred.usage(str(tmp_path / "more.txt"))
    assert (usage.texts, usage.barred) == (40, 4)
    assert len(plan_of(barred, texts=str(tmp_path / "more.txt"))) == alone


def test_a_text_counts_once_however_often_it_stands_there():
    texts = list(sentences(10, seed=2)["text"])
    once, twice = (lexicon_of("bert", texts=each).usage() for each in (texts, texts * 2))
    assert once.texts == twice.texts == 10
    assert np.array_equal(once.counts, twice.counts)


def test_the_unseen_share_is_that_of_the_tokens_used_once():
    """On synthetic texts it must foretell how many tokens of other texts of that kind are unseen."""
    rng = np.random.default_rng(0)
    words = [a + b + c for a in "bdfglm" for b in "aeiou" for c in "nprst"]
    weights = 1 / np.arange(1, len(words) + 1)
    drawn = [" ".join(rng.choice(words, 8, p=weights / weights.sum())) for _ in range(600)]
    tokenizer = trained_tokenizer("bert")
    tokenizer.add_tokens([])
    made = json.loads(tokenizer.backend_tokenizer.to_str())
    for character in {letter for word in words for letter in word}:
        for piece in (character, f"##{character}"):
            made["model"]["vocab"].setdefault(piece, len(made["model"]["vocab"]))
    made["model"]["vocab"] |= {word: len(made["model"]["vocab"]) + place for place, word in enumerate(words)}
    whole = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(made)), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_max_length=40,
    )  # fmt: skip
    model = reading_model("bert", whole)
    lexicon = Lexicon(
        masks=Masks(model, read_anatomy(model, 12)), tokenizer=whole, calibration=read_examples(whole, drawn[:60]),
        barred=frozenset(),
    )  # fmt: skip
    choice = lexicon.choose(lexicon.usage(), 1)
    seen = np.array([number for row in whole(drawn[60:])["input_ids"] for number in row])
    met = (~choice.stay[seen]).mean()
    assert met > 0.03
    assert choice.unseen_share == pytest.approx(met, rel=0.3)
    rehearsed = lexicon.rehearse(choice)
    lexicon.masks.remove(f"{TOKENS}.{row}" for row in np.flatnonzero(~choice.stay))
    changed = lexicon.read(read_examples(whole, drawn[60:], "validation")).changed.mean()
    assert rehearsed.facts["changed_share"] == pytest.approx(changed, abs=0.12)


def test_the_plan_shares_out_what_is_rehearsed_and_ends_with_what_is_likeliest_to_be_met():
    lexicon = lexicon_of("gpt2", rows_beyond=5)
    plan = plan_of(lexicon, least=3)
    [rehearsal] = lexicon.rehearsals
    assert sum(edit.expected_loss_change for edit in plan) == pytest.approx(rehearsal.expected[ALL].loss_change)
    assert [edit.reason for edit in plan[:5]] == ["no token of the tokenizer has this row"] * 5
    assert all(edit.expected_loss_change == 0 for edit in plan[:5])
    assert any("used 2 times" in edit.reason for edit in plan)
    assert "never used" in plan[5].reason
    assert sum(rehearsal.facts["removed_by_use"].values()) == len(plan)
    rows = [int(edit.component.rpartition(".")[2]) for edit in plan]
    use = lexicon.pieces.reached(lexicon.usage().counts)[rows[5:]].tolist()
    assert use == sorted(use)
    # putting back any number of them from the end leaves every token that is there within reach
    for back in (3, len(rows) // 3, len(rows) // 2):
        there = np.ones(lexicon.pieces.rows, dtype=bool)
        there[rows[: len(rows) - back]] = False
        named = np.array([name is not None for name in lexicon.pieces.names])
        assert np.array_equal(lexicon.pieces.whole(there & named), there & named)


# Rows, checkpoints


@pytest.mark.parametrize("family", KINDS)
def test_masked_is_materialized(family):
    lexicon = carried_out(family, rows_beyond=3)
    masks, anatomy = lexicon.masks, lexicon.masks.anatomy
    masks.remove(["encoder.layer.1.ffn.neuron.3" if family != "gpt2" else "decoder.layer.1.ffn.neuron.3"])
    validation = read_examples(lexicon.tokenizer, [*UNSEEN, *TEXTS[:20]], "validation")
    with masks:
        masked = predict(masks.model, lexicon.read(validation).examples)
        original = predict(masks.model, validation)
    smaller = materialize(masks.model, anatomy, masks.removed)
    read = read_by(validation, lexicon.without(lexicon.gone))
    assert np.abs(predict(smaller, read) - masked).max() <= 1e-6
    assert np.abs(original - masked).max() > 1e-3, "the texts must feel it"
    counted = sum(parameter.numel() for parameter in smaller.parameters())
    assert counted == expected_parameters(masks.model, anatomy, masks.removed)
    assert smaller.config.vocab_size == smaller.get_input_embeddings().num_embeddings == int((~lexicon.gone).sum())


@pytest.mark.parametrize("family", KINDS)
def test_special_tokens_are_renumbered_wherever_they_are_named(family):
    lexicon = carried_out(family)
    smaller = materialize(lexicon.masks.model, lexicon.masks.anatomy, lexicon.masks.removed)
    tokenizer, before = lexicon.without(lexicon.gone), lexicon.masks.model.config
    left = np.flatnonzero(~lexicon.gone).tolist()
    named = [key for key in before.to_dict() if key.endswith("_token_id") and getattr(before, key) is not None]
    assert len(named) >= 3
    for key in named:
        assert getattr(smaller.config, key) == left.index(getattr(before, key)), key
    assert smaller.config.pad_token_id == tokenizer.pad_token_id
    table, own = smaller.get_input_embeddings(), lexicon.masks.model.get_input_embeddings()
    assert (table.padding_idx is None) == (own.padding_idx is None)
    assert table.padding_idx in (None, tokenizer.pad_token_id)
    if family == "roberta":  # positions count from the padding: it must keep its number
        assert tokenizer.pad_token_id == lexicon.tokenizer.pad_token_id
        assert set(range(before.pad_token_id + 1)) <= needed_rows(lexicon.masks.model)


@pytest.mark.parametrize(("family", "generates"), [*((kind, False) for kind in KINDS), ("gpt2", True), ("t5", True)])
def test_it_is_saved_and_loaded_bit_for_bit(family, generates, tmp_path):
    lexicon = lexicon_of(family, generates=generates, rows_beyond=2)
    masks = lexicon.masks
    gone = ~lexicon.pieces.whole(lexicon.needed)
    gone[sorted(needed_rows(masks.model))] = False
    masks.remove(f"{TOKENS}.{row}" for row in np.flatnonzero(gone))
    smaller = materialize(masks.model, masks.anatomy, masks.removed)
    save_compressed(smaller, tmp_path, removed=masks.removed, base=masks.anatomy, provenance={})
    loaded = load_compressed(tmp_path)
    ours, theirs = smaller.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {key: value for key, value in smaller.config.to_dict().items() if key != "transformers_version"}.items() <= {
        **loaded.config.to_dict(), "dtype": smaller.config.to_dict().get("dtype"),
        "architectures": smaller.config.to_dict().get("architectures"), "_name_or_path": smaller.config.to_dict().get("_name_or_path"),
    }.items()  # fmt: skip
    manifest = read_manifest(tmp_path)
    assert manifest["tokens"] == {"original": len(gone), "left": np.flatnonzero(~gone).tolist()}
    head, own = smaller.get_output_embeddings(), masks.model.get_output_embeddings()
    if own is not None:
        assert head.out_features == len(manifest["tokens"]["left"])
        assert torch.equal(head.weight, own.weight[~torch.from_numpy(gone)])
        assert (head.weight is smaller.get_input_embeddings().weight) == (
            own.weight is masks.model.get_input_embeddings().weight
        )
    else:  # nothing else is cut, so even the plain loader takes it
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        assert all(torch.equal(plain.state_dict()[name], ours[name]) for name in ours)


def test_a_manifest_of_other_tokens_is_refused(tmp_path):
    lexicon = carried_out("bert")
    masks = lexicon.masks
    smaller = materialize(masks.model, masks.anatomy, masks.removed)
    save_compressed(smaller, tmp_path, removed=masks.removed, base=masks.anatomy, provenance={})
    manifest = json.loads((tmp_path / "compressed.json").read_text())
    manifest["tokens"]["left"].append(399)
    (tmp_path / "compressed.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="tokens, its manifest another number"):
        load_compressed(tmp_path)


def test_undoing_gives_the_original_back_bit_for_bit():
    lexicon = lexicon_of("bert")
    validation = read_examples(lexicon.tokenizer, UNSEEN, "validation")
    before = predict(lexicon.masks.model, validation)
    plan = [edit.component for edit in plan_of(lexicon)]
    with lexicon.masks as masks:
        masks.remove(plan)
        assert not np.array_equal(predict(masks.model, lexicon.read(validation).examples), before)
        with pytest.raises(EditError, match="already removed"):
            masks.remove(plan[:1])
        masks.restore(plan)
        assert np.array_equal(predict(masks.model, lexicon.read(validation).examples), before)


def test_a_special_token_cannot_go():
    lexicon = lexicon_of("bert")
    lexicon.masks.remove([f"{TOKENS}.{lexicon.tokenizer.pad_token_id}"])
    with pytest.raises(EditError, match="must stay"):
        materialize(lexicon.masks.model, lexicon.masks.anatomy, lexicon.masks.removed)


def test_models_with_other_dependants_are_refused():
    model = reading_model("gpt2", trained_tokenizer("gpt2"), generates=True)
    check_rows(model)
    model.generation_config.suppress_tokens = [3]
    with pytest.raises(InputError, match="suppress_tokens also depends"):
        check_rows(model)
    model.generation_config.suppress_tokens = None
    model.transformer.second = torch.nn.Embedding(model.config.vocab_size, 4)
    with pytest.raises(InputError, match=r"transformer\.second also depends"):
        check_rows(model)


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"least": 0}, "least"),
        ({"least": True}, "least"),
        ({"keep": -1}, "keep"),
        ({"keep": True}, "keep"),
        ({"texts": "none.csv"}, "texts"),
    ],
)
def test_bad_values_are_refused_when_the_strategy_is_made(options, culprit):
    with pytest.raises(InputError, match=rf"strategies: vocabulary\.{culprit}"):
        Vocabulary(**options)


def test_models_that_read_no_tokens_are_refused():
    with pytest.raises(InputError, match="reads no tokens"):
        check_rows(tiny_model("vit"))


# A whole run


NO_AUDIT = AuditPlan(heads=0, neurons=0)
LENIENT = [Gate(metric="accuracy", max_drop=0.9, rule="point")]


def job_frames():
    frames = {
        name: sentences(rows, seed)
        for name, rows, seed in (("calibration", 80, 2), ("validation", 60, 3), ("test", 60, 4))
    }
    for name in ("validation", "test"):
        frames[name]["text"] = [
            f"{text} {UNSEEN[row % 4]}" if row % 5 == 0 else text for row, text in enumerate(frames[name]["text"])
        ]
    return frames


@pytest.fixture(scope="module", params=["bert", "gpt2", pytest.param("t5", marks=pytest.mark.exhaustive)])
def job(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = trained_tokenizer(request.param)
    tokenizer.save_pretrained(folder / "model")
    reading_model(request.param, tokenizer).save_pretrained(folder / "model")
    for name, frame in job_frames().items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    subject = load_subject(str(folder / "model"), "text-classification")
    spec = DataSpec(
        **{name: str(folder / f"{name}.csv") for name in ("calibration", "validation", "test")}, max_length=24
    )
    return folder, subject, load_splits(spec, [], subject, seed=0)


@pytest.fixture(scope="module")
def finished(job):
    folder, subject, splits = job
    run = compress(
        subject, splits, strategies=[Vocabulary(), Heads(share=0.3, rounds=1)], evaluators=[Quality(), Slices()],
        gates=LENIENT, audit=NO_AUDIT, out=folder / "out",
    )  # fmt: skip
    return run, subject, splits


def test_a_run_judges_the_artifact_with_its_own_tokenizer(finished):
    run, subject, splits = finished
    assert run.passed
    assert run.summary["components"]["token"]["removed"] > 30
    artifact = run.folder / "artifact"
    model, tokenizer = run.load_model(), AutoTokenizer.from_pretrained(artifact)
    assert len(tokenizer) == model.config.vocab_size == model.get_input_embeddings().num_embeddings
    assert tokenizer.model_max_length == 24
    saved = Pairs.load(run.folder / "predictions" / "artifact-test.parquet")
    assert np.abs(predict(model, read_by(splits.test, tokenizer)) - saved.compressed).max() <= 1e-6
    own = predict(subject.model, splits.test)
    assert np.abs(saved.original - own).max() <= 1e-6


def test_what_is_judged_on_validation_is_what_the_artifact_does(finished):
    run, _, splits = finished
    steps = [record.step for record in run.ledger.of_kind("predicted") if record.step.endswith("-validation")]
    judged = Pairs.load(run.folder / "predictions" / f"{steps[-1]}.parquet")
    read = read_by(splits.validation, AutoTokenizer.from_pretrained(run.folder / "artifact"))
    assert np.abs(predict(run.load_model(), read) - judged.compressed).max() <= 1e-5


def test_replay_gives_the_same_weights(finished):
    run, subject, _ = finished
    again, loaded = replay(subject.model, run.folder).state_dict(), run.load_model().state_dict()
    assert again.keys() == loaded.keys()
    assert all(torch.equal(again[name], loaded[name]) for name in again)


def test_the_ledger_says_what_was_expected_and_how_texts_are_read(finished):
    run, _, splits = finished
    planned = run.ledger.find("planned", "1-vocabulary-1")
    facts = planned.body["vocabulary"]
    assert planned.body["counts"] == {"token": run.summary["components"]["token"]["removed"]}
    assert planned.body["flops_saved"] == 0
    assert 0 <= facts["unseen_share"] < 0.5
    assert run.ledger.find("applied", "1-vocabulary-1").body["expected"] == facts["expected"]
    reading = run.ledger.find("observed", "1-vocabulary-1").body["reading"]
    assert reading["split"] == "validation"
    assert 0 < reading["rows_changed"] < reading["rows"] == len(splits.validation)
    assert reading["tokens_after"] > reading["tokens_before"]
    embedding = run.anatomy["embedding"]
    assert planned.body["parameters_saved"] == embedding["parameters"] * len(embedding["removed"])
    body = run.ledger.find("materialized", "artifact").body
    model = run.load_model()
    assert body["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert model.get_input_embeddings().num_embeddings == embedding["count"] - len(embedding["removed"])


def plans(run):
    return [edit for applied in applied_plans(run.ledger) for edit in applied.plan.edits]


def test_tables_report_and_terminal_stay_small(finished):
    run, _, _ = finished
    tokens = run.components[run.components["kind"] == "token"]
    assert len(tokens) == run.summary["components"]["token"]["removed"]
    assert set(tokens["status"]) == {"removed"}
    report = (run.folder / "report.html").read_text()
    assert "Removed tokens" in report
    assert "single characters" in report
    assert report.count(f"{TOKENS}.") == 0
    print_run(run)
    print_ledger(run.folder)
    print_component(run.folder, tokens["component"].iloc[0])
    print_component(run.folder, f"{TOKENS}.0")


def test_tokens_are_put_back_last_and_only_as_many_as_are_needed(job, tmp_path):
    _, subject, splits = job
    strict = [Gate(metric="nll", max=1e-6, rule="point")]  # cannot hold: everything comes back
    run = compress(
        subject, splits, strategies=[Vocabulary()], evaluators=[Quality()], gates=strict, out=tmp_path / "strict",
        reinstatement=Reinstatement(max_rounds=2), audit=NO_AUDIT,
    )  # fmt: skip
    assert run.state == "fail"
    assert run.summary["components"]["token"]["removed"] == 0
    restored = [edit for edit in plans(run) if edit.action == "restore"]
    removed = [edit for edit in plans(run) if edit.action == "remove"]
    assert [edit.component for edit in restored] == [edit.component for edit in reversed(removed)]
    assert removed_components(read_ledger(run.folder)) == []
    back = run.ledger.find("observed", "reinstate-1").body
    first = run.ledger.find("observed", "1-vocabulary-1").body
    assert back["observed"]["loss_change"] == pytest.approx(-first["observed"]["loss_change"], abs=1e-6)
    assert back["expected"]["loss_change"] == pytest.approx(-first["expected"]["loss_change"], abs=1e-9)


def test_trims_find_how_many_tokens_are_needed(job, tmp_path):
    """Every validation row is labelled with the class that loses, so that the removal must cost something."""
    _, subject, splits = job
    options = {"strategies": [Vocabulary()], "evaluators": [Quality()], "audit": NO_AUDIT}
    first = compress(subject, splits, gates=LENIENT, out=tmp_path / "first", **options)
    pairs = Pairs.load(first.folder / "predictions" / "1-vocabulary-1-validation.parquet")
    before, after = (torch.from_numpy(logits).log_softmax(1).numpy() for logits in (pairs.original, pairs.compressed))
    labels = (after - before).argmin(1)
    rows = np.arange(len(labels))
    whole, left = -before[rows, labels].mean(), -after[rows, labels].mean()
    harsh = replace(splits, validation=replace(splits.validation, labels=labels))
    gates = [Gate(metric="nll", max=float(whole + 0.4 * (left - whole)), rule="point")]
    limits = Reinstatement(trims=5, reserve=0.0)
    run = compress(subject, harsh, gates=gates, reinstatement=limits, out=tmp_path / "second", **options)
    assert run.ledger.of_kind("judged")[0].body["state"] == "fail"
    counts = run.summary["components"]["token"]
    assert counts["restored"] > 0
    assert counts["removed"] > 0
    assert (run.components["status"] == "restored").sum() == counts["restored"]
    [*_, last] = [record for record in run.ledger.of_kind("judged") if record.step != "artifact"]
    assert last.body["split"] == "validation"
    assert run.ledger.find("materialized", "artifact") is not None, "the gate holds on validation in the end"


def test_a_stopped_run_resumes_to_the_same_artifact(job, tmp_path):
    _, subject, splits = job
    options = {"strategies": [Vocabulary(), Heads(share=0.3, rounds=1)], "evaluators": [Quality()], "gates": LENIENT,
               "audit": NO_AUDIT}  # fmt: skip
    whole = compress(subject, splits, out=tmp_path / "whole", **options)
    ledger = whole.folder / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    for kind in ("planned", "applied", "observed"):
        at = next(place for place, line in enumerate(lines) if f'"{kind}"' in line)
        ledger.write_text("".join(lines[: at + 1]))
        again = compress(subject, splits, out=whole.folder, resume=True, **options)
        assert removed_components(again.ledger) == [edit.component for edit in plans(again) if edit.action == "remove"]
        model = again.load_model().state_dict()
        replayed = replay(subject.model, again.folder).state_dict()
        assert all(torch.equal(model[name], replayed[name]) for name in model)


def test_a_tokenizer_that_cannot_be_made_smaller_is_refused_before_anything_is_priced(job, tmp_path):
    _, subject, splits = job
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    other = replace(subject, processor=PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"))
    with pytest.raises(InputError, match="cannot be made smaller"):
        compress(other, splits, strategies=[Vocabulary()], evaluators=[Quality()], gates=LENIENT, out=tmp_path / "out")
    assert not list((tmp_path / "out").glob("tables/prices*"))


def test_the_command_line_carries_it_out(job):
    folder, _, _ = job
    document = {
        "model": str(folder / "model"),
        "data": {name: str(folder / f"{name}.csv") for name in ("calibration", "validation", "test")},
        "strategies": [
            {"vocabulary": {"texts": str(folder / "calibration.csv")}},
            {"heads": {"share": 0.3, "rounds": 1}},
        ],
        "gates": [{"metric": "accuracy", "max_drop": 0.9, "rule": "point"}],
        "registries": [],
        "audit": {"heads": 0, "neurons": 0},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    planned = CliRunner().invoke(app, ["plan", str(folder / "config.yaml")], catch_exceptions=False)
    assert planned.exit_code == 0
    assert "vocabulary, round 1" in planned.output
    result = CliRunner().invoke(
        app, ["run", str(folder / "config.yaml"), "--out", str(folder / "cli")], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert read_ledger(folder / "cli").find("materialized", "artifact") is not None
