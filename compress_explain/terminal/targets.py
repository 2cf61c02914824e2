"""Taking what was measured on other machines into a run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from compress_explain.deployment.targets import read_targets, targets_of
from compress_explain.errors import InputError
from compress_explain.hardware.onnx_file import digest
from compress_explain.model.loading import quieten
from compress_explain.record.folder import open_folder
from compress_explain.record.outcome import Run
from compress_explain.terminal.console import output
from compress_explain.terminal.reopening import renew_report, reopened


def take_targets(folder: Path, files: Sequence[Path]) -> None:
    """Check target files, keep them with the run, and show them in its report.

    Raises:
        InputError: the run deploys no ONNX file, or a target file is of another artifact or not readable.
    """
    quieten()
    run = Run(folder)
    deployed = folder / "artifact" / "model.onnx"
    if not deployed.exists():
        problem = "it has no ONNX file, which is what other machines time"
        raise InputError("run", str(folder), problem, "set runtime to onnx, or name onnx among its artifacts")
    read_targets(files, digest(deployed))
    subject, splits = reopened(run)
    with open_folder(folder, run.summary["identity"], resume=True) as ledger:
        (folder / "targets").mkdir(exist_ok=True)
        for file in files:
            kept = folder / "targets" / file.name
            step = f"{file.stem}-{len(ledger.of_kind('targeted')) + 1}"
            shutil.copyfile(file, kept.with_name(f"{step}.json"))
            ledger.append("targeted", step, {"file": file.name}, (kept.with_name(f"{step}.json"),))
    for row in targets_of(folder):
        times = (
            f", {row.speedup.value:.3g} times as fast ({row.speedup.low:.3g} to {row.speedup.high:.3g})"
            if row.speedup
            else ""
        )
        output().print(
            f"{row.machine}: {row.batch} x {row.tokens} in {row.artifact.value:.3g} ms{times}", highlight=False
        )
    renew_report(run, subject, splits)
