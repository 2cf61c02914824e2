"""Any two models beside each other: opened, compared, judged, judged again, set side by side, waived."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import BertForSequenceClassification

from compress_explain import Gate, InputError, LedgerError, Run, compress, load_subject
from compress_explain.cli import _guarded, app
from compress_explain.comparison.scores import Score
from compress_explain.comparison.waivers import Waiver, check_waivers
from compress_explain.data.encoding import Reading
from compress_explain.data.loading import load_test
from compress_explain.data.slices import SliceRule
from compress_explain.evaluating import Evaluated, Evaluation, compare, evaluate, judge_again, open_model
from compress_explain.evaluators import Quality, Slices
from compress_explain.hardware.interleaved import Patience
from compress_explain.hardware.target_file import Grid, write_target
from compress_explain.pricing import AuditPlan
from compress_explain.progress import Progress
from compress_explain.record.champion import between, read_champion
from compress_explain.record.protocol import Protocol
from compress_explain.running.options import Attribution
from compress_explain.strategies import Heads
from compress_explain.terminal.targets import take_targets
from tests.small_job import sentences, small_job_files

READING = Reading(input="text", label="label", max_length=None, long_text="truncate")
RULES = (SliceRule(name="source", column="source"), SliceRule(name="long", where="words > 9"))
GATES = (
    Gate(metric="accuracy", max_drop=0.05),
    Gate(metric="accuracy", slice="*", max_drop=0.2),
    Gate(metric="nll", max=5.0),
)


def damaged(model: BertForSequenceClassification, size: float) -> BertForSequenceClassification:
    """The same with noise on the classifier's weights."""
    other = copy.deepcopy(model)
    noise = torch.randn(other.classifier.weight.shape, generator=torch.Generator().manual_seed(0))
    other.classifier.weight.data += size * noise
    return other


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A model, one that is much like it, one that is worse, and one with its classes the other way round; rows to judge on."""
    folder = tmp_path_factory.mktemp("files")
    small_job_files(folder)
    subject = load_subject(str(folder / "model"), "text-classification")
    for name, size in (("near", 0.01), ("worse", 1.0)):
        damaged(subject.model, size).save_pretrained(folder / name)
        subject.processor.save_pretrained(folder / name)
    turned = copy.deepcopy(subject.model)
    turned.classifier.weight.data = turned.classifier.weight.data.flip(0)
    turned.classifier.bias.data = turned.classifier.bias.data.flip(0)
    turned.config.id2label, turned.config.label2id = {0: "positive", 1: "negative"}, {"positive": 0, "negative": 1}
    turned.save_pretrained(folder / "turned")
    subject.processor.save_pretrained(folder / "turned")
    (folder / "gates.yaml").write_text(yaml.safe_dump([{"metric": "accuracy", "max_drop": 0.05}]))
    return folder


def job(files: Path, candidate: str, **changes: object) -> Evaluation:
    original = open_model(str(files / "model"))
    return replace(
        Evaluation(
            original=original, candidate=open_model(str(files / candidate), like=original),
            test=load_test(str(files / "test.csv"), RULES, original.subject, READING), evaluators=[Quality(), Slices()],
            gates=GATES,
        ),
        **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def near(files, tmp_path_factory) -> Evaluated:
    return evaluate(job(files, "near"), tmp_path_factory.mktemp("evaluations") / "near", Progress(quiet=True))


@pytest.fixture(scope="module")
def worse(files, tmp_path_factory) -> Evaluated:
    return evaluate(job(files, "worse"), tmp_path_factory.mktemp("evaluations") / "worse", Progress(quiet=True))


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """A compression of the same model, judged on the same rows."""
    from compress_explain.data.loading import DataSpec

    spec = DataSpec(**{name: str(files / f"{name}.csv") for name in ("calibration", "validation", "test")})
    return compress(
        str(files / "model"), spec, strategies=[Heads(share=0.25)], evaluators=[Quality(), Slices()], slices=RULES,
        gates=[Gate(metric="accuracy", max_drop=0.5)], compensation=None, audit=AuditPlan(heads=0, neurons=0),
        attribution=Attribution(rows=0, flips=0), artifacts=("checkpoint", "onnx"), out=tmp_path_factory.mktemp("runs") / "run",
    )  # fmt: skip


def test_a_model_beside_itself_differs_in_nothing(files, tmp_path):
    found = evaluate(job(files, "model"), tmp_path / "same", Progress(quiet=True))
    scores = found.scores
    assert found.state == "pass" and (scores["difference"] == 0).all()
    accuracy = scores[scores["metric"] == "accuracy"]
    assert (accuracy["low"] < 0).all() and (accuracy["high"] > 0).all(), "no zero-width interval"


def test_a_worse_model_fails_and_says_whom_it_costs(worse):
    assert worse.state == "fail" and worse.exit_code == 1
    rows = {(row["metric"], row["slice"]): row for row in worse.summary["verdicts"]}
    assert rows["accuracy", "all"]["state"] == "fail" and rows["accuracy", "all"]["estimate"] < -0.05
    page = (worse.folder / "report.html").read_text()
    assert "FAILED" in page and 'id="slices"' in page and 'id="flips"' in page


def test_classes_are_matched_by_name(files, tmp_path):
    found = evaluate(job(files, "turned"), tmp_path / "turned", Progress(quiet=True))
    assert np.abs(found.pairs.original - found.pairs.compressed).max() < 1e-5


def test_other_classes_and_tasks_are_refused(files, tmp_path):
    subject = load_subject(str(files / "model"), "text-classification")
    config = copy.deepcopy(subject.model.config)
    config.id2label, config.label2id = {0: "a", 1: "b", 2: "c"}, {"a": 0, "b": 1, "c": 2}
    BertForSequenceClassification(config).save_pretrained(tmp_path / "three")
    subject.processor.save_pretrained(tmp_path / "three")
    with pytest.raises(InputError, match="between 3 classes, the original between 2"):
        job(files, str(tmp_path / "three"))


def test_classes_of_other_names_are_refused_and_unnamed_ones_stand_in_order(files, tmp_path):
    from transformers import AutoConfig

    for name, labels in (("renamed", ["bad", "good"]), ("unnamed", ["LABEL_0", "LABEL_1"])):
        shutil.copytree(files / "near", tmp_path / name)
        config = AutoConfig.from_pretrained(tmp_path / name)
        config.id2label, config.label2id = dict(enumerate(labels)), {label: index for index, label in enumerate(labels)}
        config.save_pretrained(tmp_path / name)
    with pytest.raises(InputError, match="called bad, good"):
        job(files, str(tmp_path / "renamed"))
    assert job(files, str(tmp_path / "unnamed")).candidate.subject.labels == {0: "LABEL_0", 1: "LABEL_1"}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("./nowhere", "no such file or folder"),
        ("lonely.onnx", "no such file"),
        ("models:/a/1", "no registry is at hand"),
    ],
)
def test_what_is_not_there_is_said(source, problem):
    with pytest.raises(InputError, match=problem):
        open_model(source)


def test_an_onnx_file_is_judged_like_a_folder(files, run, tmp_path):
    from compress_explain.deployment.export import export_onnx

    evaluation = job(files, "near")
    export_onnx(evaluation.candidate.module, evaluation.test, tmp_path / "alone.onnx")
    alone = open_model(str(tmp_path / "alone.onnx"), like=evaluation.original)
    assert alone.module is None and alone.subject.task == "text-classification"
    found = evaluate(replace(evaluation, candidate=alone), tmp_path / "out", Progress(quiet=True))
    expected = evaluate(evaluation, tmp_path / "torch", Progress(quiet=True))
    assert np.abs(found.pairs.compressed - expected.pairs.compressed).max() < 1e-4
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "alone.onnx", tmp_path / "folder/model.onnx")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(files / "near" / name, tmp_path / "folder" / name)
    assert open_model(str(tmp_path / "folder"), "text-classification").module is None


def test_what_a_run_deployed_is_judged_as_there(files, run, tmp_path):
    original = open_model(str(files / "model"))
    evaluation = replace(job(files, "near"), candidate=open_model(str(run.folder / "artifact"), like=original))
    found = evaluate(evaluation, tmp_path / "out", Progress(quiet=True))
    mine = found.scores.set_index(["metric", "slice"])["compressed"]
    theirs = run.scores.set_index(["metric", "slice"])["compressed"]
    assert mine.equals(theirs.loc[mine.index])


def test_an_evaluation_is_resumed_and_never_overwritten(files, near):
    again = evaluate(job(files, "near"), near.folder, Progress(quiet=True), resume=True)
    assert again.ledger.head == near.ledger.head
    with pytest.raises(InputError, match="holds this very run"):
        evaluate(job(files, "near"), near.folder, Progress(quiet=True))
    with pytest.raises(InputError, match="holds another run"):
        evaluate(job(files, "near", seed=1), near.folder, Progress(quiet=True), resume=True)


# Judging again


@pytest.mark.parametrize("which", ["near", "worse", "run"])
def test_the_same_gates_give_the_same_bit_for_bit(which, request):
    finished = request.getfixturevalue(which)
    judged = judge_again(finished.folder)
    assert judged.same is True and judged.state == finished.state
    assert [verdict.row() for verdict in judged.verdicts] == finished.summary["verdicts"]


def test_no_model_is_needed(near, tmp_path, monkeypatch):
    shutil.copytree(near.folder, tmp_path / "moved")
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    assert judge_again(tmp_path / "moved").state == near.state


def test_other_gates_give_other_verdicts(near):
    strict = judge_again(near.folder, [Gate(metric="accuracy", min=0.999)])
    assert strict.same is None and strict.state == "fail"
    with pytest.raises(InputError, match="no evaluator gives this"):
        judge_again(near.folder, [Gate(metric="acuracy", min=0.5)])


def test_what_was_changed_is_noticed(near, tmp_path):
    shutil.copytree(near.folder, tmp_path / "changed")
    path = tmp_path / "changed/tables/scores-artifact.parquet"
    table = pd.read_parquet(path)
    table.loc[0, "compressed"] = 1.0
    table.to_parquet(path, index=False)
    with pytest.raises(LedgerError, match="differs from what record"):
        judge_again(tmp_path / "changed")


# Other machines


def test_what_another_machine_timed_is_taken_into_the_run(run, files, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    onnx = tmp_path / "run/artifact/model.onnx"
    write_target(
        onnx, tmp_path / "small-board.json", Grid(batches=(1,), tokens=(8,)), onnx, Patience(blocks=12, seconds=2.0)
    )
    take_targets(tmp_path / "run", [tmp_path / "small-board.json"])
    page = (tmp_path / "run/report.html").read_text()
    assert "small-board" in page and Run(tmp_path / "run").ledger.of_kind("targeted")
    document = json.loads((tmp_path / "small-board.json").read_text())
    document["artifact"]["sha256"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="timed another artifact"):
        take_targets(tmp_path / "run", [tmp_path / "other.json"])


# Side by side


def test_runs_and_evaluations_are_compared_under_one_protocol(run, near, worse):
    comparison = compare([near.folder, worse.folder])
    first, second = comparison.compared
    assert not first.beside_first and {score.metric for score in second.beside_first} >= {"accuracy", "nll"}
    accuracy = next(each for each in second.beside_first if (each.metric, each.slice) == ("accuracy", "all"))
    assert accuracy.original == pytest.approx(near.pairs.compressed_right.mean())
    assert accuracy.compressed == pytest.approx(worse.pairs.compressed_right.mean())
    assert compare([run.folder, near.folder]).compared[0].size["parameters"] < 1


def test_another_protocol_is_refused_and_says_where(files, near, tmp_path):
    other = evaluate(job(files, "near", batch_size=16), tmp_path / "other", Progress(quiet=True))
    with pytest.raises(InputError, match=r"running.batch_size is 32 and 16.*--despite running"):
        compare([near.folder, other.folder])
    assert list(compare([near.folder, other.folder], ["running"]).despite) == ["running.batch_size"]
    sentences(60, 9).to_csv(tmp_path / "rows.csv", index=False)
    rows = load_test(str(tmp_path / "rows.csv"), RULES, job(files, "near").original.subject, READING)
    elsewhere = evaluate(job(files, "near", test=rows), tmp_path / "elsewhere", Progress(quiet=True))
    with pytest.raises(InputError, match=r"data.digest is.*judge both on the same rows"):
        compare([near.folder, elsewhere.folder])
    with pytest.raises(InputError, match="at least two"):
        compare([near.folder])


def test_a_protocol_that_was_changed_is_refused(near, tmp_path):
    shutil.copy(near.folder / "protocol.json", tmp_path)
    document = json.loads((tmp_path / "protocol.json").read_text())
    assert Protocol.load(tmp_path).digest == document["digest"] == near.summary["protocol"]
    document["protocol"]["running"]["batch_size"] = 1
    (tmp_path / "protocol.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="changed after it was written"):
        Protocol.load(tmp_path)


def test_attempts_on_the_same_rows_are_counted(files, tmp_path):
    numbers = [
        evaluate(job(files, which), tmp_path / which, Progress(quiet=True)).summary["attempt"]
        for which in ("near", "worse")
    ]
    assert numbers == [1, 2]
    assert "attempt 2 at a verdict" in (tmp_path / "worse/report.html").read_text()
    evaluate(job(files, "worse"), tmp_path / "worse", Progress(quiet=True), resume=True)
    assert len((tmp_path / "attempts.jsonl").read_text().splitlines()) == 2


# The champion


def test_small_losses_against_the_champion_are_seen(files, near, worse, tmp_path):
    gate = Gate(metric="accuracy", max_drop=0.02, against="champion")
    champion = read_champion(near.folder, "champion")
    found = evaluate(job(files, "worse", gates=[gate], champion=champion), tmp_path / "out", Progress(quiet=True))
    [verdict] = found.summary["verdicts"]
    assert verdict["state"] == "fail" and verdict["against"] == "champion"
    assert verdict["estimate"] == pytest.approx(
        worse.pairs.compressed_right.mean() - near.pairs.compressed_right.mean()
    )
    assert between(near.pairs, near.pairs).original is near.pairs.compressed
    assert judge_again(found.folder, champion=champion).state == "fail"


def test_a_champion_on_other_rows_is_refused(files, near, tmp_path):
    other = replace(read_champion(near.folder, "old"), pairs=replace(near.pairs, digest="x"))
    with pytest.raises(InputError, match="judged on other rows"):
        job(files, "worse", champion=other)
    with pytest.raises(InputError, match="nothing was judged on test rows"):
        read_champion(tmp_path, "empty")


def test_without_a_champion_yet_gates_against_it_are_left_out(files, tmp_path):
    gates = [Gate(metric="accuracy", max_drop=0.02, against="champion"), Gate(metric="nll", max=9.0)]
    found = evaluate(job(files, "near", gates=gates), tmp_path / "out", Progress(quiet=True))
    assert [row["metric"] for row in found.summary["verdicts"]] == ["nll"]


# Waivers


def waiver(**changes: str) -> Waiver:
    return Waiver(**{"metric": "accuracy", "who": "A. Person", "why": "known", "until": "2099-01-01", **changes})


def test_a_waived_gate_does_not_count_until_its_day_is_over(files, tmp_path):
    given = waiver(slice="*", until="2027-03-01")
    found = evaluate(job(files, "worse", waivers=[given]), tmp_path / "out", Progress(quiet=True))
    row = next(row for row in found.summary["verdicts"] if row["slice"] == "all")
    assert found.state == "pass" and row["state"] == "fail" and row["counts_as"] == "pass"
    assert "waived by A. Person until 2027-03-01: known" in row["message"]
    later = judge_again(found.folder, today=date(2027, 3, 2))
    assert later.state == "fail" and "ended on 2027-03-01" in later.verdicts[0].message


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"who": " "}, "who is empty"), ({"until": "soon"}, "not a date"), ({"until": "2027-02-30"}, "no such day")],
)
def test_waivers_say_who_why_and_until_when(changes, problem):
    with pytest.raises(InputError, match=problem):
        waiver(**changes)


def test_a_waiver_has_an_end_in_sight():
    with pytest.raises(InputError, match="more than a year"):
        check_waivers([waiver()], date(2026, 11, 28))


# The gates' other rules


def scored(low: float, difference: float, high: float, **changes: object) -> Score:
    return replace(
        Score(
            metric="nll", slice="all", original=1.0, compressed=1.0 + difference, difference=difference, low=low, high=high,
            compressed_low=1.0 + low, compressed_high=1.0 + high, n=100, unit="nats", direction="lower", confidence=0.9,
        ),
        **changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("interval", "state"),
    [
        ((-0.04, 0.0, 0.04), "pass"),
        ((-0.06, 0.0, 0.04), "inconclusive"),
        ((-0.2, -0.1, -0.06), "fail"),
        ((0.06, 0.1, 0.2), "fail"),
    ],
)
def test_equivalence_looks_both_ways(interval, state):
    from compress_explain import judge

    [verdict] = judge([Gate(metric="nll", max_change=0.05)], [scored(*interval)])
    assert verdict.state == state and (verdict.slack >= 0) is (state == "pass")


def test_a_doubtful_figure_settles_nothing():
    from compress_explain import judge

    [verdict] = judge([Gate(metric="nll", max_rise=0.5)], [scored(-0.1, 0.0, 0.1, doubt="the machine was too noisy")])
    assert verdict.state == "inconclusive" and "too noisy" in verdict.message


@pytest.mark.parametrize(("choice", "counts"), [("hold", "inconclusive"), ("fail", "fail"), ("warn", "pass")])
def test_what_becomes_of_what_cannot_be_told(choice, counts):
    from compress_explain import judge
    from compress_explain.comparison.gates import overall

    verdicts = judge([Gate(metric="nll", max_rise=0.05, on_inconclusive=choice)], [scored(-0.1, 0.0, 0.1)])
    assert verdicts[0].state == "inconclusive" and overall(verdicts) == counts


@pytest.mark.parametrize(
    ("gate", "problem"),
    [
        ({"max_drop": 0.1, "rule": "equivalence"}, "not a rule for max_drop"),
        ({"max_change": 0.1, "rule": "non-inferiority"}, "not a rule for max_change"),
        ({"min": 0.1, "against": "champion"}, "own value"),
        ({"max_change": -0.1}, "not negative"),
        ({"max_change": 0.1, "max_drop": 0.1}, "exactly one limit"),
    ],
)
def test_gates_that_contradict_themselves_are_refused(gate, problem):
    with pytest.raises(InputError, match=problem):
        Gate(metric="accuracy", **gate)


# The command line


def told(capsys, *arguments: object) -> tuple[int, str]:
    code = _guarded(lambda: app([str(each) for each in arguments], standalone_mode=False))
    captured = capsys.readouterr()
    return code, " ".join((captured.out + captured.err).split())


def test_the_commands_end_to_end(files, tmp_path, capsys):
    out = tmp_path / "out"
    data = ("--data", files / "test.csv", "--gates", files / "gates.yaml")
    code, text = told(capsys, "evaluate", files / "model", files / "worse", *data, "--out", out)
    assert code == 1 and "do not release" in text and "accuracy" in text
    code, text = told(capsys, "judge", out)
    assert code == 1 and "bit for bit" in text
    code, text = told(
        capsys, "waive", out, "--metric", "accuracy", "--who", "A. Person", "--why", "known", "--until", "2027-01-01"
    )
    assert code == 0 and "waived by A. Person" in text and "1 of 1 are waived" in text
    code, text = told(capsys, "evaluate", files / "model", files / "near", *data, "--out", tmp_path / "near")
    assert code == 0
    code, text = told(capsys, "compare", out, tmp_path / "near", "--out", tmp_path / "compared.json")
    assert (
        code == 0 and "against the first" in text and json.loads((tmp_path / "compared.json").read_text())["compared"]
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--metric", "nll", "--who", "a", "--why", "b", "--until", "2027-01-01"), "no gate is about this"),
        (("--metric", "accuracy", "--who", "a", "--why", "b", "--until", "2020-01-01"), "that day is over"),
    ],
)
def test_waivers_of_nothing_are_refused(worse, files, tmp_path, capsys, arguments, problem):
    out = tmp_path / "out"
    evaluate(job(files, "worse", gates=[Gate(metric="accuracy", max_drop=0.05)]), out, Progress(quiet=True))
    code, text = told(capsys, "waive", out, *arguments)
    assert code == 2 and problem in text


def test_an_evaluation_is_mirrored_once_beside_the_compressions_of_its_model(worse, tmp_path, capsys):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    done = {told(capsys, "publish", worse.folder, "--tracking-uri", uri) for _ in range(2)}
    assert [code for code, _ in done] == [0], "both say the same"
    client = mlflow.MlflowClient(tracking_uri=uri)
    [tracked] = client.search_runs([client.get_experiment_by_name("model").experiment_id])
    accuracy = worse.scores.set_index(["metric", "slice"]).loc[("accuracy", "all")]
    assert tracked.data.metrics["test/accuracy_compressed"] == accuracy["compressed"]
    assert tracked.data.metrics["gates/failed"] == sum(each["state"] == "fail" for each in worse.summary["verdicts"])
    tags = tracked.data.tags
    assert (tags["compress_explain.state"], tags["compress_explain.kind"]) == ("fail", "evaluation")
    assert "Verdict: fail" in tags["mlflow.note.content"] and tags["compress_explain.mirror"] == "complete"
    assert {file.path for file in client.list_artifacts(tracked.info.run_id)} >= {
        "report.html",
        "evaluation.json",
        "overview",
    }
    [rows] = tracked.inputs.dataset_inputs
    assert rows.dataset.digest == worse.summary["splits"]["test"]["digest"][:36]


def test_a_store_that_does_not_answer_is_told_before_the_work(files, tmp_path, capsys):
    to = ("--data", files / "test.csv", "--out", tmp_path / "out", "--tracking-uri", "http://127.0.0.1:9")
    code, text = told(capsys, "evaluate", files / "model", files / "near", *to)
    assert code == 2 and "cannot be reached" in text and not (tmp_path / "out").exists()


def test_a_folder_that_holds_nothing_finished_is_not_published(tmp_path, capsys):
    code, text = told(capsys, "publish", tmp_path)
    assert code == 2 and "none of run.json, evaluation.json" in text


def test_a_file_of_gates_is_checked(files, tmp_path, capsys):
    (tmp_path / "gates.yaml").write_text("- {metric: accuracy, max_dorp: 0.1}")
    code, text = told(capsys, "judge", tmp_path, "--gates", tmp_path / "gates.yaml")
    assert code == 2 and "did you mean 'max_drop'" in text
