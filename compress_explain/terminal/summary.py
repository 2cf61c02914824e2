"""A finished run on the terminal: what was removed, what it cost whom, what came back and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from compress_explain.choosing.target import told
from compress_explain.deployment.forms import spoken
from compress_explain.record.outcome import REPORT, Run
from compress_explain.record.replay import applied_plans
from compress_explain.terminal.console import output
from compress_explain.terminal.reading import describe

STATES = {"pass": "[green]✔ pass[/]", "fail": "[red]✘ fail[/]", "inconclusive": "[yellow]? inconclusive[/]"}
_VERDICTS = {
    "pass": "[bold green]PASSED[/]: every gate holds on the file that would be deployed",
    "fail": "[bold red]FAILED[/]: do not release",
    "inconclusive": "[bold yellow]INCONCLUSIVE[/]: no gate failed, but there are too few examples to be sure",
}


def print_run(run: Run, console: Console | None = None) -> None:
    """Print the tables, the verdict and the next commands."""
    console = console or output()
    console.print()
    console.print(_removed_table(run))
    if run.summary["deployed"] is not None and run.summary["deployed"]["measured"] is not None:
        console.print(f"Fastest here: {spoken(run.summary['deployed']['measured'])}\n", highlight=False, soft_wrap=True)
    console.print(_cost_table(run))
    _print_tuned(run, console)
    _print_restored(run, console)
    console.print(f"\nVerdict: {_VERDICTS[run.state]}", highlight=False)
    if run.summary.get("target"):
        console.print(f"  {told(run.summary['target'])}", highlight=False, soft_wrap=True)
    for reason in _reasons(run):
        console.print(f"  {reason}", highlight=False, soft_wrap=True)
    _print_next(run, console)


def print_places(places: Sequence[str]) -> None:
    """Where registries show the run, once it is there."""
    for place in places:
        output().print(f"  this run in MLflow: {place}", highlight=False, soft_wrap=True)


def _removed_table(run: Run) -> Table:
    summary = run.summary
    table = Table(title="What was removed", title_justify="left", header_style="bold")
    for name in ("part", "original", "now", "change"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for kind, counts in summary["components"].items():
        total = sum(counts.values())
        stays = total - counts["removed"]
        note = f"-{counts['removed']:,}" + (f" ({counts['restored']:,} put back)" if counts["restored"] else "")
        table.add_row(plural(kind), f"{total:,}", f"{stays:,}", note)
    for name, key in (("parameters", "parameters"), ("FLOPs in layers", "flops")):
        before, after = summary[key]["original"], summary[key]["compressed"]
        table.add_row(name, f"{before:,}", f"{after:,}", f"{after / before - 1:+.1%}")
    deployed = summary["deployed"]
    if deployed is not None:
        before, after = deployed["original_bytes"], deployed["bytes"]
        table.add_row("bytes of the file", f"{before:,}", f"{after:,}", f"{after / before - 1:+.1%}")
        stored = ", ".join(f"{count} {name}" for name, count in deployed["linears"].items())
        table.caption = f"{deployed['file']}: linears {stored}"
        table.caption_justify = "left"
    return table


def _cost_table(run: Run) -> Table:
    """Accuracy by slice, the worst first, with the first judgement beside the last."""
    scores = run.scores
    split = run.summary["judged_split"]
    accuracy = scores[scores["metric"] == "accuracy"].sort_values("difference", kind="stable")
    first = {row["slice"]: row for row in run.summary["first_verdicts"] if row["metric"] == "accuracy"}
    level = f"{accuracy['confidence'].iloc[0]:.0%}" if len(accuracy) else ""
    table = Table(title=f"What it cost whom (accuracy on {split})", title_justify="left", header_style="bold")
    table.add_column("slice")
    for name in ("n", "original", "now", f"change [{level} interval]", "before putting back*"):
        table.add_column(name, justify="right")
    for row in accuracy.to_dict("records")[:12]:
        before = first.get(row["slice"])
        table.add_row(
            "[bold]all rows[/]" if row["slice"] == "all" else row["slice"],
            f"{row['n']:,}", f"{row['original']:.3f}", f"{row['compressed']:.3f}",
            f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]",
            f"{before['estimate']:+.3f} {STATES[before['state']]}" if before and before["estimate"] is not None else "",
        )  # fmt: skip
    table.caption = "* on validation, where parts are put back; worst slices first"
    table.caption_justify = "left"
    return table


def _print_tuned(run: Run, console: Console) -> None:
    """What learning from the original did, a line a strategy that tuned; brief tunings belong to what is put back."""
    for record in run.ledger.of_kind("tuned"):
        if record.body["share"] == 1:
            console.print(
                f"What was left was {describe(record)} ({record.body['seconds']:.0f} s)",
                highlight=False,
                soft_wrap=True,
            )


def _print_restored(run: Run, console: Console) -> None:
    back = run.components[run.components["status"] == "restored"]
    if back.empty:
        console.print("Nothing was put back: the gates held at the first judgement.")
        return
    share = run.summary["restored_share"]
    console.print(
        f"Put back: {len(back):,} of the removed parts ({share['count']:.1%}), because a gate failed. The most useful:"
    )
    for applied in applied_plans(run.ledger):
        if applied.plan.edits and applied.plan.edits[0].action == "restore":
            for edit in applied.plan.edits[:3]:
                console.print(f"  {edit.component}: {edit.reason}", highlight=False, soft_wrap=True)
            break


def _reasons(run: Run) -> list[str]:
    """The gates that did not pass, or the tightest one that did."""
    verdicts = run.summary["verdicts"]
    troubled = [row for row in verdicts if row["state"] != "pass"]
    chosen: list[dict[str, Any]] = troubled or sorted(verdicts, key=lambda row: row["slack"])[:1]
    lead = "" if troubled else "tightest gate: "
    return [f"{STATES[row['state']]} {lead}{row['message']}" for row in chosen[:5]]


def _print_next(run: Run, console: Console) -> None:
    console.print("\nNext:", highlight=False)
    lines = [f"open {run.folder / REPORT}    the report, one file"]
    lines.append(f"compress-explain show {run.folder}    the ledger, readable")
    lines.append("compress-explain ui    runs side by side in MLflow")
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def plural(kind: str) -> str:
    """
    >>> plural("kv_group")
    'kv groups'
    """
    return kind.replace("_", " ") + "s"
