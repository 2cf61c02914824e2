"""Bad input: one message that names culprit, value and remedy, exit code 2, and nothing written."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from compress_explain.cli import _guarded, app
from tests.small_job import small_job_files


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with a tiny text model, three CSV files and a configuration that works."""
    return small_job_files(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def place(files, tmp_path, monkeypatch) -> Path:
    """A private copy of the inputs, with the working directory in it."""
    shutil.copytree(files, tmp_path / "job")
    monkeypatch.chdir(tmp_path / "job")
    return tmp_path / "job"


def call(*arguments: str) -> int:
    return _guarded(lambda: app(list(arguments), standalone_mode=False))


def change(key: str, value: object) -> None:
    document = yaml.safe_load(Path("config.yaml").read_text())
    *parents, last = key.split(".")
    target = document
    for parent in parents:
        target = target[parent]
    target[last] = value
    Path("config.yaml").write_text(yaml.safe_dump(document))


def edit_rows(name: str, edit) -> None:
    frame = pd.read_csv(name, keep_default_na=False)
    edit(frame).to_csv(name, index=False)


def with_value(column: str, value: object):
    def edit(frame: pd.DataFrame) -> pd.DataFrame:
        frame[column] = frame[column].astype(object)
        frame.loc[3, column] = value
        return frame

    return edit


def pickle_only() -> None:
    Path("model/model.safetensors").rename("model/pytorch_model.bin")


def other_head() -> None:
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.from_pretrained("model")).save_pretrained("model")


def unknown_family() -> None:
    text = Path("model/config.json").read_text()
    Path("model/config.json").write_text(text.replace('"model_type": "bert"', '"model_type": "xlnet"'))


CASES = {
    "missing configuration": (lambda: Path("config.yaml").unlink(), "config", "config.yaml", "init"),
    "broken YAML": (lambda: Path("config.yaml").write_text("model: [a"), "config", "config.yaml", "mend"),
    "configuration is a list": (lambda: Path("config.yaml").write_text("- a"), "config", "config.yaml", "init"),
    "unknown key": (lambda: change("stratgies", []), "stratgies", "[]", "did you mean 'strategies'"),
    "unknown key in data": (lambda: change("data.tset", "a.csv"), "data.tset", "a.csv", "did you mean 'test'"),
    "missing key": (lambda: change("data", {"calibration": "a.csv"}), "data.validation", "None", "add validation"),
    "wrong type": (lambda: change("batch_size", "many"), "batch_size", "many", "init"),
    "no strategies": (lambda: change("strategies", []), "strategies", "[]", "init"),
    "missing data file": (lambda: change("data.test", "nowhere.csv"), "data.test", "nowhere.csv", "check the path"),
    "a folder as data file": (lambda: (Path("f.csv").mkdir(), change("data.test", "f.csv")), "data.test", "f.csv", "file"),
    "unknown file type": (lambda: change("data.test", "rows.xlsx"), "data.test", "rows.xlsx", ".csv"),
    "damaged Parquet": (
        lambda: (Path("t.parquet").write_bytes(b"PAR1 no"), change("data.test", "t.parquet")), "data.test", "t.parquet", "complete",
    ),
    "wrong input column": (lambda: change("data.input", "txt"), "data.input", "txt", "did you mean 'text'"),
    "wrong label column": (lambda: change("data.label", "lable"), "data.label", "lable", "did you mean 'label'"),
    "unknown label": (lambda: edit_rows("test.csv", with_value("label", 7)), "data.test", "7", "its labels are"),
    "unknown label name": (
        lambda: edit_rows("test.csv", lambda f: f.assign(label=["great", *["negative"] * (len(f) - 1)])),
        "data.test", "great", "negative",
    ),
    "missing label": (lambda: edit_rows("test.csv", with_value("label", "")), "data.test", "label", "label or remove"),
    "empty split": (lambda: edit_rows("validation.csv", lambda f: f[:0]), "data.validation", "validation.csv", "rows"),
    "missing text": (lambda: edit_rows("test.csv", with_value("text", "")), "data.test", "text", "remove"),
    "one class only": (lambda: edit_rows("test.csv", lambda f: f.assign(label=1)), "data.test", "1", "two classes"),
    "same rows in validation and test": (
        lambda: shutil.copy("test.csv", "validation.csv"), "data.validation", "validation.csv", "overlap",
    ),
    "missing value in a slice column": (
        lambda: edit_rows("test.csv", with_value("source", "")), "slices: source", "source", "fill them in",
    ),
    "unknown slice column": (lambda: change("slices.source.column", "sauce"), "slices: source", "sauce", "did you mean"),
    "too many slices": (lambda: change("slices.source.column", "text"), "slices: source", "text", "quantiles"),
    "code in an expression": (
        lambda: change("slices.long.where", "__import__('os').getcwd() == 1"), "slices: long", "__import__", "columns",
    ),
    "broken expression": (lambda: change("slices.long.where", "words >"), "slices: long", "words >", "write e.g."),
    "broken pattern": (lambda: change("slices.long", {"matches": "(("}), "slices: long", "((", "escape"),
    "unknown strategy": (lambda: change("strategies", [{"haeds": {"share": 0.5}}]), "strategies", "haeds", "'heads'"),
    "unknown option": (lambda: change("strategies", [{"heads": {"shar": 0.5}}]), "strategies: heads", "shar", "'share'"),
    "share of one": (lambda: change("strategies", [{"heads": {"share": 1.0}}]), "heads.share", "1.0", "0.3"),
    "negative share": (lambda: change("strategies", [{"heads": {"share": -0.1}}]), "heads.share", "-0.1", "0.3"),
    "two budgets": (
        lambda: change("strategies", [{"heads": {"share": 0.1, "flops_kept": 0.5}}]), "strategies: heads", "flops_kept", "share",
    ),
    "unknown evaluator": (lambda: change("evaluators", ["qualty"]), "evaluators", "qualty", "'quality'"),
    "unknown metric": (lambda: change("gates", [{"metric": "acuracy", "max_drop": 0.1}]), "gates: metric", "acuracy", "'accuracy'"),
    "gate without limit": (lambda: change("gates", [{"metric": "accuracy"}]), "accuracy", "[]", "max_drop"),
    "gate with two limits": (
        lambda: change("gates", [{"metric": "nll", "max_rise": 0.1, "max": 1.0}]), "nll", "max_rise", "give one",
    ),
    "gate on a slice without rows": (
        lambda: change("gates", [{"metric": "accuracy", "slice": "lnog", "max_drop": 0.1}]), "gates: slice", "lnog", "'long'",
    ),
    "every slice is gated but one is empty": (
        lambda: edit_rows("test.csv", lambda f: f.assign(source="web")), "gates: slice", "source=paper", "by name",
    ),
    "contradictory gates": (
        lambda: change("gates", [{"metric": "accuracy", "min": 0.9}, {"metric": "accuracy", "max": 0.8}]),
        "accuracy on all", "0.9", "swap",
    ),
    "the same gate twice": (
        lambda: change("gates", [{"metric": "nll", "max_rise": 0.1}, {"metric": "nll", "max_rise": 0.2}]),
        "nll on all", "0.1", "keep one",
    ),
    "text too long, refused": (
        lambda: (change("data.long_text", "refuse"), edit_rows("test.csv", with_value("text", "good " * 200))),
        "data.test", "good good", "truncate",
    ),
    "a length the model cannot take": (lambda: change("data.max_length", 100_000), "data.max_length", "100000", "at most"),
    "missing model": (lambda: shutil.rmtree("model"), "model", "model", "save_pretrained"),
    "pickle-only checkpoint": (pickle_only, "model", "pytorch_model.bin", "save_pretrained"),
    "damaged weights": (lambda: Path("model/model.safetensors").write_bytes(b"junk" * 9), "model", "model", "complete"),
    "unknown family": (unknown_family, "model", "xlnet", "register"),
    "a model without the task's head": (other_head, "model", "model", "fine-tuned"),
    "unknown task": (lambda: change("task", "translation"), "task", "translation", "init"),
    "output is a file": (lambda: Path("out").write_text(""), "out", "out", "folder"),
    "output holds other files": (lambda: (Path("out").mkdir(), Path("out/a").write_text("")), "out", "out", "new folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_told_in_one_message(name, place, capfd):
    spoil, culprit, value, remedy = CASES[name]
    spoil()
    before = listing(place)
    code = call("run", "config.yaml", "--out", "out")
    message = capfd.readouterr().err
    line = next((each for each in message.splitlines() if each.startswith("error: ")), "")
    assert code == 2, message
    assert culprit in line and value in line and remedy in line, line
    assert "Remedy: " in line and "Traceback" not in message
    assert listing(place) == before, "something was written"


def test_there_are_at_least_thirty_cases():
    assert len(CASES) >= 30


def test_all_faults_of_a_configuration_are_shown_at_once(place, capfd):
    change("strategies", [{"heads": {"share": 2.0}}])
    change("slices.long.where", "words >")
    change("gates", [{"metric": "accuracy"}])
    assert call("run", "config.yaml", "--out", "out") == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3


@pytest.mark.parametrize(
    ("override", "value"),
    [("model", "model"), ("strategies.9.heads=1", "9"), ("model.name=x", "model.name"), ("a=[", "a=[")],
)
def test_bad_overrides(place, capfd, override, value):
    assert call("run", "config.yaml", "--set", override) == 2
    assert value in capfd.readouterr().err


def test_long_texts_are_cut_and_counted(place, capfd):
    edit_rows("test.csv", with_value("text", "good " * 200))
    assert call("run", "config.yaml", "--out", "out") in (0, 1, 3)
    assert re.search(r"1 texts of test were longer", capfd.readouterr().err)


def test_a_folder_with_another_run_is_refused_and_left_alone(place, capfd):
    assert call("run", "config.yaml", "--out", "out") in (0, 1, 3)
    before = listing(place)
    assert call("run", "config.yaml", "--set", "seed=5", "--out", "out") == 2
    assert "holds another run" in capfd.readouterr().err
    assert call("run", "config.yaml", "--out", "out") == 2
    assert "--resume" in capfd.readouterr().err
    assert listing(place) == before


def test_show_knows_its_components(place, capfd):
    assert call("run", "config.yaml", "--out", "out") in (0, 1, 3)
    assert call("show", "out", "encoder.layer.0.attention.head.99") == 2
    assert "encoder.layer.0.attention.head.99" in capfd.readouterr().err
    assert call("show", "nowhere") == 2
    assert "nowhere" in capfd.readouterr().err


def test_an_unreachable_tracking_server_is_told_before_the_work(place, capfd):
    started = time.monotonic()
    code = call(
        "run", "config.yaml", "--out", "out", "--set", 'registries=[{mlflow: {tracking_uri: "http://127.0.0.1:1"}}]'
    )
    message = capfd.readouterr().err
    assert code == 2 and "127.0.0.1:1" in message and "Remedy" in message
    assert time.monotonic() - started < 60
    assert not Path("out").exists()


def test_a_full_disk_is_told_and_the_run_can_go_on(place, capfd, monkeypatch):
    """The file system refuses a write in the middle; afterwards the run is resumed to its end."""
    from compress_explain.pricing import Prices

    def full(self, path):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Prices, "save", full)
        assert call("run", "config.yaml", "--out", "out") == 2
    message = capfd.readouterr().err
    assert "No space left" in message and "free space" in message and "Traceback" not in message
    assert call("run", "config.yaml", "--out", "out", "--resume") in (0, 1, 3)


@pytest.mark.parametrize("blow", [pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive), signal.SIGKILL])
def test_a_stopped_run_resumes_to_the_same_result(place, blow):
    command = [sys.executable, "-m", "compress_explain", "run", "config.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = subprocess.run([*command, "--out", "whole"], env=environment, capture_output=True, text=True, check=False)
    assert whole.returncode in (0, 1, 3), whole.stderr
    process = subprocess.Popen([*command, "--out", "cut"], env=environment, stderr=subprocess.PIPE, text=True)
    ledger = Path("cut/ledger.jsonl")
    while process.poll() is None and not (ledger.exists() and len(ledger.read_text().splitlines()) >= 6):
        time.sleep(0.005)
    process.send_signal(blow)
    _, message = process.communicate()
    if blow == signal.SIGINT and process.returncode != whole.returncode:
        assert process.returncode == 130 and "--resume" in message
    resumed = subprocess.run(
        [*command, "--out", "cut", "--resume"], env=environment, capture_output=True, text=True, check=False
    )
    assert resumed.returncode == whole.returncode, resumed.stderr
    for name in sorted(path.name for path in Path("whole/tables").glob("edits-*.parquet")):
        pd.testing.assert_frame_equal(pd.read_parquet(f"whole/tables/{name}"), pd.read_parquet(f"cut/tables/{name}"))
    weights = [Path(folder, "artifact", "model.safetensors") for folder in ("whole", "cut")]
    assert weights[0].exists() == weights[1].exists()
    if weights[0].exists():
        assert weights[0].read_bytes() == weights[1].read_bytes()


def listing(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
