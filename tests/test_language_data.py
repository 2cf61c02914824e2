"""Data for language models: what each position predicts, and which slices its token belongs to."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import BertForMaskedLM

from compress_explain.config import load_config
from compress_explain.data.loading import SPLITS, DataSpec, encode_splits, load_examples
from compress_explain.data.slices import SliceRule, load_rules
from compress_explain.data.tokens import token_slices
from compress_explain.errors import InputError, InputErrors
from compress_explain.model.loading import infer_task, load_subject, model_digest
from compress_explain.model.tasks import TASKS
from tests.small_job import sentences, small_job_files, tiny_tokenizer
from tests.tiny import MODELS, tiny_model

CAUSAL = ("gpt2", "llama", "qwen3")
POSITION = SliceRule(name="position", token="position", quantiles=3)
FREQUENCY = SliceRule(name="frequency", token="frequency", quantiles=3)


def bare_tokenizer():
    """As GPT-2's: no padding token, nothing put around a text."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.pad_token = None
    tokenizer.add_special_tokens({"eos_token": "[SEP]"})
    return tokenizer


def saved(folder: Path, family: str, *, generates: bool = True, tokenizer=None) -> str:
    tiny_model(family, generates=generates, labels=2).save_pretrained(folder)
    (tokenizer or bare_tokenizer()).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=CAUSAL)
def subject(request, tmp_path_factory):
    return load_subject(saved(tmp_path_factory.mktemp(request.param), request.param), "text-generation")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = saved(tmp_path_factory.mktemp("bert"), "bert", generates=False, tokenizer=tiny_tokenizer())
    return load_subject(folder, "text-classification")


@pytest.fixture
def rows(tmp_path) -> str:
    sentences(40, seed=3).drop(columns="label").to_csv(tmp_path / "rows.csv", index=False)
    return str(tmp_path / "rows.csv")


def written(path: Path, texts: list[str], **columns: list) -> str:
    pd.DataFrame({"text": texts, **columns}).to_csv(path, index=False)
    return str(path)


# What is predicted


def test_the_negative_log_likelihood_is_that_of_each_text_alone(subject, rows):
    """Padding, shifting and validity together: the reference is the model's own loss on one unpadded row."""
    examples = load_examples(rows, [], subject)
    for batch in examples.batches(7):
        targets, valid = examples.targets(batch)
        with torch.inference_mode():
            logits = subject.model(**batch.inputs).logits
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        ours = (nll * valid).sum(1) / valid.sum(1)
        for row, mean in zip(batch.rows, ours, strict=True):
            ids = torch.from_numpy(examples.inputs["input_ids"][row])[None]
            with torch.inference_mode():
                alone = subject.model(input_ids=ids, labels=ids).loss
            torch.testing.assert_close(mean, alone, rtol=1e-4, atol=1e-5)


def test_targets_are_the_next_tokens_of_each_row(subject, rows):
    examples = load_examples(rows, [], subject)
    assert examples.tokenwise and examples.labels.tolist() == [0] * 40
    assert set(examples.inputs) == {"input_ids", "attention_mask"}
    for batch in examples.batches(16):
        targets, valid = examples.targets(batch)
        for row, ids, flags in zip(batch.rows, targets, valid, strict=True):
            own = examples.inputs["input_ids"][row]
            assert ids[flags].tolist() == own[1:].tolist()
            assert flags.tolist() == [t < len(own) - 1 for t in range(len(flags))]


def test_a_tokenizer_without_padding_serves_a_language_model_only(subject, rows, classifier):
    assert subject.processor.pad_token_id is None
    examples = load_examples(rows, [], subject)
    assert examples.padding == {"input_ids": subject.processor.eos_token_id, "attention_mask": 0}
    labelled = written(Path(rows).with_name("labelled.csv"), ["good", "bad"], label=[0, 1])
    with pytest.raises(InputError, match="no padding token"):
        load_examples(labelled, [], replace(classifier, processor=bare_tokenizer()))


def test_rows_with_nothing_to_predict_are_refused_with_their_number(subject, tmp_path):
    with pytest.raises(InputError, match=r"data: 'good': 2 rows have fewer than 2 tokens.*first: row 1\)"):
        load_examples(written(tmp_path / "t.csv", ["good film", "good", "bad plot", "dull"]), [], subject)


def test_long_texts_are_cut_counted_or_refused(subject, tmp_path):
    source = written(tmp_path / "t.csv", ["good " * 50, "bad film"])
    examples = load_examples(source, [], subject, max_length=8)
    assert examples.truncated == 1 and [len(row) for row in examples.inputs["input_ids"]] == [8, 2]
    with pytest.raises(InputError, match="1 texts have more than the 8 tokens"):
        load_examples(source, [], subject, max_length=8, long_text="refuse")
    with pytest.raises(InputError, match=r"data\.max_length"):
        load_examples(source, [], subject, max_length=100_000)


# Slices


def test_bands_of_position_share_the_predicted_tokens():
    ids = [np.arange(7), np.arange(4), np.arange(10)]  # predicted at 0..5, 0..2 and 0..8
    bands = token_slices([POSITION], ids)
    assert list(bands) == ["position=q1 0-1", "position=q2 2-4", "position=q3 5-8"]
    assert bands["position=q1 0-1"][1].tolist() == [True, True, False]
    assert bands["position=q3 5-8"][2].tolist() == [False] * 5 + [True] * 4


def test_bands_of_frequency_go_from_rare_to_common():
    common, rare = [5] * 60, list(range(100, 130))
    middle = [token for token in range(10, 20) for _ in range(3)]
    ids = [np.array([9, *common[:30], *rare]), np.array([9, *middle, *common[30:]])]
    bands = token_slices([FREQUENCY], ids)
    # of 120 targets 30 occur once, 30 three times, 60 sixty times: cuts at 40 and 80 targets fall on 3 and 60
    assert list(bands) == ["frequency=q1 1-3", "frequency=q2 60-60"]
    counted = Counter(int(token) for row in ids for token in row[1:])
    for row, tokens in enumerate(ids):
        assert bands["frequency=q1 1-3"][row].tolist() == [counted[int(token)] <= 3 for token in tokens[1:]]


@pytest.mark.parametrize("rule", [POSITION, FREQUENCY], ids=lambda rule: rule.name)
def test_every_predicted_token_lies_in_one_band_of_a_rule_and_none_is_empty(rule, subject, rows):
    examples = load_examples(rows, [rule], subject)
    total = sum(len(row) - 1 for row in examples.inputs["input_ids"])
    assert sum(examples.counts[name] for name in examples.token_slices) == examples.counts["all"] == total
    assert 2 <= len(examples.token_slices) <= 3 and min(examples.counts.values()) > 0
    for row in range(len(examples)):
        flags = np.stack([each[row] for each in examples.token_slices.values()])
        assert flags.shape[1] == len(examples.inputs["input_ids"][row]) - 1
        assert (flags.sum(0) == 1).all()


def test_equal_values_stay_together():
    bands = token_slices([FREQUENCY], [np.array([1, *range(20, 40)])])
    assert list(bands) == ["frequency=q1 1-1"] and bands["frequency=q1 1-1"][0].all()


def test_membership_follows_rows_and_tokens_and_adds_up_to_the_counts(subject, rows):
    rules = [SliceRule(name="source", column="source"), POSITION, SliceRule(name="long", where="words > 9"), FREQUENCY]
    examples = load_examples(rows, rules, subject)
    rowwise = ["all", "source=paper", "source=web", "long"]
    assert examples.slice_names[:4] == tuple(rowwise) and list(examples.slices) == rowwise
    assert examples.slice_names[4].startswith("position=q1") and examples.slice_names[-1].startswith("frequency=q")
    total = torch.zeros(len(examples.slice_names))
    for batch in examples.batches(6):
        members = examples.token_membership(batch)
        _, valid = examples.targets(batch)
        assert members.shape == (len(examples.slice_names), *valid.shape) and members.dtype == torch.float32
        assert not members[:, ~valid].any() and members[0][valid].all()
        for place, row in enumerate(batch.rows):
            for index, name in enumerate(rowwise):
                assert (members[index, place][valid[place]] == float(examples.slices[name][row])).all()
            for index, flags in enumerate(examples.token_slices.values(), start=4):
                assert members[index, place][valid[place]].bool().tolist() == flags[row].tolist()
        total += members.sum((1, 2))
    assert dict(zip(examples.slice_names, total.int().tolist(), strict=True)) == examples.counts


def test_chosen_rows_are_batched_alone(subject, rows):
    examples = load_examples(rows, [], subject)
    chosen = np.array([3, 31, 17, 8])
    batches = list(examples.batches(3, chosen))
    assert [len(batch.rows) for batch in batches] == [3, 1]
    seen = np.concatenate([batch.rows for batch in batches])
    assert sorted(seen) == sorted(chosen)
    lengths = [len(examples.inputs["input_ids"][row]) for row in seen]
    assert lengths == sorted(lengths, reverse=True)


def test_a_rule_over_tokens_needs_a_language_model(classifier, tmp_path):
    frame = sentences(30, seed=2)
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match=r"slices: position: 'position': a model for text-classification predicts no"):
        load_examples(str(tmp_path / "t.csv"), [POSITION], classifier)
    spec = DataSpec(calibration="a", validation="b", test="c", overlap="drop")
    frames = {name: sentences(30, seed) for seed, name in enumerate(("calibration", "validation", "test"))}
    with pytest.raises(InputError, match="predicts no tokens"):
        encode_splits(frames, spec, [FREQUENCY], classifier)


@pytest.mark.parametrize(
    "options",
    [
        {"token": "position"},
        {"token": "frequency", "quantiles": 1},
        {"token": "positon", "quantiles": 3},
        {"token": "position", "column": "words", "quantiles": 3},
        {"token": "position", "where": "words > 3", "quantiles": 3},
    ],
)
def test_a_bad_rule_over_tokens_is_refused_when_it_is_made(options):
    with pytest.raises(InputError, match="slices: chosen"):
        SliceRule(name="chosen", **options)


# One file of a classifier


def test_one_file_is_read_as_a_split_is(classifier, tmp_path):
    """Inputs, labels and slices are those that the same rows have as the test split of a run."""
    frames = {name: sentences(60, seed) for seed, name in enumerate(("calibration", "validation", "test"))}
    frames["test"].to_csv(tmp_path / "test.csv", index=False)
    rules = [
        SliceRule(name="label", column="label"), SliceRule(name="length", column="words", quantiles=3),
        SliceRule(name="negation", matches=r"\bnot\b"), SliceRule(name="long", where="characters > 40"),
    ]  # fmt: skip
    spec = DataSpec(calibration="a", validation="b", test="c", overlap="drop")
    split = encode_splits(frames, spec, rules, classifier).test
    alone = load_examples(str(tmp_path / "test.csv"), rules, classifier)
    assert alone.name == "data" and not alone.tokenwise and alone.token_slices == {}
    assert alone.labels.tolist() == split.labels.tolist() and alone.texts == split.texts
    for key, values in split.inputs.items():
        assert [row.tolist() for row in alone.inputs[key]] == [row.tolist() for row in values]
    assert {name: flags.tolist() for name, flags in alone.slices.items()} == {
        name: flags.tolist() for name, flags in split.slices.items()
    }
    assert alone.padding == split.padding
    assert alone.counts == {name: int(flags.sum()) for name, flags in split.slices.items()}


def test_rows_are_drawn_by_seed(classifier, tmp_path):
    sentences(60, seed=1).to_csv(tmp_path / "t.csv", index=False)
    drawn = [load_examples(str(tmp_path / "t.csv"), [], classifier, rows=20, seed=seed).texts for seed in (4, 4, 5)]
    assert len(set(drawn[0])) == 20 and drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("columns", "options", "problem"),
    [
        ({}, {}, r"data\.label: 'label': no such column in data"),
        ({"label": [0, 1]}, {"input": "txt"}, r"data\.input: 'txt': no such column.*did you mean 'text'"),
        ({"label": [0, 5]}, {}, r"data: 5: the model knows no such label"),
        ({"label": [1, 1]}, {}, r"data: 1: all rows have one and the same label"),
        ({"label": [1, None]}, {}, r"data: 'label': 1 rows have no label"),
        ({"label": [0, 1], "text": ["good", None]}, {}, r"data: 'text': 1 rows have no input"),
        ({"label": [0, 1]}, {"long_text": "cut"}, r"data\.long_text: 'cut': unknown choice"),
    ],
)
def test_one_file_is_checked_as_a_split_is(classifier, tmp_path, columns, options, problem):
    pd.DataFrame({"text": ["good", "bad"], **columns}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match=problem):
        load_examples(str(tmp_path / "t.csv"), [], classifier, **options)


def test_the_digest_tells_what_the_model_reads_and_the_slices_apart(subject, rows, tmp_path):
    def digest(source=rows, rules=(), **options):
        return load_examples(source, rules, subject, **options).digest

    texts = pd.read_csv(rows)["text"].tolist()
    other = written(tmp_path / "other.csv", [*texts[:-1], "a good plot"])
    assert digest() == digest()
    ways = [
        digest(), digest(other), digest(max_length=4), digest(rows=20), digest(rows=20, seed=1),
        digest(rules=[POSITION]), digest(rules=[FREQUENCY]), digest(rules=[SliceRule(name="s", where="words > 9")]),
        digest(rules=[SliceRule(name="s", where="words > 8")]),
    ]  # fmt: skip
    assert len(set(ways)) == len(ways)


# Models


@pytest.mark.parametrize("family", CAUSAL)
def test_the_task_is_read_off_the_architecture(family, tmp_path):
    assert infer_task(saved(tmp_path / "generator", family)) == "text-generation"
    assert infer_task(saved(tmp_path / "classifier", family, generates=False)) == "text-classification"


def test_an_image_classifier_a_base_model_and_one_without_a_known_head(tmp_path):
    tiny_model("vit").save_pretrained(tmp_path / "vit")
    assert infer_task(str(tmp_path / "vit")) == "image-classification"
    tiny_model("bert").base_model.save_pretrained(tmp_path / "bert")
    assert infer_task(str(tmp_path / "bert")) == "feature-extraction"
    tiny_model("clip-pair").save_pretrained(tmp_path / "clip")
    with pytest.raises(InputError, match="clip is no encoder of text"):
        load_subject(str(tmp_path / "clip"), infer_task(str(tmp_path / "clip")))
    BertForMaskedLM(tiny_model("bert").config).save_pretrained(tmp_path / "masked")
    with pytest.raises(InputError, match=rf"BertForMaskedLM.*{', '.join(TASKS)}"):
        infer_task(str(tmp_path / "masked"))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", CAUSAL)
def test_a_tied_head_is_no_missing_head_and_an_untrained_one_is(family, tied, tmp_path):
    tiny = MODELS[family]
    model = tiny.generator(tiny.config(**tiny.options, tie_word_embeddings=tied))
    model.save_pretrained(tmp_path / "whole")
    bare_tokenizer().save_pretrained(tmp_path / "whole")
    loaded = load_subject(str(tmp_path / "whole"), "text-generation")
    assert torch.equal(loaded.model.get_output_embeddings().weight, model.get_output_embeddings().weight)
    if not tied:
        model.base_model.save_pretrained(tmp_path / "headless")
        with pytest.raises(InputError, match=r"no trained head for text-generation \(missing lm_head.weight"):
            load_subject(str(tmp_path / "headless"), "text-generation")


def test_weights_are_of_the_type_that_was_asked_for(tmp_path):
    folder = saved(tmp_path, "llama")
    whole, half = load_subject(folder, "text-generation"), load_subject(folder, "text-generation", "bfloat16")
    assert {value.dtype for value in whole.model.parameters()} == {torch.float32}
    assert {value.dtype for value in half.model.parameters()} == {torch.bfloat16}
    assert whole.digest == half.digest  # of the file that both come from
    assert model_digest(whole.model, "elsewhere") != model_digest(half.model, "elsewhere")
    with pytest.raises(InputError, match="dtype: 'float16'.*bfloat16"):
        load_subject(folder, "text-generation", "float16")


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_model_that_reads_both_ways_is_no_language_model(family, tmp_path):
    folder = saved(tmp_path, family, generates=False)
    with pytest.raises(
        InputError,
        match=f"{family} is no causal language model.*gemma, gpt2, gpt_neox, llama, mistral, opt, phi3, qwen2, qwen3",
    ):
        load_subject(folder, "text-generation")


# Runs


def test_a_run_reads_rows_without_labels_and_slices_rows_alone(subject, tmp_path):
    frames = {name: sentences(12, seed).drop(columns="label") for seed, name in enumerate(SPLITS)}
    spec = DataSpec(calibration="a.csv", validation="b.csv", test="c.csv")
    splits = encode_splits(frames, spec, [SliceRule(name="source", column="source")], subject)
    for split in splits:
        assert split.tokenwise and split.task == "text-generation" and not split.token_slices
        assert split.decisions.tolist() == [len(row) - 1 for row in split.inputs["input_ids"]]
    assert splits.slices == ["source=paper", "source=web"]
    with pytest.raises(
        InputError, match="slices: frequency.*slices of tokens are for price and audit; a run judges rows"
    ):
        encode_splits(frames, spec, [FREQUENCY], subject)


def test_gates_of_a_language_model_are_checked_before_it_is_loaded(tmp_path):
    small_job_files(tmp_path)
    with pytest.raises(InputError, match="gates: metric: 'macro_f1': no evaluator gives this"):
        load_config(tmp_path / "config.yaml", ["task=text-generation", "gates.0.metric=macro_f1", "gates.1.metric=nll"])
    config = load_config(tmp_path / "config.yaml", ["task=text-generation", "gates.0.metric=perplexity"])
    assert config.data_spec().input == "text"
    tagging = load_config(tmp_path / "config.yaml", ["task=token-classification"]).data_spec()
    assert (tagging.input, tagging.label) == ("tokens", "tags")


# Rules in a file of their own


RULES = {"source": {"column": "source"}, "long": {"where": "words > 9"}, "rare": {"token": "frequency", "quantiles": 3}}


@pytest.mark.parametrize(
    "document",
    [
        RULES,
        {"slices": RULES},
        [{"name": name, **keys} for name, keys in RULES.items()],
        {"model": "m", "slices": RULES},
    ],
    ids=["mapping", "slices", "list", "configuration"],
)
def test_rules_are_read_from_a_file(document, tmp_path):
    path = tmp_path / "slices.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    assert load_rules(path) == (
        SliceRule(name="source", column="source"),
        SliceRule(name="long", where="words > 9"),
        SliceRule(name="rare", token="frequency", quantiles=3),
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "slices: .*no such file"),
        ("a: [", "slices: .*not valid YAML"),
        ("", "holds no slice rules"),
        ("just words", "holds no slice rules"),
        ("slices: {}", "holds no slice rules"),
        ("- {where: words > 3}", "rule 0 has no name"),
        ("- words", "rule 0 has no name"),
        ("[{name: a, column: b}, {name: a, column: c}]", "a is the name of two rules"),
        ("long: {were: words > 3}", r"slices\.long\.were.*did you mean 'where'"),
        ("long: words > 3", r"slices\.long: 'words > 3'"),
        ("long: {where: words >}", "slices: long: 'words >': cannot be read"),
        ("ink: {column: ink, quantiles: many}", r"slices\.ink\.quantiles"),
        ("rare: {token: frequency}", "slices: rare: 'frequency': a token's measure needs quantiles"),
    ],
)
def test_trouble_with_a_file_of_rules_is_told(content, problem, tmp_path):
    path = tmp_path / "slices.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=problem):
        load_rules(path)


def test_all_faults_of_a_file_of_rules_are_shown_at_once(tmp_path):
    path = tmp_path / "slices.yaml"
    path.write_text("long: {where: words >}\nrare: {token: frequency}\n")
    with pytest.raises(InputErrors, match="(?s)long.*rare"):
        load_rules(path)


def test_a_run_configuration_takes_the_key(tmp_path):
    small_job_files(tmp_path)
    config = load_config(tmp_path / "config.yaml", ["slices.rare={token: frequency, quantiles: 3}"])
    assert config.slice_rules()[-1] == SliceRule(name="rare", token="frequency", quantiles=3)
