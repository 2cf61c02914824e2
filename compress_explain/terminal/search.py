"""A finished search on the terminal: the front, the named point and why, and how good the prices were."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compress_explain.record.outcome import REPORT
from compress_explain.search import Found
from compress_explain.terminal.console import output
from compress_explain.terminal.summary import STATES

RUNGS = {
    "priced": "priced only", "masked": "tried by mask", "refitted": "tried with refitting", "trials": "run in full",
}  # fmt: skip


def print_search(found: Found, console: Console | None = None) -> None:
    """Print the trials, the choice and the next commands."""
    console = console or output()
    console.print()
    console.print(_rungs(found))
    console.print(_trials(found))
    summary = found.summary
    if summary["named"] is None:
        console.print(f"\nNo point is named: {summary['why']}", highlight=False, soft_wrap=True)
    else:
        console.print(f"\nNamed: trial {summary['named']}, because {summary['why']}", highlight=False, soft_wrap=True)
        test = summary["test"]
        console.print(
            f"  on test: {STATES[test['state']]}, accuracy {_change(test)} (n = {test['rows']:,})",
            highlight=False,
            soft_wrap=True,
        )
    for line in agreement_in_words(summary):
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    _print_next(found, console)


def agreement_in_words(summary: dict[str, Any]) -> list[str]:
    """How well what was expected before anything was tried ranked what was then seen."""
    lines = []
    for rung in summary["rungs"]:
        told = rung["agreement"]
        if told and told["together"] is not None:
            lines.append(
                f"prices against what was seen when {RUNGS[rung['name']]}: rank correlation of KL {told['together']:.2f} "
                f"(prices simply added: {told['summed']:.2f}; n = {told['n']})"
            )
    return lines


def _rungs(found: Found) -> Table:
    table = Table(title="How pipelines were thinned out", title_justify="left", header_style="bold")
    table.add_column("rung")
    for name in ("pipelines", "went on"):
        table.add_column(name, justify="right")
    for rung in found.summary["rungs"]:
        table.add_row(RUNGS[rung["name"]], f"{rung['considered']:,}", f"{rung['kept']:,}")
    return table


def _trials(found: Found) -> Table:
    timed = any(body.get("milliseconds") is not None for body in found.trials)
    table = Table(
        title="Trials (costs of what would be deployed; accuracy on validation)",
        title_justify="left",
        header_style="bold",
    )
    table.add_column("")
    table.add_column("pipeline", overflow="fold")
    for name in ("FLOPs", "bytes", "work", *(("ms",) if timed else ()), "accuracy, change [95%]", "gates"):
        table.add_column(name, justify="right")
    for body in sorted(found.trials, key=lambda body: (body["cost"] is None, body["cost"])):
        table.add_row(*_row(body, timed=timed))
    table.caption = (
        "* named    + no other is better in cost and accuracy alike; work: FLOPs in float32 that take as long"
    )
    table.caption_justify = "left"
    return table


def _row(body: dict[str, Any], *, timed: bool) -> list[str]:
    mark = ("*" if body["named"] else "") + ("+" if body["on_front"] else "")
    if body["trouble"] is not None:
        return [f"{body['number']}", escape(body["pipeline"]), *[""] * (3 + timed), escape(body["trouble"][:60]), ""]
    costs = [f"{body['flops']:.0%}", _share(body["bytes"]), f"{body['work']:.0%}"]
    costs += [f"{body['milliseconds']:.3g}" if body["milliseconds"] is not None else ""] if timed else []
    return [f"{body['number']} {mark}", escape(body["pipeline"]), *costs, _change(body), STATES[body["state"]]]


def _change(body: dict[str, Any]) -> str:
    return f"{body['accuracy_change']:+.3f} [{body['accuracy_low']:+.3f}, {body['accuracy_high']:+.3f}]"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _print_next(found: Found, console: Console) -> None:
    console.print("\nNext:", highlight=False)
    lines = [f"open {found.folder / REPORT}    the front, one page; every point leads to its own report"]
    if found.named is not None:
        lines.append(f"load_deployed({str(found.named.folder / 'artifact')!r})    what would be deployed")
        lines.append(f"compress-explain show {found.named.folder}    its ledger, readable")
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True)
