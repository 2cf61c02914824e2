"""Words and their tags: entities, how rows are read, what is kept of them, and the errors that teach."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from compress_explain.comparison.decided import decide_all, places, right_answers
from compress_explain.comparison.predictions import Pairs, logits_of, paired
from compress_explain.comparison.scores import METRIC_NAMES, metrics_of, score, told_of
from compress_explain.data.entities import entities
from compress_explain.data.examples import Tags
from compress_explain.data.loading import DataSpec, encode_splits, load_examples
from compress_explain.data.slices import SliceRule
from compress_explain.editing.masks import Masks
from compress_explain.errors import InputError
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import infer_task, load_subject
from compress_explain.pricing.joint import expected_joint, observed_joint
from tests.small_job import tiny_tokenizer
from tests.tagged import TAGS, tagged
from tests.tiny import VOCABULARY, tiny_examples, tiny_model

# Entities


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O O", set()),
        ("B-PER I-PER O", {("PER", 0, 1)}),
        ("B-PER B-PER", {("PER", 0, 0), ("PER", 1, 1)}),
        ("I-PER I-PER", {("PER", 0, 1)}),  # begins without a B
        ("B-PER I-LOC", {("PER", 0, 0), ("LOC", 1, 1)}),  # an I of another type begins its own
        ("O I-LOC O I-LOC", {("LOC", 1, 1), ("LOC", 3, 3)}),
        ("B-PER I-PER B-LOC I-LOC I-LOC", {("PER", 0, 1), ("LOC", 2, 4)}),
        ("NOUN NOUN VERB", {("NOUN", 0, 1), ("VERB", 2, 2)}),  # no prefixes: runs of one tag
        ("B-ORG-x I-ORG-x", {("ORG-x", 0, 1)}),
        ("", set()),
    ],
)
def test_entities_of_a_row(tags, expected):
    assert entities(tags.split()) == expected


def pairs_of(rows: list[tuple[str, str, str]]) -> Pairs:
    """Rows of tags: right, the original's, the compressed model's."""
    names = ("O", "B-X", "I-X", "B-Y", "I-Y")
    numbers = [[[names.index(tag) for tag in part.split()] for part in row] for row in rows]
    right, *guesses = (np.concatenate([row[side] for row in numbers]) for side in range(3))
    owners = np.repeat(np.arange(len(rows)), [len(row[0]) for row in numbers])
    original, compressed = (4 * np.eye(len(names), dtype=np.float32)[guess] for guess in guesses)
    return Pairs(
        split="test", digest="d", labels=right, original=original, compressed=compressed,
        slices={"all": np.ones(len(right), dtype=bool), "first": owners == 0}, task="token-classification",
        rows=owners, places=np.concatenate([np.arange(len(row[0])) for row in numbers]), names=names,
    )  # fmt: skip


def told(pairs: Pairs, metric: str, slice_name: str = "all"):
    [chosen] = [each for each in metrics_of(pairs.task) if each.name == metric]
    return score(pairs, chosen, slice_name, 0.90)


def test_entity_f1_by_hand():
    pairs = pairs_of(
        [
            ("B-X I-X O", "B-X I-X O", "B-X O O"),  # the compressed model cuts it short: wrong
            ("B-Y O B-X", "B-Y O O", "B-Y O B-X"),  # the original misses one
            ("O O O", "B-X O O", "O O O"),  # and finds one that is none
        ]
    )
    f1 = told(pairs, "entity_f1")
    assert f1.original == pytest.approx(2 * 2 / (3 + 3))  # 2 right of 3 found, 3 to be found
    assert f1.compressed == pytest.approx(2 * 2 / (3 + 3))
    assert f1.n == 3 and f1.unit == "share"
    accuracy = told(pairs, "accuracy")
    assert (accuracy.original, accuracy.compressed) == (pytest.approx(7 / 9), pytest.approx(8 / 9))
    flips = told(pairs, "negative_flips")
    assert flips.compressed == pytest.approx(1 / 9) and flips.low >= 0
    assert told(pairs, "entity_f1", "first").compressed == 0.0


def test_f1_of_no_entities_is_no_figure():
    f1 = told(pairs_of([("O O", "O O", "B-X O"), ("O", "O", "O")]), "entity_f1")
    assert np.isnan(f1.original) and np.isnan(f1.compressed) and np.isnan(f1.low)


def test_rows_are_drawn_not_words():
    """Words of a row that flip together are one observation: the interval is as wide as that of rows."""
    generator = np.random.default_rng(0)
    wrong = generator.random(60) < 0.3
    rows = [("O " * 20, "O " * 20, ("B-X " if flag else "O ") * 20) for flag in wrong]
    accuracy = told(pairs_of(rows), "accuracy")
    width = accuracy.high - accuracy.low
    assert width == pytest.approx(2 * 1.645 * wrong.std() / np.sqrt(60), rel=0.15)
    assert accuracy.difference == pytest.approx(-wrong.mean())


def test_where_nothing_differs_certainty_is_not_claimed():
    accuracy = told(pairs_of([("O B-X", "O B-X", "O B-X")] * 50), "accuracy")
    assert accuracy.low == pytest.approx(-(1 - 0.05 ** (1 / 50))) and accuracy.high == -accuracy.low
    assert accuracy.compressed_high == 1.0 and accuracy.compressed_low < 1.0


@pytest.mark.parametrize("metric", [metric.name for metric in metrics_of("token-classification")])
def test_an_interval_holds_its_estimate(metric):
    generator = np.random.default_rng(1)
    tags = ["O", "B-X", "I-X", "B-Y"]
    rows = [tuple(" ".join(generator.choice(tags, 6)) for _ in range(3)) for _ in range(40)]
    each = told(pairs_of(rows), metric)
    assert each.low <= each.difference <= each.high
    assert each.compressed_low <= each.compressed <= each.compressed_high


def test_pairs_of_words_are_saved_whole(tmp_path):
    pairs = pairs_of([("B-X I-X O", "B-X I-X O", "B-X O O"), ("O O", "O O", "O O")])
    pairs.save(tmp_path / "pairs.parquet")
    again = Pairs.load(tmp_path / "pairs.parquet")
    assert again.task == "token-classification" and again.names == pairs.names and again.independent == 2
    for name in ("labels", "original", "compressed", "rows", "places", "original_right"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pairs, name))


def test_what_can_be_told_depends_on_the_task():
    assert told_of("text-classification", [*METRIC_NAMES, "mine"]) == {
        "accuracy", "macro_f1", "nll", "brier", "negative_flips", "positive_flips", "balanced_accuracy", "macro_precision",
        "macro_recall", "mcc", "auroc", "average_precision", "mine",
    }  # fmt: skip
    assert "entity_f1" in told_of("token-classification", METRIC_NAMES)
    assert told_of("text-generation", METRIC_NAMES) >= {"perplexity", "nll"}


# Reading rows


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    from transformers import BertConfig, BertForTokenClassification

    folder = tmp_path_factory.mktemp("tagger")
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, id2label=dict(enumerate(TAGS)), label2id={tag: n for n, tag in enumerate(TAGS)},
    )  # fmt: skip
    BertForTokenClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert infer_task(str(folder)) == "token-classification"
    return load_subject(str(folder), "token-classification")


def read(frame: pd.DataFrame, folder: Path, subject, **options):
    frame.to_parquet(folder / "rows.parquet")
    rules = options.pop("rules", [])
    return load_examples(str(folder / "rows.parquet"), rules, subject, input="tokens", label="tags", **options)


def test_the_first_token_of_each_word_answers_for_it(subject, tmp_path):
    frame = pd.DataFrame({"tokens": [["the", "good-film", "bad"]], "tags": [["O", "B-GOOD", "B-BAD"]]})
    examples = read(frame, tmp_path, subject)
    assert examples.inputs["input_ids"][0].shape == (7,)  # [CLS] the good - film bad [SEP]
    assert examples.tags.ids[0].tolist() == [-1, 0, 1, -1, -1, 3, -1]
    assert right_answers(examples).tolist() == [0, 1, 3] and places(examples).tolist() == [0, 1, 2]
    assert examples.decisions.tolist() == [3] and examples.counts == {"all": 3}
    batch = next(examples.batches(1))
    targets, valid = examples.targets(batch)
    assert targets[valid].tolist() == [0, 1, 3]


def test_lists_texts_and_numbers_are_read_alike(subject, tmp_path):
    frame = tagged(6, seed=0)
    lists = read(frame, tmp_path, subject)
    texts = frame.assign(tokens=frame["tokens"].str.join(" "), tags=frame["tags"].str.join("  "))
    numbers = frame.assign(tags=[[TAGS.index(tag) for tag in row] for row in frame["tags"]])
    for other in (read(texts, tmp_path, subject), read(numbers, tmp_path, subject)):
        assert other.digest == lists.digest and other.texts == lists.texts
    changed = frame.assign(
        tags=[["O", *row[1:]] if number else ["B-BAD", *row[1:]] for number, row in enumerate(frame["tags"])]
    )
    assert read(changed, tmp_path, subject).digest != lists.digest


def test_words_that_are_cut_off_are_not_decided_on(subject, tmp_path):
    examples = read(tagged(6, seed=0), tmp_path, subject, max_length=6)
    assert examples.truncated == 6 and examples.decisions.max() == 4
    assert len(right_answers(examples)) == examples.decisions.sum()


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, r"row 1 has 2 words and 1 tags.*give one in tags for each in tokens"),
        (
            {"tokens": ["a"], "tags": ["B-UGLY"]},
            r"'B-UGLY': the model knows no such tag \(row 1\).*its tags are 0 \(O\), 1",
        ),
        ({"tokens": ["a"], "tags": []}, "row 1 has nothing in tags"),
        ({"tokens": [], "tags": ["O"]}, "row 1 of tokens holds no words"),
        ({"tokens": ["a b"], "tags": ["O"]}, "row 1 of tokens has a word with a space in it.*split it"),
    ],
)
def test_a_bad_row_is_told_in_one_message(row, problem, subject, tmp_path):
    frame = pd.DataFrame([{"tokens": ["good", "film"], "tags": ["B-GOOD", "O"]}, row])
    with pytest.raises(InputError, match=problem):
        read(frame, tmp_path, subject)


def test_bad_columns_and_slices_are_told(subject, tmp_path):
    frame = tagged(4, seed=0)
    with pytest.raises(InputError, match="data.label: 'tags': no such column in data"):
        read(frame.rename(columns={"tags": "ner_tag"}), tmp_path, subject)
    with pytest.raises(InputError, match="all words have one and the same tag"):
        read(frame.assign(tags=[["O"] * len(row) for row in frame["tags"]]), tmp_path, subject)
    with pytest.raises(InputError, match="its values are of words, and a slice is of rows"):
        read(frame, tmp_path, subject, rules=[SliceRule(name="tag", column="tags")])
    with pytest.raises(InputError, match="predicts no tokens"):
        read(frame, tmp_path, subject, rules=[SliceRule(name="rare", token="frequency", quantiles=3)])
    with pytest.raises(InputError, match="row 0 has nothing in tokens"):
        read(frame.assign(tokens=[" ", *frame["tokens"][1:].str.join(" ")]), tmp_path, subject)
    with pytest.raises(InputError, match="row 0 of tokens holds no words"):
        read(frame.assign(tokens=range(4)), tmp_path, subject)


def test_rows_that_stand_in_two_splits_are_refused(subject):
    frames = {name: tagged(8, seed) for seed, name in enumerate(("calibration", "validation", "test"))}
    frames["test"] = frames["validation"]
    spec = DataSpec(calibration="c", validation="v", test="t", input="tokens", label="tags")
    with pytest.raises(InputError, match="8 of its 8 rows also stand in test"):
        encode_splits(frames, spec, [], subject)


# What is decided


def tagged_examples(rows: int = 12):
    """Random rows with a random tag on some of their tokens."""
    examples = tiny_examples("bert", rows=rows)
    generator = np.random.default_rng(3)
    ids = [
        np.where(generator.random(len(row)) < 0.7, generator.integers(0, 3, len(row)), -1)
        for row in examples.inputs["input_ids"]
    ]
    for row in ids:
        row[0] = 1
    found = [np.flatnonzero(row >= 0) for row in ids]
    return replace(
        examples, tokenwise=True, task="token-classification", labels=np.zeros(rows, dtype=np.int64),
        tags=Tags(names=("a", "b", "c"), ids=ids, places=found),
    )  # fmt: skip


@pytest.fixture(scope="module")
def tagger():
    from transformers import BertConfig, BertForTokenClassification

    source = tiny_model("bert")
    config = BertConfig(**{**source.config.to_dict(), "num_labels": 3})
    torch.manual_seed(0)
    model = BertForTokenClassification(config).eval()
    return model


def test_every_decision_is_kept_in_the_order_of_the_rows(tagger):
    examples = tagged_examples()
    decided = decide_all(logits_of(tagger), examples, 5)
    expected = []
    for batch in (next(examples.batches(1, np.array([row]))) for row in range(len(examples))):
        with torch.inference_mode():
            expected.append(tagger(**batch.inputs).logits[0][torch.from_numpy(examples.tags.ids[batch.rows[0]]) >= 0])
    np.testing.assert_allclose(decided.logits, torch.cat(expected).numpy(), atol=1e-5)
    pairs = paired(examples, decided, decided)
    assert len(pairs) == examples.decisions.sum() and pairs.independent == len(examples)


def test_one_decision_of_each_row_is_drawn_once_and_for_all(tagger):
    examples = tagged_examples(40)
    drawn = {}
    for size in (40, 7):
        for batch in examples.batches(size):
            index = torch.arange(batch.inputs["input_ids"].shape[1]).float()[None, :, None]
            place, label = examples.one_each(batch, index.expand(len(batch.rows), -1, 1))
            for row, at, right in zip(batch.rows, place[:, 0].long().tolist(), label.tolist(), strict=True):
                assert examples.tags.ids[row][at] == right
                assert drawn.setdefault(row, at) == at
    assert len(set(drawn.values())) > 3


def test_what_is_expected_of_a_plan_has_the_slope_of_what_it_does(tagger):
    """Of weights this small every plan is nearly linear, and expected and observed meet."""
    examples = tagged_examples()
    anatomy = read_anatomy(tagger, tokens=9)
    with torch.no_grad():
        tagger.classifier.weight.mul_(20)
    original = decide_all(logits_of(tagger), examples, 5)
    with Masks(tagger, anatomy) as masks:
        components = [each for group in anatomy.groups.values() for each in group.components[::2]]
        expected = expected_joint(masks, examples, components, original.logits, 5)["all"]
        masks.remove(components)
        removed = decide_all(logits_of(tagger), examples, 5)
        observed = observed_joint(paired(examples, original, original), paired(examples, original, removed))
        back = expected_joint(masks, examples, components, removed.logits, 5)["all"]
    assert observed.kl > 1e-5
    assert expected.loss_change == pytest.approx(observed.loss_change, rel=1e-3)
    assert expected.kl == pytest.approx(observed.kl, rel=1e-3)
    assert back.loss_change == pytest.approx(-observed.loss_change, rel=1e-3)
    assert (expected.n, expected.flips_to_wrong) == (observed.n, observed.flips_to_wrong)


@pytest.mark.parametrize("unit", ["encoder.layer.1", "encoder.layer.0.ffn"])
def test_what_one_sublayer_or_layer_is_expected_to_do_is_what_it_does(tagger, unit):
    examples, anatomy = tagged_examples(), read_anatomy(tagger, tokens=9)
    with Masks(tagger, anatomy) as masks:
        original = decide_all(logits_of(tagger), examples, 5)
        expected = expected_joint(masks, examples, [unit], original.logits, 5)["all"]
        masks.remove([unit])
        removed = decide_all(logits_of(tagger), examples, 5)
        back = expected_joint(masks, examples, [unit], removed.logits, 5)["all"]
    there, here = paired(examples, original, original), paired(examples, original, removed)
    for joint, observed in ((expected, observed_joint(there, here)), (back, observed_joint(here, there))):
        assert abs(observed.loss_change) > 1e-5 and joint.n == observed.n == examples.decisions.sum()
        assert joint.loss_change == pytest.approx(observed.loss_change, abs=1e-6)
        assert joint.kl == pytest.approx(observed.kl, abs=1e-6)


# A vocabulary


def language_examples():
    return replace(
        tiny_examples("gpt2", rows=10), tokenwise=True, task="text-generation", labels=np.zeros(10, dtype=np.int64)
    )


def test_of_a_vocabulary_the_loss_is_exact_and_little_is_kept(tmp_path):
    examples, model = language_examples(), tiny_model("gpt2", generates=True)
    other = tiny_model("gpt2", generates=True, seed=1)
    original = decide_all(logits_of(model), examples, 4)
    compressed = decide_all(logits_of(other), examples, 4, choices=original.choices)
    pairs = paired(examples, original, compressed)
    assert original.logits.shape == (examples.decisions.sum(), 8) and VOCABULARY > 8
    for each, side, guesses in (
        (model, "original", pairs.original_guesses),
        (other, "compressed", pairs.compressed_guesses),
    ):
        losses, right = [], []
        for row in range(len(examples)):
            ids = torch.from_numpy(examples.inputs["input_ids"][row])
            with torch.inference_mode():
                logits = each(input_ids=ids[None]).logits[0, :-1]
            losses.append(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none"))
            right.append(logits.argmax(-1))
        [nll] = [metric for metric in metrics_of("text-generation") if metric.name == "nll"]
        [perplexity] = [metric for metric in metrics_of("text-generation") if metric.name == "perplexity"]
        mean = float(torch.cat(losses).mean())
        assert getattr(score(pairs, nll, "all", 0.9), side) == pytest.approx(mean, rel=1e-5)
        assert getattr(score(pairs, perplexity, "all", 0.9), side) == pytest.approx(np.exp(mean), rel=1e-5)
        np.testing.assert_array_equal(guesses, torch.cat(right).numpy())
    pairs.save(tmp_path / "pairs.parquet")
    again = Pairs.load(tmp_path / "pairs.parquet")
    np.testing.assert_array_equal(again.compressed_right, pairs.compressed_right)
    np.testing.assert_array_equal(again.decided.choices, original.choices)
    assert observed_joint(paired(examples, original, original), pairs).kl > 0
    assert json.dumps(again.names) == "[]"
