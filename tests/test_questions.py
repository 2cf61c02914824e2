"""Questions and answers: how rows are read, what is decided and told, prices, whole runs, and the errors that teach."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
import yaml
from mlflow.models import Model

from compress_explain.cli import _guarded, app
from compress_explain.comparison.decided import decide_all, right_answers
from compress_explain.comparison.predictions import Pairs, logits_of, paired
from compress_explain.comparison.scores import metrics_of, score, told_of
from compress_explain.config import load_config
from compress_explain.data.loading import DataSpec, encode_splits, load_examples
from compress_explain.data.questions import asked, exact_match, flattened, normalised, token_f1
from compress_explain.data.slices import SliceRule
from compress_explain.data.spans import ELSEWHERE, locate
from compress_explain.editing.masks import Masks
from compress_explain.editing.surgery import materialize
from compress_explain.errors import InputError
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import infer_task, load_subject
from compress_explain.pricing import price
from compress_explain.pricing.joint import expected_joint, observed_joint
from compress_explain.progress import Progress
from compress_explain.record.checkpoint import load_compressed
from compress_explain.record.outcome import Run
from compress_explain.record.replay import replay
from compress_explain.registry import served
from compress_explain.strategies import Distill, Vocabulary
from compress_explain.terminal.commands import build_job, load_inputs
from tests.asked import HEADS, LIMIT, as_json, asked_rows, asking_job, asking_tokenizer, finder, flat, nested
from tests.tiny import MODELS, uneven_removal

# Answers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat!", "cat"),
        ("a cat,  an owl and the   dog", "cat owl and dog"),
        ("  theatre another ", "theatre another"),  # articles are whole words
        ("U.S.A.", "usa"),
        ("The", ""),
        ("naïve café", "naïve café"),
    ],
)
def test_answers_are_compared_by_their_words(text, expected):
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("found", "right", "exact", "f1"),
    [
        ("the Eiffel Tower", ("Eiffel tower.",), 1, 1),
        ("Eiffel", ("Eiffel Tower",), 0, 2 / 3),
        ("big big dog", ("big dog",), 0, 2 * 2 / 5),  # a word counts as often as both have it
        ("Paris", ("Rome", "in Paris"), 0, 2 / 3),  # the answer that suits best
        ("Paris", ("",), 0, 0),
        ("", ("",), 1, 1),
        ("the", ("",), 1, 1),
    ],
)
def test_exact_match_and_f1_by_hand(found, right, exact, f1):
    assert exact_match(found, right) == exact and token_f1(found, right) == pytest.approx(f1)


# Reading rows


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finder")
    finder("bert").save_pretrained(folder)
    asking_tokenizer().save_pretrained(folder)
    assert infer_task(str(folder)) == "question-answering"
    return load_subject(str(folder), "question-answering")


ANSWERED = asked_rows(6, seed=0, unanswered=0.0)
SPEC = DataSpec(calibration="c", validation="v", test="t", input="question", label="answers")


def encoded(subject, frame: pd.DataFrame, rules=(), **options):
    """The test split of made-up rows; the others hold rows of their own."""
    frames = {"calibration": asked_rows(4, seed=8, unanswered=0.0), "validation": asked_rows(4, seed=9, unanswered=0.0)}
    return encode_splits({**frames, "test": frame}, replace(SPEC, **options), list(rules), subject).test


def test_all_forms_of_answers_are_read_alike(subject, tmp_path):
    flat(ANSWERED).to_csv(tmp_path / "rows.csv", index=False)
    ANSWERED.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    ANSWERED.to_parquet(tmp_path / "rows.parquet")
    as_json(ANSWERED, tmp_path / "rows.json")
    ANSWERED.assign(answers=[json.dumps(each) for each in ANSWERED["answers"]]).to_csv(
        tmp_path / "json.csv", index=False
    )
    listed = [[{"text": each["text"][0], "answer_start": each["answer_start"][0]}] for each in ANSWERED["answers"]]
    ANSWERED.assign(answers=listed).to_json(tmp_path / "listed.json", orient="records")
    names = ("rows.csv", "rows.jsonl", "rows.parquet", "rows.json", "json.csv", "listed.json")
    read = [load_examples(str(tmp_path / name), [], subject, input="question", label="answers") for name in names]
    assert len({each.digest for each in read}) == 1
    assert read[0].texts == tuple(ANSWERED["question"])
    assert flattened(nested(ANSWERED))[0]["answers"] == ANSWERED["answers"][0]


def test_answers_stand_where_their_tokens_do(subject):
    frame = pd.DataFrame(
        {"question": ["was the film good ?", "very ?"], "context": ["the good,  fine plot", "dull and grim"],
         "answers": [{"text": ["good,  fine"], "answer_start": [4]}, {"text": ["grim"], "answer_start": [9]}]}
    )  # fmt: skip
    examples = encoded(subject, frame)
    names = {index: token for token, index in subject.processor.get_vocab().items()}
    for row, words in ((0, ["good", "[UNK]", "fine"]), (1, ["grim"])):
        first, last = examples.tags.ids[row]
        ids = examples.inputs["input_ids"][row]
        assert [names[int(each)] for each in ids[first : last + 1]] == words
    assert examples.decisions.tolist() == [2, 2] and right_answers(examples).tolist() == [8, 10, 6, 6]
    assert examples.spans.text(0, 8, 10) == "good,  fine" and examples.spans.characters(0, 8, 10) == (4, 15)
    allowed = examples.spans.allowed
    assert allowed.sum(1).tolist() == [5, 3] and not allowed[:, 0].any()
    assert encoded(subject, frame, empty_answers="allow").spans.allowed[:, 0].all()


def test_what_was_cut_away_is_left_out_and_counted(subject):
    long = "the plot was quite a film " * 4
    rows = [
        {"question": "was it good ?", "context": long + "good", "answers": {"text": ["good"], "answer_start": [len(long)]}},
        {"question": "was it bad ?", "context": "bad " + long + "poor",
         "answers": {"text": ["poor", "bad"], "answer_start": [4 + len(long), 0]}},
    ]  # fmt: skip
    examples = encoded(
        subject, pd.DataFrame(rows), max_length=20, rules=[SliceRule(name="all words", where="words > 0")]
    )
    assert (len(examples), examples.left_out, examples.truncated) == (1, 1, 2)
    assert examples.texts == ("was it bad ?",) and examples.lengths.tolist() == [20]
    assert right_answers(examples).tolist() == [6, 6]  # the first of the right answers that is there
    assert examples.spans.answers == [("poor", "bad")] and examples.slices["all words"].tolist() == [True]
    with pytest.raises(InputError, match="in none of 1 rows is the answer among the 20 tokens"):
        encoded(subject, pd.DataFrame(rows[:1]), max_length=20)
    with pytest.raises(InputError, match="texts have more than the 20 tokens"):
        encoded(subject, pd.DataFrame(rows), max_length=20, long_text="refuse")


GOOD_ROW = {"question": "good ?", "context": "a good film", "answers": {"text": ["good"], "answer_start": [2]}}


SECOND_ROW = {"question": "good ?", "context": "the good film", "answers": {"text": ["good"], "answer_start": [4]}}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"answers": {"text": ["good"], "answer_start": [3]}}, "row 1: the text does not have this answer at character 3"),
        ({"answers": {"text": ["good"], "answer_start": [-9]}}, "at character -9.*correct answer_start, counted from 0"),
        ({"answers": {"text": [], "answer_start": []}}, "row 1 has no answer.*set data.empty_answers to allow"),
        ({"answers": {"text": ["good", "film"], "answer_start": [2]}}, "row 1 of answers has 2 answers and 1 places of them"),
        ({"answers": {"texts": ["good"]}}, "row 1 of answers holds no answer"),
        ({"answers": "good"}, "row 1 does not say where its answer begins.*in answer_start"),
        ({"answers": 7}, "7: row 1 of answers holds no answer"),
        ({"context": " "}, "row 1 has nothing in context to find an answer in"),
        ({"context": None}, "row 1 has nothing in context to find an answer in"),
        ({"question": None}, r"1 rows have no input \(first: row 1\)"),
        ({"question": "very " * LIMIT}, "the question of row 1 has 40 tokens, which leaves none of 40 for its text"),
    ],
)  # fmt: skip
def test_a_bad_row_is_told_in_one_message(row, problem, subject):
    with pytest.raises(InputError, match=problem):
        encoded(subject, pd.DataFrame([GOOD_ROW, {**SECOND_ROW, **row}]))


def test_bad_columns_slices_and_overlaps_are_told(subject, tmp_path):
    ANSWERED.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="data.label: 'label': no such column"):
        load_examples(str(tmp_path / "rows.parquet"), [], subject, input="question")
    with pytest.raises(InputError, match="data.context: 'text': no such column in data.calibration"):
        encoded(subject, ANSWERED, context="text")
    with pytest.raises(InputError, match="its values are answers, and a slice is of rows"):
        encoded(subject, ANSWERED, rules=[SliceRule(name="answer", column="answers")])
    with pytest.raises(InputError, match="predicts no tokens"):
        encoded(subject, ANSWERED, rules=[SliceRule(name="rare", token="frequency", quantiles=3)])
    with pytest.raises(InputError, match="4 of its 4 rows also stand in test"):
        encoded(subject, asked_rows(4, seed=9, unanswered=0.0))
    same_questions = asked_rows(40, seed=5, unanswered=0.0)  # of which there are two, about 40 texts
    assert len(encoded(subject, same_questions)) == 40
    (tmp_path / "rows.json").write_text('{"version": "2.0", "data": [{"paragraphs": [{"text": "a"}]}]}')
    with pytest.raises(InputError, match="neither a list of rows nor questions in the form of SQuAD"):
        load_examples(str(tmp_path / "rows.json"), [], subject, input="question", label="answers")


def test_models_that_do_not_find_answers_are_refused(tmp_path):
    from transformers import GPT2Config, GPT2ForQuestionAnswering

    options = MODELS["gpt2"].options
    GPT2ForQuestionAnswering(GPT2Config(**options)).save_pretrained(tmp_path)
    asking_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match="gpt2 is no encoder of text, and answers are found with those only.*bert, deberta-v2"
    ):
        load_subject(str(tmp_path), "question-answering")
    MODELS["bert"].classifier(MODELS["bert"].config(**MODELS["bert"].options)).save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="no trained head for question-answering"):
        load_subject(str(tmp_path / "bert"), "question-answering")


# What is decided


@pytest.mark.parametrize("empty", [False, True])
def test_the_best_span_is_the_largest_sum_of_all_that_are_allowed(empty):
    tokenizer, generator = asking_tokenizer(), np.random.default_rng(0)
    frame = asked_rows(30, seed=2, unanswered=0.0)
    given = asked(frame, "data", ("context", "answers"), "refuse")
    spans = locate(tokenizer, frame["question"].tolist(), given, LIMIT, empty=empty, longest=3, where="data").spans
    logits = generator.normal(size=(2 * len(frame), spans.width)).astype(np.float32)
    logits[:30, 0] += 2.5  # no answer is likely in half of the rows
    chosen = []
    for row in range(len(frame)):
        start, end = logits[2 * row], logits[2 * row + 1]
        sums = {(0, 0): start[0] + end[0]} if empty else {}
        inside = [token for token in range(spans.width) if spans.allowed[row, token] and token]
        sums |= {(i, j): start[i] + end[j] for i in inside for j in inside if 0 <= j - i < 3}
        chosen.append(spans.chosen(row, start, end))
        assert chosen[-1] == max(sums, key=sums.get)
    assert ((0, 0) in chosen) is empty
    assert spans.text(0, 0, 0) == ""


@pytest.fixture(scope="module")
def split(subject):
    return encoded(subject, asked_rows(18, seed=6), empty_answers="allow", longest_answer=5)


def test_distributions_are_over_the_tokens_where_an_answer_can_lie(subject, split):
    decided = decide_all(logits_of(subject.model), split, 5)
    assert decided.logits.shape == (2 * len(split), split.spans.width)
    for row in (0, 7):
        ids = {name: torch.from_numpy(values[row][None]) for name, values in split.inputs.items()}
        with torch.inference_mode():
            output = subject.model(**ids)
        for number, expected in enumerate((output.start_logits, output.end_logits)):
            found, inside = decided.logits[2 * row + number], split.spans.allowed[row]
            np.testing.assert_allclose(found[inside], expected[0].numpy()[inside[: expected.shape[1]]], atol=1e-5)
            assert (found[~inside] == ELSEWHERE).all() and inside.sum() < expected.shape[1]
    pairs = paired(split, decided, decided)
    assert pairs.independent == len(split) and len(pairs) == 2 * len(split)
    np.testing.assert_allclose(pairs.original_probabilities[~split.spans.allowed.repeat(2, 0)], 0, atol=0)


def test_what_is_told_of_answers_is_told_of_rows(subject, split, tmp_path):
    one, two = (decide_all(logits_of(model), split, 5) for model in (subject.model, finder("bert", seed=1)))
    pairs = paired(split, one, two)
    answers = [split.spans.found(each.logits) for each in (one, two)]
    right = split.spans.answers
    table = {metric.name: score(pairs, metric, "all", 0.9) for metric in metrics_of("question-answering")}
    for side, found in zip(("original", "compressed"), answers, strict=True):
        exact = np.mean([exact_match(*each) for each in zip(found, right, strict=True)])
        assert getattr(table["exact_match"], side) == pytest.approx(exact)
        f1 = np.mean([token_f1(*each) for each in zip(found, right, strict=True)])
        assert getattr(table["token_f1"], side) == pytest.approx(f1)
    same = np.mean([normalised(was) == normalised(now) for was, now in zip(*answers, strict=True)])
    agreement = table["agreement"]
    assert (agreement.original, agreement.compressed) == (1, pytest.approx(same)) and agreement.low <= same - 1
    losses = [-np.log(pairs.compressed_probabilities[np.arange(len(pairs)), pairs.labels])[half::2] for half in (0, 1)]
    assert table["nll"].compressed == pytest.approx(np.mean((losses[0] + losses[1]) / 2), rel=1e-6)
    assert all(each.n == len(split) for each in table.values())
    pairs.save(tmp_path / "pairs.parquet")
    again = Pairs.load(tmp_path / "pairs.parquet")
    assert all(score(again, metric, "all", 0.9) == table[metric.name] for metric in metrics_of("question-answering"))
    assert told_of("question-answering", ["exact_match", "macro_f1", "mine"]) == {"exact_match", "mine"}


@pytest.fixture(scope="module")
def gentle(subject):
    """A model of which every plan is nearly linear: attention and feed-forward add little."""
    model = copy.deepcopy(subject.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("output.dense.weight"):
                parameter.mul_(0.01)
    return model


def test_what_is_expected_of_a_plan_has_the_slope_of_what_it_does(gentle, split):
    anatomy = read_anatomy(gentle, tokens=split.tokens)
    original = decide_all(logits_of(gentle), split, 5)
    with Masks(gentle, anatomy) as masks:
        components = [each for group in anatomy.groups.values() for each in group.components[::2]]
        expected = expected_joint(masks, split, components, original.logits, 5)["all"]
        masks.remove(components)
        removed = decide_all(logits_of(gentle), split, 5)
        observed = observed_joint(paired(split, original, original), paired(split, original, removed))
    assert observed.kl > 1e-6 and expected.n == observed.n == 2 * len(split)
    assert expected.loss_change == pytest.approx(observed.loss_change, rel=0.02)
    assert expected.kl == pytest.approx(observed.kl, rel=0.05)


def test_a_price_is_the_mean_over_both_bounds(gentle, split):
    """Many projections of a nearly linear model: the price of each head is what switching it off does."""
    anatomy = read_anatomy(gentle, tokens=split.tokens)
    original = decide_all(logits_of(gentle), split, 6)
    with Masks(gentle, anatomy) as masks:
        prices = price(masks, split, kinds=("head",), batch_size=6, projections=64)
        assert prices.counts[0] == 2 * len(split) and prices.methods[0] == "gauss-newton-64"
        loss, kl = [], []
        for component in prices.components:
            masks.remove([component])
            removed = decide_all(logits_of(gentle), split, 6)
            masks.restore([component])
            now = observed_joint(paired(split, original, original), paired(split, original, removed))
            loss.append(now.loss_change)
            kl.append(now.kl)
    np.testing.assert_allclose(prices.values["loss_change"][0], loss, rtol=0.1, atol=1e-4)
    assert np.corrcoef(prices.values["kl"][0], kl)[0, 1] > 0.98
    assert prices.values["kl"][0].sum() == pytest.approx(sum(kl), rel=0.15)


def test_whole_sublayers_are_priced_by_what_they_do(subject, split):
    anatomy = read_anatomy(subject.model, tokens=split.tokens)
    original = decide_all(logits_of(subject.model), split, 6)
    with Masks(subject.model, anatomy) as masks:
        prices = price(masks, split, kinds=("sublayer",), batch_size=6)
        masks.remove([prices.components[1]])
        removed = decide_all(logits_of(subject.model), split, 6)
    observed = observed_joint(paired(split, original, original), paired(split, original, removed))
    assert prices.values["loss_change"][0, 1] == pytest.approx(observed.loss_change, rel=1e-4, abs=1e-6)
    assert prices.values["kl"][0, 1] == pytest.approx(observed.kl, rel=1e-4)


@pytest.mark.parametrize("family", HEADS)
def test_every_family_with_such_a_head_is_cut_as_it_is_masked(family, split):
    model = finder(family)
    ours = replace(split, inputs={name: split.inputs[name] for name in ("input_ids", "attention_mask")})
    anatomy = read_anatomy(model, tokens=ours.tokens)
    removed = uneven_removal(anatomy)
    with Masks(model, anatomy) as masks:
        original = decide_all(logits_of(model), ours, 6)
        prices = price(masks, ours.draw(6, seed=0), batch_size=6, projections=1)
        for name, flags in removed.items():
            masks.remove([anatomy.groups[name].components[index] for index in flags.nonzero().flatten().tolist()])
        masked = decide_all(logits_of(model), ours, 6)
    cut = decide_all(logits_of(materialize(model, anatomy, removed)), ours, 6)
    np.testing.assert_allclose(cut.logits, masked.logits, atol=2e-4)
    assert np.abs(masked.logits - original.logits).max() > 0.01
    assert np.isfinite(prices.values["kl"]).all() and (prices.values["kl"] > 0).any()


# Whole runs


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return asking_job(tmp_path_factory.mktemp("asked"))


@pytest.fixture(scope="module")
def finished(job):
    """Carried out by the command line, in eight bits: an ONNX file is judged."""
    assert call("run", job, "--out", str(job / "out"), *INT8) in (0, 3)
    return Run(job / "out")


INT8 = (
    "--set",
    "strategies=[{heads: {share: 0.5, rounds: 1}}, {neurons: {share: 0.7, rounds: 1}}, {int8_dynamic: {}}]",
)


def call(command: str, folder: Path, *arguments: str) -> int:
    files = [
        part
        for path in folder.iterdir() if path.stem in ("calibration", "validation", "test")
        for part in ("--set", f"data.{path.stem}={path}")
    ]  # fmt: skip
    given = [command, str(folder / "config.yaml"), "--set", f"model={folder / 'model'}", *files, *arguments]
    return _guarded(lambda: app(given, standalone_mode=False))


@pytest.fixture(scope="module")
def opened(job):
    """The job's model and splits."""
    config = configured(job)
    return load_inputs(config, Progress(quiet=True))


def configured(job: Path, *overrides: str):
    files = [f"data.{path.stem}={path}" for path in job.iterdir() if path.stem in ("calibration", "validation", "test")]
    return load_config(job / "config.yaml", [f"model={job / 'model'}", *files, *overrides])


def test_the_file_that_was_written_is_what_was_judged(finished, opened):
    splits = opened[1]
    pairs = Pairs.load(finished.folder / "predictions" / "artifact-test.parquet")
    assert len(pairs) == 2 * len(splits.test) and finished.summary["deployed"]["scheme"] == "int8-dynamic"
    session = onnxruntime.InferenceSession(finished.folder / "artifact" / "model.onnx")
    assert [each.name for each in session.get_outputs()] == ["start_logits", "end_logits"]
    for batch in splits.test.batches(20):
        feeds = {each.name: batch.inputs[each.name].numpy() for each in session.get_inputs()}
        logits = splits.test.decided_on(batch, torch.from_numpy(np.stack(session.run(None, feeds), 1))).numpy()
        for place, row in enumerate(batch.rows):
            np.testing.assert_allclose(pairs.compressed[2 * row : 2 * row + 2], logits[place], atol=0.05)


def test_it_has_learned_its_answers_and_keeps_them(finished):
    table = finished.scores.set_index(["metric", "slice"])
    assert table.loc[("exact_match", "all"), "original"] > 0.7
    assert table.loc[("exact_match", "all"), "compressed"] >= table.loc[("exact_match", "all"), "original"] - 0.2
    assert table.loc[("token_f1", "kind=good"), "compressed"] >= table.loc[("token_f1", "kind=good"), "original"] - 0.3
    assert {"source=web", "kind=bad"} <= set(table.index.get_level_values("slice"))
    assert sum(each["removed"] for each in finished.summary["components"].values()) > 0


def test_every_step_was_expected_and_observed(finished):
    steps = [stage for stage in finished.course if stage.observed is not None]
    assert steps
    for stage in steps:
        assert stage.expected["n"] == stage.observed["n"]
        assert all(np.isfinite(value) for value in (*stage.expected.values(), *stage.observed.values()))


def test_what_was_removed_is_gone_and_replays(finished, opened):
    model = load_compressed(finished.folder / "artifact")
    assert type(model).__name__ == "BertForQuestionAnswering"
    assert read_anatomy(model, tokens=9).parameters < finished.summary["parameters"]["original"]
    again = replay(opened[0].model, finished.folder).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_the_report_speaks_of_answers(finished):
    page = (finished.folder / "report.html").read_text()
    assert "bounds right → wrong" in page and "validation bounds both give the same answer" in page
    assert "token f1" in page.lower() and "exact match" in page.lower()


def test_mlflow_serves_answers_of_the_file_that_was_judged(finished, opened, tmp_path):
    served._save(finished, tmp_path / "model", Model())
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    inputs, expected = served.judged(finished.folder / "artifact")
    np.testing.assert_allclose(model.predict(inputs)[["nll"]].to_numpy(), expected, atol=1e-5)
    test = opened[1].test
    rows = pd.DataFrame({"question": test.texts, "context": test.spans.contexts})
    told = model.predict(rows)
    for found, context in zip(told.itertuples(), test.spans.contexts, strict=True):
        assert context[found.start : found.end] == found.answer
    pairs = Pairs.load(finished.folder / "predictions" / "artifact-test.parquet")
    exact = [exact_match(*each) for each in zip(told["answer"], test.spans.answers, strict=True)]
    assert np.mean(exact) == pytest.approx(
        pairs.spans.compressed_exact.mean(), abs=0.05
    )  # a row alone rounds otherwise
    assert 0 < (told["answer"] == "").sum() < len(told)


def test_a_finished_run_is_resumed_without_doing_anything_again(finished, job):
    assert call("run", job, "--out", str(job / "out"), "--resume", *INT8) in (0, 3)
    assert Run(job / "out").ledger.head == finished.ledger.head


@pytest.mark.exhaustive
def test_a_stopped_run_goes_on_where_it_stopped(finished, job, tmp_path):
    shutil.copytree(job / "out", tmp_path / "out")
    path = tmp_path / "out" / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    kinds = [json.loads(line)["kind"] for line in lines]
    path.write_text("".join(lines[: kinds.index("materialized")]))
    assert call("run", job, "--out", str(tmp_path / "out"), "--resume", *INT8) in (0, 3)
    again = Run(tmp_path / "out")
    assert again.summary["components"] == finished.summary["components"]
    pd.testing.assert_frame_equal(again.scores, finished.scores)


@pytest.fixture(scope="module")
def strict(job):
    """Carried out as a checkpoint, with gates that the removal alone does not meet."""
    overrides = ['gates=[{"metric": "token_f1", "max_drop": 0.05, "rule": "point"}]', "compensation=null",
                 "reinstatement.step=0.5", "reinstatement.max_share=1.0", "audit={heads: 0, neurons: 0}",
                 "strategies=[{heads: {share: 0.8, rounds: 1}}, {neurons: {share: 0.97, floor: 0.02, rounds: 1}}]"]  # fmt: skip
    assert call("run", job, "--out", str(job / "strict"), *(f"--set={each}" for each in overrides)) in (0, 1)
    return Run(job / "strict")


def test_gates_on_answers_bring_components_back(strict):
    judged = [record.body["verdicts"][0] for record in strict.ledger.of_kind("judged") if record.step != "artifact"]
    assert judged[0]["state"] == "fail" and judged[-1]["estimate"] > judged[0]["estimate"]
    back = strict.components[strict.components["status"] == "restored"]
    assert len(back) > 0 and back["restored_reason"].str.contains("slack for token_f1").all()


def test_a_checkpoint_is_compared_with_the_simulation_bound_by_bound(strict):
    beside = strict.summary["deployed"]["beside_masked"]
    assert beside["agreement"] == 1.0 and beside["logits"] < 1e-3 and abs(beside["change"]["loss_change"]) < 1e-5


@pytest.mark.parametrize("strategy", [Vocabulary(), Distill()], ids=lambda each: type(each).__name__)
def test_what_is_for_rows_is_refused_before_anything_is_priced(job, opened, strategy):
    with pytest.raises(InputError, match="question-answering answers for the bounds of answers, not for rows"):
        replace(build_job(configured(job), *opened), strategies=[strategy])


BAD_INPUT = {
    "a text without the answer": ("test.csv", lambda f: f.assign(context="nothing of it"), "does not have this answer"),
    "no place of the answer": (
        "test.csv",
        lambda f: f.drop(columns="answer_start"),
        "does not say where its answer begins",
    ),
    "no text": ("test.csv", lambda f: f.drop(columns="context"), "data.context: 'context': no such column"),
    "no answers": ("test.csv", lambda f: f.drop(columns="answers"), "data.label: 'answers': no such column"),
    "rows of validation": ("test.csv", lambda f: flat(asked_rows(40, 3)), "rows also stand in test"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_ends_with_one_message_and_nothing_written(case, job, tmp_path, capfd):
    name, edit, message = BAD_INPUT[case]
    shutil.copytree(job, tmp_path / "job", ignore=shutil.ignore_patterns("out", "strict"))
    edit(pd.read_csv(tmp_path / "job" / name, keep_default_na=False, na_values=[""])).to_csv(
        tmp_path / "job" / name, index=False
    )
    assert call("run", tmp_path / "job", "--out", str(tmp_path / "out")) == 2
    told = capfd.readouterr().err
    assert message in told and "Remedy" in told and "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_unanswered_questions_are_refused_unless_they_are_allowed(job, tmp_path, capfd):
    assert call("run", job, "--out", str(tmp_path / "out"), "--set", "data.empty_answers=refuse") == 2
    assert "set data.empty_answers to allow if the model was trained on such questions" in capfd.readouterr().err


def test_rows_that_are_left_out_are_told(job, tmp_path, capfd):
    code = call("plan", job, "--set", "data.max_length=13")
    told = capfd.readouterr()
    assert code == 0
    assert "rows of test are left out: their answer lies beyond the 13 tokens" in told.err + told.out


def test_a_starting_configuration_is_written(job, tmp_path):
    given = ["init", str(job / "model"), str(job / "validation.jsonl"), "--out", str(tmp_path / "config.yaml")]
    assert _guarded(lambda: app(given, standalone_mode=False)) == 0
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert written["task"] == "question-answering" and written["data"]["context"] == "context"
    assert load_config(tmp_path / "config.yaml", []).data.label == "answers"
