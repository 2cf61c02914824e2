"""Judging two models, judging again, comparing and waiving, from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from compress_explain.comparison.declared import load_gates
from compress_explain.comparison.waivers import Waiver, check_waivers
from compress_explain.data.encoding import Reading
from compress_explain.data.examples import Examples
from compress_explain.data.loading import load_test, load_test_and_more
from compress_explain.data.slices import SliceRule, load_rules
from compress_explain.documents import read_yaml
from compress_explain.errors import Exit, InputError
from compress_explain.evaluating import (
    Comparison,
    Evaluated,
    Evaluation,
    Judged,
    compare,
    evaluate,
    judge_again,
    open_model,
)
from compress_explain.model.loading import Subject, quieten
from compress_explain.plugins.catalog import EVALUATORS, named
from compress_explain.plugins.evaluator import DEFAULT, Evaluator, Measuring
from compress_explain.progress import Progress
from compress_explain.record.folder import open_folder, write_json
from compress_explain.record.outcome import EXITS, REPORT
from compress_explain.record.replay import read_ledger
from compress_explain.terminal.console import output
from compress_explain.terminal.fetching import fetching
from compress_explain.terminal.mirroring import check_where_asked, publish_where_asked
from compress_explain.terminal.summary import STATES

_FIRST = ("accuracy", "macro_f1", "nll", "brier", "negative_flips")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for on the command line."""

    original: str
    candidate: str
    data: str
    task: str | None
    gates: Path | None
    slices: Path | None
    evaluators: str | None
    champion: str | None
    input: str | None
    label: str | None
    rows: int | None
    max_length: int | None
    batch_size: int
    threads: int | None
    seed: int
    redact: bool
    learn: str | None = None
    tracking_uri: str | None = None


def run_evaluation(wanted: Wanted, out: Path, *, resume: bool) -> Exit:
    """Evaluate and show what came out."""
    quieten()
    check_where_asked(wanted.tracking_uri)
    if wanted.threads:
        torch.set_num_threads(wanted.threads)
    gates = [] if wanted.gates is None else load_gates(wanted.gates)
    rules = () if wanted.slices is None else load_rules(wanted.slices)
    evaluators = _evaluators(wanted.evaluators)
    progress = Progress()
    with fetching() as registry:
        progress.say(f"original: {wanted.original}")
        original = open_model(wanted.original, wanted.task, fetch=registry.model)
        progress.say(f"candidate: {wanted.candidate}")
        candidate = open_model(
            wanted.candidate, wanted.task or original.subject.task, fetch=registry.model, like=original
        )
        kind = original.subject.kind
        reading = Reading(
            input=wanted.input or kind.input, label=wanted.label or kind.label or "label", max_length=wanted.max_length,
            long_text="truncate",
        )  # fmt: skip
        test, learning = _load(wanted, rules, original.subject, reading)
        progress.say(f"data: {len(test):,} rows{f', and {len(learning):,} to learn from' if learning else ''}")
        evaluation = Evaluation(
            original=original, candidate=candidate, test=test, evaluators=evaluators, gates=gates,
            champion=registry.champion(wanted.champion, progress), batch_size=wanted.batch_size, seed=wanted.seed,
            redact=wanted.redact, learning=learning,
        )  # fmt: skip
        evaluated = evaluate(evaluation, out, progress, resume=resume)
    print_evaluation(evaluated)
    publish_where_asked(out, wanted.tracking_uri)
    return evaluated.exit_code


def _load(
    wanted: Wanted, rules: Sequence[SliceRule], subject: Subject, reading: Reading
) -> tuple[Examples, Examples | None]:
    """The rows that are judged on, and those to learn from if there are any."""
    if wanted.learn is None:
        return load_test(wanted.data, rules, subject, reading, rows=wanted.rows, seed=wanted.seed), None
    sources = wanted.data, wanted.learn
    return load_test_and_more(sources, rules, subject, reading, rows=wanted.rows, seed=wanted.seed)


def judge_folder(folder: Path, gates: Path | None, champion: str | None) -> Exit:
    """Judge again and show the verdicts."""
    chosen = None if gates is None else load_gates(gates)
    with fetching() as registry:
        judged = judge_again(folder, chosen, champion=registry.champion(champion, Progress()))
    print_judged(judged)
    return EXITS[judged.state]


def compare_folders(folders: Sequence[Path], despite: Sequence[str], out: Path | None) -> None:
    """Compare and show, and write where that was asked for."""
    comparison = compare(folders, despite)
    print_comparison(comparison)
    if out is not None:
        write_json(out, comparison.facts())
        output().print(f"wrote {out}")


def waive_gate(folder: Path, metric: str, slice_name: str, who: str, why: str, until: str) -> Exit:
    """Enter a waiver in the ledger, and judge again under it."""
    waiver = Waiver(metric=metric, slice=slice_name, who=who, why=why, until=until)
    today = date.today()
    check_waivers([waiver], today)
    if not waiver.holds_on(today):
        raise InputError("until", until, "that day is over", "give a day that is still to come")
    before = judge_again(folder)
    covered = [verdict for verdict in before.verdicts if waiver.covers(verdict)]
    if not covered:
        known = ", ".join(
            f"{verdict.gate.metric} on {verdict.slice}" for verdict in before.verdicts if verdict.state != "pass"
        )
        raise InputError(
            "waive", f"{metric} on {slice_name}", "no gate is about this", f"those that do not hold: {known or 'none'}"
        )
    if all(verdict.state == "pass" for verdict in covered):
        raise InputError("waive", f"{metric} on {slice_name}", "this gate holds", "nothing needs to be waived")
    identity = read_ledger(folder).records[0].body["identity"]
    with open_folder(folder, identity, resume=True) as ledger:
        count = len(ledger.of_kind("waived"))
        ledger.append("waived", f"waiver-{count + 1}", waiver.facts())
    return judge_folder(folder, None, None)


def print_evaluation(evaluated: Evaluated, console: Console | None = None) -> None:
    """The headline figures, the verdicts and where the report is."""
    console = console or output()
    scores = evaluated.scores
    overall = scores[scores["slice"] == "all"]
    level = f"{scores['confidence'].iloc[0]:.0%}" if len(scores) else ""
    split = evaluated.summary["splits"]["test"]
    table = Table(title=f"Both models on the same {split['rows']:,} rows", title_justify="left", header_style="bold")
    for name in ("figure", "n", "original", "candidate", f"change [{level} interval]"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for row in overall.to_dict("records"):
        table.add_row(
            f"{row['metric'].replace('_', ' ')}{'' if row['unit'] == 'share' else ', ' + row['unit']}",
            f"{row['n']:,}", f"{row['original']:.4f}", f"{row['compressed']:.4f}",
            f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]{' (?)' if row['doubt'] else ''}",
        )  # fmt: skip
    console.print(table)
    for doubt in dict.fromkeys(doubt for doubt in overall["doubt"] if doubt):
        console.print(f"  (?) {doubt}", highlight=False, soft_wrap=True)
    if evaluated.summary["judged"]:
        _print_verdicts(evaluated.summary["verdicts"], console)
        _print_state(evaluated.state, evaluated.summary["verdicts"], console)
    else:
        console.print("No gates were given, so nothing was judged: add --gates FILE.", highlight=False)
    console.print(f"\nopen {evaluated.folder / REPORT}    the report, one file", highlight=False, soft_wrap=True)


def print_judged(judged: Judged, console: Console | None = None) -> None:
    """The verdicts of stored predictions."""
    console = console or output()
    rows = [verdict.row() for verdict in judged.verdicts]
    _print_verdicts(rows, console)
    if judged.same:
        console.print("Scores and verdicts are those recorded, bit for bit.", highlight=False)
    _print_state(judged.state, rows, console)


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """One column a run; under it what stands between it and the first, on the same rows."""
    console = console or output()
    table = Table(title="Side by side, on the same rows", title_justify="left", header_style="bold")
    table.add_column("")
    for each in comparison.compared:
        table.add_column(each.folder.name, justify="right")
    table.add_row("verdict", *(STATES[each.state] for each in comparison.compared))
    table.add_row("attempt", *("" if each.attempt is None else str(each.attempt) for each in comparison.compared))
    for key in ("parameters", "flops"):
        if any(key in each.size for each in comparison.compared):
            shares = (f"{each.size[key]:.1%}" if key in each.size else "" for each in comparison.compared)
            table.add_row(f"{key} kept", *shares)
    for metric in _metrics(comparison):
        table.add_row(metric.replace("_", " "), *(_figure(each.scores, metric) for each in comparison.compared))
        beside = [_beside(each.beside_first, metric) for each in comparison.compared]
        if any(beside):
            table.add_row("  against the first", *beside)
    console.print(table)
    for key, (mine, theirs) in comparison.despite.items():
        console.print(f"  let pass: {key} is {mine} and {theirs}", highlight=False, soft_wrap=True)
    if comparison.versions_differ:
        console.print("  versions of packages differ; see protocol.json of each", highlight=False)


def _metrics(comparison: Comparison) -> list[str]:
    everywhere = [{row["metric"] for row in each.scores} for each in comparison.compared]
    shared = set.intersection(*everywhere)
    first = [metric for metric in _FIRST if metric in shared]
    return [*first, *sorted(shared - set(first))][:12]


def _figure(scores: Sequence[dict[str, Any]], metric: str) -> str:
    row = next(row for row in scores if row["metric"] == metric)
    return f"{row['original']:.4f} → {row['compressed']:.4f}"


def _beside(scores: Sequence[Any], metric: str) -> str:
    score = next((each for each in scores if each.metric == metric and each.slice == "all"), None)
    return "" if score is None else f"{score.difference:+.4f} [{score.low:+.4f}, {score.high:+.4f}]"


def _print_verdicts(rows: Sequence[dict[str, Any]], console: Console) -> None:
    for row in rows:
        note = " (does not count)" if row["state"] != "pass" and row["counts_as"] == "pass" else ""
        console.print(f"  {STATES[row['state']]}{note} {row['message']}", highlight=False, soft_wrap=True)


def _print_state(state: str, rows: Sequence[dict[str, Any]], console: Console) -> None:
    words = {"pass": "every gate holds", "fail": "do not release", "inconclusive": "too few rows to be sure"}
    aside = sum(row["state"] != "pass" and row["counts_as"] == "pass" for row in rows)
    if state == "pass" and aside:
        words["pass"] = f"every gate that counts holds; {aside} of {len(rows)} are waived or only warn"
    console.print(f"Verdict: {STATES[state]}, {words[state]}", highlight=False)


def _evaluators(wanted: str | None) -> list[Evaluator | Measuring]:
    """The default set, some by name, or those that a YAML file lists."""
    if wanted is None:
        return [EVALUATORS.build(name, {}) for name in DEFAULT]
    if not wanted.endswith((".yaml", ".yml")):
        return [EVALUATORS.build(name.strip(), {}) for name in wanted.split(",")]
    document = read_yaml("evaluators", Path(wanted), f"check the path (from {Path.cwd()})")
    listed = document.get("evaluators") if isinstance(document, dict) else document
    if not isinstance(listed, list) or not listed:
        raise InputError("evaluators", wanted, "lists no evaluators", "write e.g. - quality")
    return [EVALUATORS.build(*named("evaluators", entry)) for entry in listed]
