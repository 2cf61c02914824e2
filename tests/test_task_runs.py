"""Whole runs of models that decide on words and tokens: from the configuration to what MLflow serves, and again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from mlflow.models import Model

from compress_explain.comparison.predictions import Pairs
from compress_explain.config import load_config
from compress_explain.data.loading import load_examples
from compress_explain.data.slices import SliceRule
from compress_explain.errors import InputError
from compress_explain.model.anatomy import read_anatomy
from compress_explain.progress import Progress
from compress_explain.record.checkpoint import load_compressed
from compress_explain.record.outcome import Run
from compress_explain.record.replay import applied_plans, replay
from compress_explain.registry import served
from compress_explain.run import execute
from compress_explain.strategies import Distill, Vocabulary
from compress_explain.terminal.commands import build_job, load_inputs
from tests.small_job import tiny_tokenizer
from tests.tagged import generation_job, rewriting_job, rewritten, tagging_job
from tests.test_language_data import bare_tokenizer
from tests.tiny import MODELS


def made(folder: Path, overrides: list[str], out: str = "out") -> tuple[Run, Any, Any]:
    """The job of a folder, carried out; its model and data."""
    files = [
        f"data.{path.stem}={path}" for path in folder.iterdir() if path.stem in ("calibration", "validation", "test")
    ]
    config = load_config(folder / "config.yaml", [f"model={folder / 'model'}", *files, *overrides])
    subject, splits = load_inputs(config, Progress(quiet=True))
    run = execute(build_job(config, subject, splits), folder / out, Progress(quiet=True))
    return run, subject, splits


@pytest.fixture(scope="module")
def tagging(tmp_path_factory):
    return made(tagging_job(tmp_path_factory.mktemp("tagging")), ["runtime=onnx"])


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return generating("gpt2", tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return generating("llama", tmp_path_factory.mktemp("llama"))


def generating(family: str, folder: Path) -> tuple[Run, Any, Any]:
    """The run of a causal language model."""
    tiny = MODELS[family]
    torch.manual_seed(0)
    model = tiny.generator(tiny.config(**tiny.options))
    return made(generation_job(folder, model, bare_tokenizer()), ["runtime=onnx"])


@pytest.fixture(scope="module")
def rewriting(tmp_path_factory):
    """The run of a model that makes one text of another; no ONNX file is written of it."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "[SEP]"})
    torch.manual_seed(0)
    tokens = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0}
    model = MODELS["t5"].generator(MODELS["t5"].config(**{**MODELS["t5"].options, **tokens}))
    return made(rewriting_job(tmp_path_factory.mktemp("t5"), model, tokenizer), [])


@pytest.fixture(params=["tagging", "rewriting", "gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def finished(request):
    return request.getfixturevalue(request.param)


def test_the_file_that_was_written_is_what_was_judged(finished):
    run, _, splits = finished
    assert run.state in ("pass", "inconclusive") and run.summary["judged_split"] == "test"
    pairs = Pairs.load(run.folder / "predictions" / "artifact-test.parquet")
    assert len(pairs) == splits.test.decisions.sum() and pairs.independent == len(splits.test)
    batch = next(splits.test.batches(1, np.array([0])))
    if run.summary["deployed"]["runtime"] == "torch":
        with torch.inference_mode():
            logits = load_compressed(run.folder / "artifact")(**batch.inputs).logits.numpy()
    else:
        session = onnxruntime.InferenceSession(run.folder / "artifact" / "model.onnx")
        logits = session.run(None, {each.name: batch.inputs[each.name].numpy() for each in session.get_inputs()})[0]
    targets, valid = splits.test.targets(batch)
    guesses = logits[0][valid[0].numpy()].argmax(-1)
    np.testing.assert_array_equal(pairs.compressed_guesses[pairs.rows == 0], guesses)
    np.testing.assert_array_equal(pairs.labels[pairs.rows == 0], targets[valid].numpy())


def test_what_was_removed_is_gone_and_replays(finished):
    run, subject, _ = finished
    model = load_compressed(run.folder / "artifact")
    assert sum(each["removed"] for each in run.summary["components"].values()) > 0
    assert read_anatomy(model, tokens=9).parameters < run.summary["parameters"]["original"]
    again = replay(subject.model, run.folder).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_every_step_was_expected_and_observed(finished):
    run, _, splits = finished
    steps = [stage for stage in run.course if stage.observed is not None]
    assert steps
    for stage in steps:
        assert stage.expected["n"] == stage.observed["n"] == splits.validation.decisions.sum()
        assert all(np.isfinite(value) for value in (*stage.expected.values(), *stage.observed.values()))
    pairs = Pairs.load(run.folder / "predictions" / f"{steps[0].step}-validation.parquet")
    change = [
        np.log(side[np.arange(len(pairs)), pairs.answers])
        for side in (pairs.original_probabilities, pairs.compressed_probabilities)
    ]
    assert steps[0].observed["loss_change"] == pytest.approx(float((change[0] - change[1]).mean()), abs=1e-6)


def test_scores_are_of_rows_and_slices(finished):
    run, _, splits = finished
    table = run.scores.set_index(["metric", "slice"])
    assert table.loc[("nll", "all"), "n"] == len(splits.test)
    assert table.loc[("nll", "long"), "n"] == splits.test.slices["long"].sum()
    if splits.test.task != "token-classification":
        assert table.loc[("perplexity", "all"), "compressed"] == pytest.approx(
            np.exp(table.loc[("nll", "all"), "compressed"])
        )
        assert "entity_f1" not in table.index.get_level_values("metric")
        pairs = Pairs.load(run.folder / "predictions" / "artifact-test.parquet")
        bits = -np.log2(pairs.compressed_probabilities[np.arange(len(pairs)), pairs.answers]).sum()
        assert splits.test.text_bytes is not None and splits.test.text_bytes.sum() == pairs.text_bytes.sum() > 0
        assert table.loc[("bits_per_byte", "all"), "compressed"] == pytest.approx(bits / pairs.text_bytes.sum())
    else:
        assert 0 < table.loc[("entity_f1", "all"), "compressed"] <= 1


def test_the_report_speaks_of_what_was_decided(finished):
    run, _, splits = finished
    page = (run.folder / "report.html").read_text()
    unit = {"token-classification": "words", "text-generation": "tokens", "text2text-generation": "tokens"}[
        splits.test.task
    ]
    assert f"of {splits.test.decisions.sum():,}" in page.replace("\u202f", ",") or unit in page
    assert f"{unit} right → wrong" in page
    assert f"validation {unit} both give the same answer" in page


def test_mlflow_serves_the_file_that_was_judged(finished, tmp_path):
    run, _, splits = finished
    served._save(run, tmp_path / "model", Model())
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    inputs, expected = served.judged(run.folder / "artifact")
    found = model.predict(inputs)
    np.testing.assert_allclose(found.filter(regex="^logit:|^nll$").to_numpy(), expected, atol=1e-5)
    texts = pd.DataFrame({"text": list(splits.test.texts[:3])})
    told = model.predict(texts)
    pairs = Pairs.load(run.folder / "predictions" / "artifact-test.parquet")
    first = pairs.rows < 3
    if splits.test.task == "token-classification":
        guesses = [pairs.names[guess] for guess in pairs.compressed_guesses[first]]
        assert list(told["label"]) == guesses and list(told["row"]) == list(pairs.rows[first])
    elif splits.test.task == "text2text-generation":
        starts = [int(np.flatnonzero(pairs.rows == row)[1]) for row in range(3)]  # after [CLS], which is not shown
        names = finished[1].labels
        assert [answer.split()[:1] for answer in told["answer"]] == [
            [names[guess]] for guess in pairs.compressed_guesses[starts]
        ]
    else:
        losses = -np.log(pairs.compressed_probabilities[first][:, 0])
        means = [losses[pairs.rows[first] == row].mean() for row in range(3)]
        np.testing.assert_allclose(told["nll"], means, atol=1e-4)
        short = model.predict(texts, params={"max_new_tokens": 1})["continuation"]
        assert [len(text.split()) <= 1 for text in short] == [True] * 3


def test_a_finished_run_is_resumed_without_doing_anything_again(finished):
    run, subject, splits = finished
    folder = run.folder.parent
    files = [
        f"data.{path.stem}={path}" for path in folder.iterdir() if path.stem in ("calibration", "validation", "test")
    ]
    config = load_config(
        folder / "config.yaml", [f"model={folder / 'model'}", *files, f"runtime={run.summary['settings']['runtime']}"]
    )
    again = execute(build_job(config, subject, splits), run.folder, Progress(quiet=True), resume=True)
    assert again.ledger.head == run.ledger.head and again.summary == run.summary


def test_gates_that_fail_bring_components_back(tagging):
    """With gates that the removal alone does not meet, what comes back helps them."""
    run = tagging[0]
    strict = [
        'gates=[{"metric": "nll", "max_rise": 0.0005, "rule": "point"}]',
        "compensation=null",
        "reinstatement.step=0.5",
    ]
    config = [
        "strategies=[{heads: {share: 0.75, rounds: 1}}, {neurons: {share: 0.9, rounds: 1}}]",
        "audit.heads=0",
        "audit.neurons=0",
    ]
    done, _, _ = made(run.folder.parent, [*strict, *config], out="strict")
    judged = done.ledger.of_kind("judged")
    first, last = judged[0].body["verdicts"][0], done.summary["verdicts"][0]
    assert first["state"] == "fail"
    back = done.components[done.components["status"] == "restored"]
    assert len(back) > 0 and back["restored_reason"].str.contains("slack for nll").all()
    assert last["estimate"] < first["estimate"]


def test_a_layer_that_a_gate_needs_is_put_back(tagging):
    run = tagging[0]
    done, _, _ = made(
        run.folder.parent,
        ["strategies=[{layers: {count: 1}}]", 'gates=[{"metric": "nll", "max_rise": 0.0005, "rule": "point"}]',
         "compensation=null", "reinstatement.step=0.5", "reinstatement.max_share=1.0", "audit.heads=0", "audit.neurons=0"],
        out="shorter",
    )  # fmt: skip
    stage = done.course[0]
    assert stage.expected["loss_change"] == pytest.approx(stage.observed["loss_change"], abs=1e-5)
    first = done.ledger.of_kind("judged")[0].body["verdicts"][0]
    back = [edit for applied in applied_plans(done.ledger) for edit in applied.plan.edits if edit.action == "restore"]
    assert first["state"] == "fail" and [edit.kind for edit in back] == ["layer"]
    assert "slack for nll" in back[0].reason
    assert done.summary["parameters"]["compressed"] == done.summary["parameters"]["original"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("runtime=compiled", "runtime: 'compiled'"),
        ("artifacts=[checkpoint, onnx]", "artifacts: 'onnx'"),
        ("artifacts=[program]", "artifacts: 'program'"),
    ],
)
def test_what_is_one_graph_cannot_be_made_of_two(rewriting, override, message):
    run, subject, splits = rewriting
    with pytest.raises(InputError, match=f"{message}: an encoder and a decoder that generates are two graphs"):
        build_job(load_config(run.folder.parent / "config.yaml", [override]), subject, splits)


def test_a_checkpoint_is_compared_with_the_simulation_token_by_token(rewriting):
    run, _, splits = rewriting
    beside = run.summary["deployed"]["beside_masked"]
    assert beside["n"] == splits.validation.decisions.sum() and beside["agreement"] == 1.0
    assert beside["logits"] < 1e-4 and abs(beside["change"]["loss_change"]) < 1e-5


def test_one_graph_of_two_is_refused_before_anything_is_priced(rewriting):
    run, subject, splits = rewriting
    config = load_config(run.folder.parent / "config.yaml", ["runtime=onnx"])
    with pytest.raises(InputError, match="runtime: 'onnx': an encoder and a decoder that generates are two graphs"):
        build_job(config, subject, splits)


def test_texts_to_become_must_be_there(rewriting, tmp_path):
    subject = rewriting[1]
    frame = rewritten(6, seed=0)
    read = {"input": "text", "label": "target"}
    frame.assign(target=[None, *frame["target"][1:]]).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"1 rows have no text to become \(first: row 0\)"):
        load_examples(str(tmp_path / "rows.parquet"), [], subject, **read)
    with pytest.raises(InputError, match="data.label: 'label': no such column"):
        load_examples(str(tmp_path / "rows.parquet"), [], subject)
    frame.to_parquet(tmp_path / "rows.parquet")
    examples = load_examples(str(tmp_path / "rows.parquet"), [], subject, **read)
    assert examples.decisions.tolist() == [4] * 6  # [CLS], two words, [SEP]
    assert examples.inputs["decoder_input_ids"][0].tolist() == [0, *examples.tags.ids[0][:-1].tolist()]
    with pytest.raises(InputError, match="predicts no tokens"):
        rule = SliceRule(name="rare", token="frequency", quantiles=3)
        load_examples(str(tmp_path / "rows.parquet"), [rule], subject, **read)


@pytest.mark.parametrize("strategy", [Vocabulary(), Distill()], ids=lambda each: type(each).__name__)
def test_what_is_for_rows_is_refused_before_anything_is_priced(tagging, strategy):
    run, subject, splits = tagging
    job = build_job(load_config(run.folder.parent / "config.yaml", []), subject, splits)
    name = type(strategy).__name__.lower()
    with pytest.raises(InputError, match=f"strategies: '{name}'.*answers for words or tokens, not for rows"):
        replace(job, strategies=[strategy])
