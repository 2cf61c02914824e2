"""From the checkpoint to what runs: the form that is deployed, the others that were asked for, and the manifest."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from compress_explain.data.examples import Examples
from compress_explain.deployment.compiled import TorchRunner
from compress_explain.deployment.deploy import COMPILED_FILE, FILE, Deployed, deploy, deploy_checkpoint, deploy_compiled
from compress_explain.deployment.export import check_runner
from compress_explain.deployment.forms import Artifact, Form, spoken
from compress_explain.deployment.latency import Latency, measure
from compress_explain.deployment.manifest import MANIFEST, write_manifest
from compress_explain.deployment.program import export_program
from compress_explain.deployment.scheme import Scheme
from compress_explain.editing.dense import dense_twin
from compress_explain.errors import ArtifactError, InputError
from compress_explain.model.depth import shortened
from compress_explain.record.checkpoint import MANIFEST as CHECKPOINT
from compress_explain.record.checkpoint import WEIGHTS, load_compressed
from compress_explain.running.opening import open_form

if TYPE_CHECKING:
    from compress_explain.running.session import Session

DENSE, PROGRAM = "dense", "program.pt2"
ROUNDS, WARM_UP = 30, 5
_OF_THE_MODEL = {WEIGHTS, CHECKPOINT, "config.json", "generation_config.json"}


def deliver(session: Session, artifact: Path, calibration: Examples) -> None:
    """Write what will run, and what else was asked for, beside the checkpoint in ``artifact``.

    Every form is checked against the model on rows of ``calibration``, as the artifact reads them.

    Raises:
        InputError: a form cannot be made of this model or on this machine.
        ArtifactError: a form does not compute what the model computes.
    """
    if session.ledger.find("deployed", "artifact"):
        return
    model = load_compressed(artifact)
    with TemporaryDirectory() as workshop:
        made = _make_deployed(session, model, artifact, calibration, Path(workshop))
        files = _take_in(made, artifact)
    written = {made.form.runtime, "checkpoint"}
    for name in dict.fromkeys(session.job.artifacts):
        if name not in written:
            _write(session, name, model, artifact, calibration)
    table = session.folder / "tables" / "linears.parquet"
    made.to_frame().to_parquet(table, index=False)
    write_manifest(artifact, made.form, files[0].name, made.processor)
    body = {**made.facts(), "file": files[0].relative_to(session.folder).as_posix()}
    session.ledger.append("deployed", "artifact", body, (table, artifact / MANIFEST, *files))


def _make_deployed(
    session: Session, model: PreTrainedModel, artifact: Path, calibration: Examples, workshop: Path
) -> Deployed:
    """The one form that can be, or the fastest of several; a choice that was made stands."""
    forms, measured = session.job.forms, session.ledger.find("measured", "runtime")
    if measured is not None:
        forms = tuple(form for form in forms if form.name == measured.body["chosen"])
    if len(forms) == 1:
        return _make(session, forms[0], model, artifact, calibration, workshop)
    made: dict[Form, Deployed] = {}
    left_out: dict[str, str] = {}
    for form in forms:
        try:
            made[form] = _make(session, form, model, artifact, calibration, workshop / form.name)
        except (InputError, ArtifactError) as error:
            left_out[form.name] = str(error)
    return made[_fastest(session, made, left_out, calibration)]


def _make(
    session: Session, form: Form, model: PreTrainedModel, artifact: Path, calibration: Examples, folder: Path
) -> Deployed:
    if form.runtime == "torch":
        return deploy_checkpoint(model, session.anatomy, artifact)
    if form.runtime == "compiled":
        session.progress.say("compiling the model in bfloat16 (a minute or so) and checking it")
        return deploy_compiled(model, session.anatomy, calibration, folder / COMPILED_FILE)
    session.progress.say(f"writing the ONNX file ({form.scheme}) and checking it against the model")
    scheme = session.job.scheme
    scheme = scheme if scheme is not None and form.scheme == scheme.name else None
    return _make_onnx(session, scheme, model, calibration, folder / FILE)


def _make_onnx(
    session: Session, scheme: Scheme | None, model: PreTrainedModel, calibration: Examples, path: Path
) -> Deployed:
    anatomy, quantized = shortened(session.anatomy, session.masks.removed), session.masks.quantized
    return deploy(
        model, anatomy, calibration, path, scheme=scheme, quantized={} if scheme is None else quantized,
        found=session.masks.activations_left(),
    )  # fmt: skip


def _fastest(
    session: Session, made: Mapping[Form, Deployed], left_out: Mapping[str, str], calibration: Examples
) -> Form:
    """Time every form side by side on one calibration row of median length, alone in its batch, and record it."""
    row = np.argsort(calibration.lengths, kind="stable")[len(calibration) // 2 :][:1]
    inputs = next(calibration.batches(1, row)).inputs
    runners = {form.name: open_form(form, each.path) for form, each in made.items()}
    timed = measure(runners, inputs, rounds=ROUNDS, warm_up=WARM_UP)
    chosen = min(made, key=lambda form: timed[form.name].median)
    table = session.folder / "tables" / "forms.parquet"
    rows = [
        {"form": name, "round": index, "milliseconds": value}
        for name, latency in timed.items()
        for index, value in enumerate(latency.milliseconds)
    ]
    pd.DataFrame(rows).to_parquet(table, index=False)
    body = {
        "chosen": chosen.name, "tokens": int(calibration.lengths[row[0]]) if "input_ids" in inputs else None, "batch": 1,
        "threads": torch.get_num_threads(), "rounds": ROUNDS, "processor": str(torch.cpu.get_capabilities()["cpu_name"]),
        "forms": [_timing(name, latency) for name, latency in timed.items()],
        "left_out": [{"form": name, "why": why} for name, why in left_out.items()],
    }  # fmt: skip
    session.ledger.append("measured", "runtime", body, (table,))
    for name, why in left_out.items():
        session.progress.say(f"not measured: {name}: {why}")
    session.progress.say(f"fastest on this machine: {spoken(body)}")
    return chosen


def _timing(name: str, latency: Latency) -> dict[str, Any]:
    low, high = latency.interval
    return {"form": name, "milliseconds": latency.median, "low": low, "high": high}


def _take_in(made: Deployed, artifact: Path) -> list[Path]:
    """Bring a file and what lies beside it into the artifact; the one that runs comes first."""
    if made.path.parent == artifact:
        return [made.path]
    beside = sorted(made.path.parent.glob(f"{made.path.name}.*"))
    return [Path(shutil.move(path, artifact / path.name)) for path in (made.path, *beside)]


def _write(session: Session, name: Artifact, model: PreTrainedModel, artifact: Path, calibration: Examples) -> None:
    """One more form, checked and recorded."""
    if session.ledger.find("written", name):
        return
    what, write = _OTHERS[name]
    session.progress.say(f"writing {what} and checking it against the model")
    facts, files = write(session, model, artifact, calibration)
    body = {"bytes": sum(file.stat().st_size for file in files), **facts}
    session.ledger.append("written", name, body, tuple(files))


_Written = tuple[dict[str, Any], list[Path]]


def _write_onnx(session: Session, model: PreTrainedModel, artifact: Path, calibration: Examples) -> _Written:
    made = _make_onnx(session, session.job.scheme, model, calibration, artifact / FILE)
    return made.facts(), sorted(artifact.glob(f"{FILE}*"))


def _write_dense(session: Session, model: PreTrainedModel, artifact: Path, calibration: Examples) -> _Written:
    folder = artifact / DENSE
    shutil.rmtree(folder, ignore_errors=True)
    removed, standing = session.masks.removed, session.masks.standing
    with session.masks.untouched():
        twin = dense_twin(session.job.subject.model, session.anatomy, removed, standing)
    twin.save_pretrained(folder)
    materialized = session.ledger.find("materialized", "artifact")
    assert materialized is not None, "the checkpoint comes first"
    for file in (session.folder / name for name in materialized.files):
        if file.name not in _OF_THE_MODEL:
            shutil.copy(file, folder)
    loaded = type(twin).from_pretrained(folder).eval()
    difference = check_runner(TorchRunner(model=loaded), str(folder), model, calibration)
    return {"difference": difference}, sorted(path for path in folder.iterdir() if path.is_file())


def _write_program(session: Session, model: PreTrainedModel, artifact: Path, calibration: Examples) -> _Written:
    path = artifact / PROGRAM
    return {"difference": export_program(model, calibration, path)}, [path]


_OTHERS: dict[str, tuple[str, Callable[[Session, PreTrainedModel, Path, Examples], _Written]]] = {
    "onnx": ("the ONNX file", _write_onnx),
    "dense": ("the dense twin", _write_dense),
    "program": ("the program of torch", _write_program),
}
