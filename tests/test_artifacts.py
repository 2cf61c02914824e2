"""What is written beside the checkpoint, which of it runs, and that whoever opens it gets what was judged."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.models import Model
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compress_explain import Gate, InputError, Reinstatement, compress, load_compressed, load_deployed
from compress_explain.comparison.predictions import Pairs, predict
from compress_explain.deployment import CompiledRunner, OnnxRunner, TorchRunner, run_examples
from compress_explain.deployment import processor as machine
from compress_explain.deployment.forms import COMPILED, ONNX, TORCH, Form, check_forms, forms_for
from compress_explain.deployment.manifest import MANIFEST, read_manifest, write_manifest
from compress_explain.evaluators import Quality
from compress_explain.pricing import AuditPlan
from compress_explain.record.checkpoint import WEIGHTS
from compress_explain.record.ledger import Ledger, file_digest
from compress_explain.registry import served
from compress_explain.strategies import Heads, Neurons
from compress_explain.terminal.reading import print_ledger
from compress_explain.terminal.summary import print_run
from tests.small_job import loaded_small_job
from tests.tiny import tiny_examples, tiny_model

GATES = [Gate(metric="nll", max_rise=5.0, rule="point")]
_TORCH_ALONE = """
import sys
sys.modules["transformers"] = sys.modules["compress_explain"] = None  # importing them would fail
import numpy, torch
program = torch.export.load(sys.argv[1] + "/program.pt2").module()
ids = torch.from_numpy(numpy.load(sys.argv[2] + "/ids.npy"))
numpy.save(sys.argv[2] + "/logits.npy", program(input_ids=ids, attention_mask=torch.ones_like(ids)).detach().numpy())
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    _, subject, splits = loaded_small_job(tmp_path_factory.mktemp("inputs"))
    return subject, splits


def run(inputs, out, *, resume=False, **options):
    subject, splits = inputs
    return compress(
        subject, splits, strategies=[Heads(share=0.25, rounds=1), Neurons(share=0.3, rounds=1)], evaluators=[Quality()], gates=GATES,
        reinstatement=Reinstatement(max_rounds=0), audit=AuditPlan(heads=0, neurons=0), compensation=None, out=out, resume=resume,
        **options,
    )  # fmt: skip


def without_compiler(patch):
    patch.setattr("compress_explain.deployment.forms.shutil.which", lambda name: None)


ALL = {"runtime": "auto", "artifacts": ("checkpoint", "onnx", "dense", "program")}


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """Everything there is, on a machine that can compile nothing."""
    with pytest.MonkeyPatch.context() as patch:
        without_compiler(patch)
        return run(inputs, tmp_path_factory.mktemp("run") / "out", **ALL)


@pytest.fixture
def artifact(finished, tmp_path):
    """A copy that may be spoilt."""
    return shutil.copytree(finished.folder / "artifact", tmp_path / "artifact")


def test_the_manifest_says_of_every_file_what_it_is_for_and_the_ledger_holds_its_digest(finished):
    folder = finished.folder / "artifact"
    manifest = read_manifest(folder)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {each.file for each in manifest.files} == there - {MANIFEST}
    assert {
        "model.safetensors",
        "model.onnx",
        "program.pt2",
        "dense/model.safetensors",
        "dense/tokenizer.json",
    } <= there
    recorded = {name: digest for record in finished.ledger for name, digest in record.files.items()}
    for each in manifest.files:
        assert each.purpose.endswith(".") and "FOLDER" in each.load
        assert each.bytes == (folder / each.file).stat().st_size
        assert each.sha256 == file_digest(folder / each.file) == recorded[f"artifact/{each.file}"]
    assert recorded[f"artifact/{MANIFEST}"] == file_digest(folder / MANIFEST)
    purposes = {each.file: each.purpose for each in manifest.files}
    assert "dense twin" in purposes["dense/model.safetensors"] and "ONNX Runtime" in purposes["model.onnx"]


def test_the_fastest_form_is_chosen_and_what_cannot_be_made_is_left_out_with_the_reason(finished):
    record = finished.ledger.find("measured", "runtime")
    timed = {row["form"]: row for row in record.body["forms"]}
    assert set(timed) == {"torch float32", "onnx float32"}
    assert record.body["chosen"] == min(timed, key=lambda name: timed[name]["milliseconds"])
    [left_out] = record.body["left_out"]
    assert left_out["form"] == "compiled bfloat16" and "install one" in left_out["why"]
    table = pd.read_parquet(finished.folder / "tables" / "forms.parquet")
    for name, row in timed.items():
        taken = table.loc[table["form"] == name, "milliseconds"]
        assert len(taken) == record.body["rounds"] and row["milliseconds"] == pytest.approx(taken.median())
        assert 0 < row["low"] <= row["milliseconds"] <= row["high"]
    facts = finished.summary["deployed"]
    assert f"{facts['runtime']} {facts['scheme']}" == record.body["chosen"]


def test_it_is_measured_at_the_median_length_of_calibration(finished, inputs):
    lengths = inputs[1].calibration.lengths
    assert finished.ledger.find("measured", "runtime").body["tokens"] == int(np.sort(lengths)[len(lengths) // 2])


def test_what_is_opened_is_what_was_judged(finished, inputs):
    test = inputs[1].test
    judged = Pairs.load(finished.folder / "predictions" / "artifact-test.parquet").compressed
    logits = run_examples(load_deployed(finished.folder / "artifact"), test, 32)
    np.testing.assert_allclose(judged, logits, atol=1e-5)
    beside = finished.summary["deployed"]["beside_masked"]
    assert beside["n"] == len(inputs[1].validation) and beside["agreement"] == 1.0 and beside["logits"] < 1e-4


def test_every_form_computes_what_the_checkpoint_computes(finished, inputs, tmp_path):
    folder, test = finished.folder / "artifact", inputs[1].test
    expected = predict(load_compressed(folder), test)
    dense = AutoModelForSequenceClassification.from_pretrained(folder / "dense").eval()
    np.testing.assert_allclose(predict(dense, test), expected, atol=1e-5)
    assert dense.num_parameters() == finished.summary["parameters"]["original"]
    assert AutoTokenizer.from_pretrained(folder / "dense")("a good film") == AutoTokenizer.from_pretrained(folder)(
        "a good film"
    )
    np.testing.assert_allclose(run_examples(OnnxRunner(path=folder / "model.onnx"), test), expected, atol=1e-4)
    assert {
        name: body["difference"] < 1e-4 for name, body in finished.summary["deployed"]["beside"].items()
    } == dict.fromkeys(
        {"dense", "program", *(["onnx"] if finished.summary["deployed"]["runtime"] == "torch" else [])}, True
    )
    row = test.inputs["input_ids"][0]
    np.save(tmp_path / "ids.npy", np.stack([row, row, row]))
    subprocess.run([sys.executable, "-c", _TORCH_ALONE, str(folder), str(tmp_path)], check=True, timeout=300)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), np.repeat(expected[:1], 3, axis=0), atol=1e-4)


def test_no_path_of_this_machine_is_in_the_program(finished):
    assert str(finished.folder).encode() not in (finished.folder / "artifact" / "program.pt2").read_bytes()
    assert b"site-packages" not in (finished.folder / "artifact" / "program.pt2").read_bytes()


def test_report_ledger_and_terminal_tell_of_it(finished):
    page = (finished.folder / "report.html").read_text()
    for words in (
        "What runs",
        "fastest form on the machine",
        "95% interval, ms",
        "not measured:",
        "dense twin",
        "in a logit at most",
    ):
        assert words in page, words
    print_run(finished, Console(file=(text := io.StringIO()), width=300))
    assert "Fastest here: " in text.getvalue() and " ms [" in text.getvalue()
    print_ledger(finished.folder, Console(file=(text := io.StringIO()), width=300))
    for words in (
        "fastest on ",
        "what runs: artifact/",
        "wrote dense beside it",
        "same answer for 100.00% of 160 rows",
    ):
        assert words in text.getvalue(), words


def test_a_run_that_was_stopped_after_measuring_does_not_measure_again(finished, inputs, tmp_path, monkeypatch):
    folder = shutil.copytree(finished.folder, tmp_path / "stopped")
    lines = (folder / "ledger.jsonl").read_text().splitlines(keepends=True)
    position = next(record.seq for record in finished.ledger if record.kind == "measured")
    (folder / "ledger.jsonl").write_text("".join(lines[: position + 1]))

    def refuse(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr("compress_explain.running.delivery.measure", refuse)
    again = run(inputs, folder, resume=True, **ALL)
    chosen = [done.ledger.find("measured", "runtime").body["chosen"] for done in (finished, again)]
    assert chosen[0] == chosen[1] and again.passed
    before, after = (
        Ledger(done.folder / "ledger.jsonl").find("deployed", "artifact").body for done in (finished, again)
    )
    assert before == after


# Bad input


def test_a_changed_file_is_refused(artifact):
    file = artifact / read_manifest(artifact).file
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="not the file that the manifest describes"):
        load_deployed(artifact)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "written by a newer version"),
        (
            {"deployed": {"runtime": "pickle", "scheme": "float32", "file": "model.onnx", "processor": []}},
            "not a manifest",
        ),
        (
            {"deployed": {"runtime": "onnx", "scheme": "float32", "file": "../model.onnx", "processor": []}},
            "not a manifest",
        ),
        ({"deployed": None}, "not a manifest"),
        ({"files": [{"file": "model.onnx"}]}, "not a manifest"),
        ({"files": []}, "not the file that the manifest describes"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(artifact, change, message):
    document = json.loads((artifact / MANIFEST).read_text())
    (artifact / MANIFEST).write_text(json.dumps(document | change))
    with pytest.raises(InputError, match=message):
        load_deployed(artifact)


def test_machine_code_for_another_processor_is_refused(artifact):
    (artifact / "compiled.pt2").write_bytes(b"machine code")
    write_manifest(artifact, COMPILED, "compiled.pt2", (*machine.capabilities(), "quantum"))
    with pytest.raises(InputError, match="a processor that has quantum, which this one lacks"):
        load_deployed(artifact)


def test_without_a_manifest_the_onnx_file_runs_or_else_the_checkpoint(artifact, tmp_path):
    (artifact / MANIFEST).unlink()
    assert isinstance(load_deployed(artifact), OnnxRunner)
    (artifact / "model.onnx").unlink()
    assert isinstance(load_deployed(artifact), TorchRunner)
    with pytest.raises(InputError, match="no compressed.json here"):
        load_deployed(tmp_path)


def test_a_checkpoint_that_lost_its_weights_is_refused(artifact):
    write_manifest(artifact, TORCH, WEIGHTS)
    (artifact / WEIGHTS).unlink()
    with pytest.raises(InputError, match="not the file that the manifest describes"):
        load_deployed(artifact)


def test_what_cannot_be_compiled_is_refused_before_anything_is_priced(inputs, tmp_path, monkeypatch):
    without_compiler(monkeypatch)
    with pytest.raises(InputError, match="none on this machine.*Remedy: install one"):
        run(inputs, tmp_path / "out", runtime="compiled")
    assert [record.kind for record in Ledger(tmp_path / "out" / "ledger.jsonl")] == ["started"]


@pytest.mark.parametrize(
    ("choice", "artifacts", "quantizing", "message"),
    [
        ("tensorrt", (), (), "runtime: 'tensorrt': unknown runtime"),
        ("torch", ("checkpoint", "denze"), (), "did you mean 'dense'"),
        ("compiled", (), ("int8dynamic",), "int8dynamic quantizes linears, which only ONNX Runtime computes"),
    ],
)
def test_forms_that_there_are_not_are_refused(choice, artifacts, quantizing, message):
    with pytest.raises(InputError, match=message):
        check_forms(choice, artifacts, quantizing)


@pytest.mark.parametrize("choice", ["compiled", "auto"])
def test_time_is_foretold_only_for_torch_and_onnx(choice):
    check_forms("torch", (), (), timed=True)
    with pytest.raises(InputError, match="what a target needs is foretold for torch and ONNX Runtime only"):
        check_forms(choice, (), (), timed=True)


def test_int8_is_measured_only_where_linears_are_quantized():
    int8 = Form(runtime="onnx", scheme="int8-dynamic")
    assert forms_for("auto", None) == (TORCH, COMPILED, ONNX)
    assert forms_for("auto", "int8-dynamic") == (TORCH, COMPILED, ONNX, int8)
    assert forms_for("torch", "int8-dynamic") == forms_for("onnx", "int8-dynamic") == (int8,)
    assert forms_for("compiled", None) == (COMPILED,)


# Machine code


@pytest.mark.exhaustive
def test_a_compiled_run_judges_and_serves_the_package(inputs, tmp_path):
    done = run(inputs, tmp_path / "out", runtime="compiled")
    facts = done.summary["deployed"]
    assert facts["file"] == "artifact/compiled.pt2" and facts["linears"] == {"bfloat16": 12}
    assert facts["measured"] is None and 0 < facts["difference"] < 0.2
    runner = load_deployed(done.folder / "artifact")
    assert isinstance(runner, CompiledRunner)
    judged = Pairs.load(done.folder / "predictions" / "artifact-test.parquet").compressed
    np.testing.assert_allclose(run_examples(runner, inputs[1].test, 32), judged, atol=1e-5)
    alone = {name: torch.from_numpy(rows[0][None]) for name, rows in inputs[1].test.inputs.items()}
    assert np.abs(runner(alone)[0] - judged[0]).max() < 0.1, "a batch of one"
    turned = {"unknown": torch.zeros(1), **{name: alone[name] for name in reversed(alone)}}
    np.testing.assert_array_equal(runner(turned), runner(alone))
    with pytest.raises(InputError, match="wants it"):
        runner({"input_ids": alone["input_ids"]})
    assert facts["beside_masked"]["agreement"] > 0.95 and facts["beside_masked"]["logits"] > 0
    assert "machine code in bfloat16" in (done.folder / "report.html").read_text()
    served._save(done, tmp_path / "model", Model())
    rows, expected = served.judged(done.folder / "artifact")
    found = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(rows).drop(columns="label").to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_package_that_computes_something_else_is_found_out(tmp_path, monkeypatch):
    from compress_explain.deployment import deploy
    from compress_explain.errors import ArtifactError
    from compress_explain.model.anatomy import read_anatomy

    model, other, examples = tiny_model("bert"), tiny_model("bert", seed=1), tiny_examples("bert")
    monkeypatch.setattr(deploy, "compile_package", lambda model, examples, path: path.write_bytes(b"code"))
    monkeypatch.setattr(deploy, "CompiledRunner", lambda path: TorchRunner(model=other, dtype="bfloat16"))
    with pytest.raises(ArtifactError, match="rounding to bfloat16. Remedy: deploy it as ONNX"):
        deploy.deploy_compiled(model, read_anatomy(model, 9), examples, tmp_path / "compiled.pt2")
    monkeypatch.setattr(deploy, "CompiledRunner", lambda path: TorchRunner(model=model, dtype="bfloat16"))
    made = deploy.deploy_compiled(model, read_anatomy(model, 9), examples, tmp_path / "compiled.pt2")
    assert made.form == COMPILED and made.processor == machine.capabilities()
    assert {facts.scheme for facts in made.linears.values()} == {"bfloat16"}
    assert all(30 < facts.sqnr < 70 and facts.bits == 16 for facts in made.linears.values())
