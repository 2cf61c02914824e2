"""What MLflow holds after a run was mirrored: all of it, once, however often the mirroring was cut off."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from transformers import AutoTokenizer, ViTConfig, ViTForImageClassification

from compress_explain.editing.edits import Action
from compress_explain.editing.surgery import materialize
from compress_explain.errors import InputError
from compress_explain.evaluating import open_model
from compress_explain.model.anatomy import read_anatomy
from compress_explain.plugins.catalog import REGISTRIES
from compress_explain.record.champion import read_champion
from compress_explain.record.checkpoint import load_compressed, save_compressed
from compress_explain.record.ledger import Record
from compress_explain.record.outcome import Run
from compress_explain.registry import MlflowRegistry, figures, resolve_tracking_uri, served, steps
from compress_explain.registry.names import Point, points, slugs
from compress_explain.registry.reach import quiet
from compress_explain.report.judgement import Judgement
from compress_explain.terminal.commands import run_config

from .signals_table import table
from .small_job import small_job_files

WRITES = (
    "create_run", "log_batch", "set_tag", "log_artifact", "log_inputs", "log_outputs", "set_terminated",
    "create_logged_model", "log_model_artifact", "finalize_logged_model", "create_registered_model",
    "create_model_version", "set_registered_model_alias", "set_model_version_tag",
)  # fmt: skip
LENIENT = [
    "gates=[{metric: accuracy, max_drop: 1.0, rule: point}, {metric: nll, slice: '*', max_rise: 9, rule: point}]"
]
IMPOSSIBLE = ["gates=[{metric: nll, max: 0.0, rule: point}]", "reinstatement.max_rounds=1"]
LEFT_BY_LOADING = ("__pycache__", "registered_model_meta")  # MLflow loads a model of a local store in its place


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package may catch it."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_job_files(tmp_path_factory.mktemp("job"))


def carried_out(job: Path, out: str, overrides: list[str]) -> Path:
    before = Path.cwd()
    os.chdir(job)
    try:
        run_config(job / "config.yaml", overrides, job / out, resume=False)
    finally:
        os.chdir(before)
    return job / out


@pytest.fixture(scope="module")
def passed(job: Path) -> Path:
    folder = carried_out(job, "passed", LENIENT)
    assert Run(folder).state == "pass"
    return folder


@pytest.fixture(scope="module")
def failed(job: Path) -> Path:
    folder = carried_out(job, "failed", IMPOSSIBLE)
    assert Run(folder).state == "fail" and not (folder / "artifact").exists()
    return folder


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def page(uri: str, passed: Path) -> SimpleNamespace:
    """The passed run, mirrored once without interruption."""
    registry = MlflowRegistry(tracking_uri=uri, experiment="reference", register_as="reference")
    address = registry.publish(passed)
    client = MlflowClient(tracking_uri=uri)
    return SimpleNamespace(registry=registry, address=address, client=client, held=held(client, "reference"))


def held(client: MlflowClient, experiment: str) -> SimpleNamespace:
    """Everything that an experiment with one compression holds, without ids and times."""
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    runs = client.search_runs([experiment_id], max_results=1000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    models = list(client.search_logged_models([experiment_id]))
    assert len(parents) == 1
    return SimpleNamespace(
        parent=parents[0],
        models=models,
        facts={
            "parent": history(client, parents[0]),
            "children": sorted((run.info.run_name, history(client, run)) for run in children),
            "artifacts": files(lambda path: client.list_artifacts(parents[0].info.run_id, path)),
            "params": parents[0].data.params,
            "inputs": sorted((each.dataset.name, each.tags[0].value) for each in parents[0].inputs.dataset_inputs),
            "outputs": len(parents[0].outputs.model_outputs),
            "models": [(model.name, model.status) for model in models],
            "weights": [
                sorted(files(lambda path, m=model: client.list_logged_model_artifacts(m.model_id, path)))
                for model in models
            ],
            "statuses": {run.info.status for run in runs},
            "mirror": parents[0].data.tags["compress_explain.mirror"],
            "versions": [
                (v.version, v.tags["validation_status"]) for v in client.search_model_versions(f"name='{experiment}'")
            ],
        },
    )


def history(client: MlflowClient, run: Any) -> list[tuple[str, int, float]]:
    return sorted(
        (key, metric.step, metric.value)
        for key in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, key)
    )


def files(there: Callable[[str | None], Any], folder: str | None = None) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in there(folder):
        found |= files(there, entry.path) if entry.is_dir else {entry.path: entry.file_size}
    return {name: size for name, size in found.items() if not any(part in name for part in LEFT_BY_LOADING)}


def test_the_parent_says_how_the_run_ended(page: SimpleNamespace, passed: Path) -> None:
    run, parent = Run(passed), page.held.parent
    tags, metrics = parent.data.tags, parent.data.metrics
    assert parent.info.run_name == "passed" and parent.info.status == "FINISHED"
    assert tags["compress_explain.identity"] == run.summary["identity"]
    assert tags["compress_explain.ledger_head"] == run.ledger.head
    assert tags["compress_explain.state"] == "pass"
    assert "Verdict: pass" in tags["mlflow.note.content"]
    accuracy = run.scores.query("metric == 'accuracy' and slice == 'all'").iloc[0]
    assert metrics["test/accuracy_original"] == accuracy.original
    assert metrics["test/accuracy_difference"] == accuracy.difference
    assert metrics["size/parameters_compressed"] == run.summary["parameters"]["compressed"]
    assert metrics["components/heads_removed"] == run.summary["components"]["head"]["removed"]
    assert metrics["gates/passed"] == len(run.summary["verdicts"])


def test_whatever_a_step_does_has_a_name() -> None:
    """A quantization is a step like others."""
    body = {"author": "int8dynamic", "counts": {"linear": 12}, "flops_saved": 0, "parameters_saved": 0}
    for action in get_args(Action):
        facts = {
            "seq": 0,
            "time": "2026-01-01T00:00:00+00:00",
            "kind": "planned",
            "step": "1",
            "previous": "",
            "hash": "",
        }
        kinds = {"planned": Record(**facts, body=body | {"action": action})}
        assert steps._title("1-int8dynamic-1", kinds).startswith("12 linears ")
        assert any(key.startswith("edits/linears_") for key in steps._planned(kinds))
    assert (
        steps._kind("1-int8dynamic-1", {"planned": Record(**facts, body=body | {"action": "quantize"})})
        == "quantization"
    )


def test_headlines_are_few_and_every_value_is_finite_and_short(page: SimpleNamespace) -> None:
    parent = page.held.parent
    headlines = [key for key in parent.data.metrics if not key.startswith(("layer/", "course/"))]
    assert 20 <= len(headlines) <= 40
    assert all(np.isfinite(value) for value in parent.data.metrics.values())
    assert all(len(value) <= 500 for value in parent.data.params.values())
    assert parent.data.params["strategies.1.name"] == "heads"


def test_the_curves_have_one_point_a_layer(page: SimpleNamespace, passed: Path) -> None:
    removed = json.loads((passed / "artifact" / "compressed.json").read_text())["removed"]
    kept = [4 - len(removed.get(f"encoder.layer.{layer}.attention.head", [])) for layer in (0, 1)]
    points = page.client.get_metric_history(page.held.parent.info.run_id, "layer/heads_kept")
    assert [(point.step, point.value) for point in points] == [(0, kept[0]), (1, kept[1])]


def test_what_is_still_known_has_one_curve_a_signal_and_model(passed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(point.key.startswith("signals/") for point in figures.curves(Run(passed), []))
    monkeypatch.setattr(Judgement, "measured", lambda self, name: table(2) if name == "signals" else None)
    points = [point for point in figures.curves(Run(passed), []) if point.key.startswith("signals/task/")]
    by_key = {key: [point.step for point in points if point.key == key] for key in {point.key for point in points}}
    assert by_key["signals/task/original"] == by_key["signals/task/compressed"] == [0, 1, 2]
    assert by_key["signals/task/retained"] == [1, 2]  # at the embedding it cannot be told


def test_each_step_is_a_child_with_its_expected_and_observed_effect(page: SimpleNamespace, passed: Path) -> None:
    children = dict(page.held.facts["children"])
    steps = Run(passed).summary["steps"]
    for step in steps:
        [name] = [name for name in children if name.startswith(f"{step['step']}:")]
        values = {key: value for key, _, value in children[name]}
        for which in ("expected", "observed"):
            assert values[f"{which}/loss_change"] == step[which]["loss_change"]
            assert values[f"{which}/flips_to_wrong"] == step[which]["flips_to_wrong"]
    judged = {name.partition(":")[0] for name in children} - {step["step"] for step in steps}
    assert judged == {"validation", "artifact"}


def test_the_tables_can_be_read_back(page: SimpleNamespace, passed: Path) -> None:
    run_id = page.held.parent.info.run_id
    with quiet():
        tables = {
            name: pd.read_json(page.client.download_artifacts(run_id, f"overview/{name}.json"), orient="split")
            for name in ("1_gates", "2_scores", "5_components", "6_ledger")
        }
    run = Run(passed)
    assert list(tables["1_gates"]["state"]) == [verdict["state"] for verdict in run.summary["verdicts"]]
    assert len(tables["2_scores"]) == len(run.scores)
    assert set(tables["5_components"]["status"]) <= {"removed", "restored"}
    assert list(tables["6_ledger"]["hash"]) == [record.hash for record in run.ledger]


def test_the_folder_is_there_and_the_weights_only_with_the_model(page: SimpleNamespace, passed: Path) -> None:
    artifacts, [weights] = page.held.facts["artifacts"], page.held.facts["weights"]
    for name in ("report.html", "run.json", "ledger.jsonl", "anatomy.json", "tables/components.parquet"):
        assert artifacts[name] == (passed / name).stat().st_size
    assert not [name for name in artifacts if name.endswith(".safetensors")]
    assert [name for name in weights if name.endswith(".safetensors")] == ["artifacts/artifact/model.safetensors"]
    assert not [name for name in weights if name.endswith(".pkl")]


def test_the_splits_are_inputs_with_their_digests(page: SimpleNamespace, passed: Path) -> None:
    splits = Run(passed).summary["splits"]
    inputs = {each.tags[0].value: each.dataset for each in page.held.parent.inputs.dataset_inputs}
    assert {name: splits[name]["digest"][:36] for name in splits} == {
        name: each.digest for name, each in inputs.items()
    }


def test_the_served_model_has_equal_logits_without_unpickling(
    page: SimpleNamespace, uri: str, passed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    texts = pd.read_csv(passed.parent / "test.csv")["text"].tolist()
    with quiet():
        loaded = mlflow.pyfunc.load_model("models:/reference@candidate")
        found = loaded.predict(pd.DataFrame({"source": "web", "text": texts}))
        again = loaded.predict([{"text": text} for text in texts[:3]])
        wrapped = loaded.predict({"text": texts[:3]})
    model, tokenizer = load_compressed(passed / "artifact"), AutoTokenizer.from_pretrained(passed / "artifact")
    with torch.inference_mode():
        expected = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts]).numpy()
    assert list(found.columns) == ["logit:negative", "logit:positive", "label"]
    logits = found[["logit:negative", "logit:positive"]].to_numpy()
    assert np.abs(logits - expected).max() <= 1e-5
    assert list(found["label"]) == [("negative", "positive")[best] for best in expected.argmax(1)]
    pd.testing.assert_frame_equal(again, wrapped)
    assert np.abs(again.drop(columns="label").to_numpy() - expected[:3]).max() <= 1e-5


def test_what_lies_there_is_fetched_by_its_address(page: SimpleNamespace, passed: Path, tmp_path: Path) -> None:
    page.client.set_registered_model_alias("reference", "champion", "1")
    fetched = open_model(
        "models:/reference@champion", fetch=lambda address: page.registry.fetch_model(address, tmp_path)
    )
    judged = open_model(str(passed / "artifact"))
    assert fetched.digest == judged.digest and fetched.form == judged.form
    folder = page.registry.fetch_predictions("models:/reference@champion", tmp_path)
    assert folder is not None
    champion = read_champion(folder, "champion")
    assert champion.pairs.digest == Run(passed).summary["splits"]["test"]["digest"]
    assert page.registry.fetch_predictions("models:/reference@nobody", tmp_path) is None
    assert page.registry.fetch_predictions("models:/unknown/1", tmp_path) is None
    with pytest.raises(InputError, match="not an address in a registry"):
        page.registry.fetch_predictions("somewhere", tmp_path)
    with pytest.raises(InputError, match="could not be fetched"):
        page.registry.fetch_model("models:/unknown/1", tmp_path)


def test_a_second_publish_changes_nothing(
    page: SimpleNamespace, passed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert page.registry.publish(passed) == page.address
    assert held(page.client, "reference").facts == page.held.facts
    assert capsys.readouterr() == ("", "")


def killing_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let that many writes to the store happen, then die just after the last of them."""
    left = [calls]

    def wrap(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = method(*arguments, **options)
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return result

        return call

    for name in WRITES:
        monkeypatch.setattr(MlflowClient, name, wrap(getattr(MlflowClient, name)))


@pytest.mark.parametrize("calls", [[1, 1, 1], [2, 25, 14], [60, 6, 3], [40, 20, 9, 5, 2, 2, 2, 1, 1]])
def test_whatever_moment_it_is_killed_at_the_next_publish_completes_it(
    page: SimpleNamespace, uri: str, passed: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"killed-{'-'.join(map(str, calls))}"
    registry = MlflowRegistry(tracking_uri=uri, experiment=name, register_as=name)
    for count in calls:
        with monkeypatch.context() as patch:
            killing_after(count, patch)
            with pytest.raises(Killed):
                registry.publish(passed)
    registry.publish(passed)
    assert held(page.client, name).facts == page.held.facts


def test_a_failed_run_has_no_model_and_is_not_registered(uri: str, failed: Path) -> None:
    MlflowRegistry(tracking_uri=uri, experiment="failed", register_as="failed").publish(failed)
    client = MlflowClient(tracking_uri=uri)
    kept = held(client, "failed")
    assert kept.parent.data.tags["compress_explain.state"] == "fail" and kept.facts["mirror"] == "complete"
    assert kept.models == [] and kept.facts["versions"] == []
    assert "validation/nll_compressed" in kept.parent.data.metrics
    assert kept.parent.data.metrics["gates/failed"] == 1


def test_a_model_that_comes_back_different_leaves_the_run_incomplete(
    uri: str, passed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = MlflowRegistry(tracking_uri=uri, experiment="differs", register_as="differs")
    with monkeypatch.context() as patch:
        actual = served.reference
        patch.setattr(served, "reference", lambda *given: (actual(*given)[0], actual(*given)[1] + 1e-3))
        with pytest.raises(InputError, match="differs from the artifact"):
            registry.publish(passed)
    client = MlflowClient(tracking_uri=uri)
    kept = held(client, "differs")
    assert kept.facts["mirror"] == "incomplete" and kept.facts["versions"] == []
    assert kept.models[0].status != LoggedModelStatus.READY
    registry.publish(passed)
    assert held(client, "differs").facts["mirror"] == "complete"


def test_an_image_model_is_served_from_pixels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        num_channels=1, num_labels=3,
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    anatomy = read_anatomy(model, tokens=5)
    removed = {name: torch.arange(group.count) == 0 for name, group in anatomy.groups.items()}
    smaller = materialize(model, anatomy, removed)
    save_compressed(smaller, tmp_path / "artifact", removed=removed, base=anatomy, provenance={})
    (tmp_path / "run.json").write_text("{}")
    with quiet():
        served._save(Run(tmp_path), tmp_path / "model", mlflow.models.Model())
        loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
        pixels, expected = served.reference(load_compressed(tmp_path / "artifact"), tmp_path / "artifact")
        found = loaded.predict(pixels)
    assert np.abs(found.drop(columns="label").to_numpy() - expected).max() <= 1e-5


@pytest.mark.parametrize("address", ["http://ann:secret@127.0.0.1:1", "postgresql://ann:secret@127.0.0.1:1/mlflow"])
def test_an_unreachable_store_is_told_within_seconds(address: str, passed: Path) -> None:
    before = {path: path.stat().st_mtime for path in passed.rglob("*") if path.name != ".lock"}
    registry = MlflowRegistry(tracking_uri=address)
    for attempt in (registry.check, lambda: registry.publish(passed)):
        start = time.monotonic()
        with pytest.raises(InputError) as caught:
            attempt()
        assert time.monotonic() - start < 5
        assert caught.value.culprit == "mlflow" and "secret" not in str(caught.value)
        assert "compress-explain publish" in caught.value.remedy and "MLFLOW_TRACKING_URI" in caught.value.remedy
    assert {path: path.stat().st_mtime for path in passed.rglob("*") if path.name != ".lock"} == before


def test_a_silent_server_is_told_within_seconds() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        start = time.monotonic()
        with pytest.raises(InputError):
            MlflowRegistry(tracking_uri=f"http://127.0.0.1:{silent.getsockname()[1]}").check()
    assert time.monotonic() - start < 6


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database at all")
    with pytest.raises(InputError, match="not an SQLite database"):
        MlflowRegistry(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}").check()


def test_a_deleted_experiment_is_named(uri: str, passed: Path, page: SimpleNamespace) -> None:
    page.client.delete_experiment(page.client.create_experiment("deleted"))
    with pytest.raises(InputError, match="was deleted"):
        MlflowRegistry(tracking_uri=uri, experiment="deleted").publish(passed)


def test_the_store_is_the_given_one_else_the_environments_else_a_file_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    assert resolve_tracking_uri("sqlite:////given.db") == "sqlite:////given.db"
    assert resolve_tracking_uri(None) == "http://elsewhere:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert resolve_tracking_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"


def test_publishing_leaves_the_process_as_it_was(passed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    before, level = dict(os.environ), logging.getLogger("mlflow").level
    MlflowRegistry(register_as="mine").publish(passed)
    assert dict(os.environ) == before
    assert logging.getLogger("mlflow").level == level
    assert not mlflow.is_tracking_uri_set() and mlflow.active_run() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlruns"]


def test_two_processes_do_not_mirror_one_folder_at_once(uri: str, passed: Path) -> None:
    import fcntl

    with (passed / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"):
            MlflowRegistry(tracking_uri=uri).publish(passed)


def test_it_conforms_and_is_found_by_name() -> None:
    assert REGISTRIES.build("mlflow", {"experiment": "mine"}) == MlflowRegistry(experiment="mine")


def test_names_stay_apart_and_what_is_not_finite_is_dropped() -> None:
    assert slugs(["a=b", "a<b", "a b"]) == {"a=b": "a_b", "a<b": "a_b-2", "a b": "a_b-3"}
    assert points({"a": 1, "b": float("nan"), "c": float("inf"), "d": None}) == [Point(key="a", value=1.0)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--artifacts-destination", str(tmp_path / "kept")]  # fmt: skip
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(address: str) -> None:
    for _ in range(60):
        try:
            MlflowRegistry(tracking_uri=address).check()
            return
        except InputError:
            time.sleep(1)
    raise TimeoutError(address)


@pytest.mark.slow
def test_a_real_server_gets_everything_once_though_the_publisher_is_killed(
    server: str, passed: Path, page: SimpleNamespace
) -> None:
    code = (
        "import sys; from pathlib import Path; from compress_explain.registry import MlflowRegistry as R; "
        "R(tracking_uri=sys.argv[1], experiment='served', register_as='served').publish(Path(sys.argv[2]))"
    )
    for seconds in (4.0, 5.5, 7.0):
        publisher = subprocess.Popen([sys.executable, "-c", code, server, str(passed)])
        time.sleep(seconds)
        publisher.kill()
        publisher.wait()
    address = MlflowRegistry(tracking_uri=server, experiment="served", register_as="served").publish(passed)
    assert address.startswith(f"{server}/#/experiments/")
    found = held(MlflowClient(tracking_uri=server), "served").facts
    expected = dict(page.held.facts)
    assert [int(version) for version, _ in found.pop("versions")] == [
        int(version) for version, _ in expected.pop("versions")
    ]
    assert found == expected
