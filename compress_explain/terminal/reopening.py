"""Opening a run again with its model and data, which must be those that it saw."""

from __future__ import annotations

from compress_explain.data.loading import DataSpec, Splits, load_splits
from compress_explain.data.slices import SliceRule
from compress_explain.errors import InputError
from compress_explain.model.loading import Subject, load_subject
from compress_explain.record.outcome import REPORT, Run, write_report


def reopened(run: Run) -> tuple[Subject, Splits]:
    """The original and the three splits of a run.

    Raises:
        InputError: its data were given in memory, or model or data are not what they were.
    """
    settings = run.summary["settings"]
    if settings["data"] is None:
        problem = "its data were given in memory, not as files"
        raise InputError("run", str(run.folder), problem, "do it where the run was made")
    subject = load_subject(settings["model"], settings["task"])
    if subject.digest != run.ledger.records[0].body["model"]["digest"]:
        raise InputError("model", settings["model"], "has changed since the run", "restore the files")
    rules = [SliceRule(**rule) for rule in settings["slices"]]
    splits = load_splits(DataSpec(**settings["data"]), rules, subject, settings["seed"])
    for split in splits:
        if split.digest != run.summary["splits"][split.name]["digest"]:
            raise InputError("data", settings["data"][split.name], "has changed since the run", "restore the files")
    return subject, splits


def renew_report(run: Run, subject: Subject, splits: Splits) -> None:
    """Render the report of a run again, after something was added to its folder."""
    write_report(Run(run.folder), splits, subject.labels)
    print(f"renewed {run.folder / REPORT}")
