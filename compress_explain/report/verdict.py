"""The first lines of the report: the verdict in one sentence, and the key figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from compress_explain.choosing.target import told
from compress_explain.report.judgement import Judgement, headline
from compress_explain.report.labels import answers, plural
from compress_explain.report.numbers import count, kinds, magnitude, plain, share

if TYPE_CHECKING:
    from compress_explain.record.outcome import Run

WORDS = {
    "pass": ("PASSED", "may be released"),
    "fail": ("FAILED", "must not be released"),
    "inconclusive": ("INCONCLUSIVE", "do not release yet"),
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One key figure: what it is, its value, and a line of context."""

    name: str
    value: str
    context: str


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a reader sees first."""

    model: str
    state: str
    word: str
    advice: str
    sentences: tuple[str, ...]
    figures: tuple[Figure, ...]


def opening(run: Run, final: Judgement) -> Opening:
    """The verdict and what it was reached on."""
    word, advice = WORDS[run.state]
    if final.of_artifact and not final.on_test:
        advice = "on validation; not judged on test"
    return Opening(
        model=PurePath(run.summary["settings"]["model"]).name,
        state=run.state,
        word=word,
        advice=advice,
        sentences=(
            _size_and_quality(run, final),
            gates_in_words(run.state, final),
            *_target_in_words(run),
            _where_judged(final),
        ),
        figures=tuple(_figures(run, final)),
    )


def _size_and_quality(run: Run, final: Judgement) -> str:
    summary = run.summary
    flops, parameters = (part["compressed"] / part["original"] for part in (summary["flops"], summary["parameters"]))
    text = (
        f"The compressed model does {share(flops)} of the original's layer FLOPs with {share(parameters)} "
        "of its parameters"
    )
    score = headline(final)
    if score is None:
        return text + "."
    change = f"{spoken(score['metric'])} {plain(score['original'], 3)} → {plain(score['compressed'], 3)}"
    where = "" if score["slice"] == "all" else f" (slice {score['slice']})"
    return f"{text}; {change} on {count(int(score['n']))} {final.split} rows{where}."


def gates_in_words(state: str, final: Judgement) -> str:
    states = [verdict["state"] for verdict in final.verdicts]
    total = len(states)
    if state == "pass":
        return "The one gate holds." if total == 1 else f"All {total} gates hold."
    failed, undecided = states.count("fail"), states.count("inconclusive")
    if state == "fail":
        also = f", {undecided} more could not be decided" if undecided else ""
        return f"{failed} of {total} gates failed{also}."
    needed = [verdict["n_needed"] for verdict in final.verdicts if verdict["n_needed"]]
    settle = f" About {count(max(needed))} examples would settle it for all." if needed else ""
    return f"No gate failed, but {undecided} of {total} could not be decided with the examples at hand.{settle}"


def _target_in_words(run: Run) -> Iterator[str]:
    target = run.summary.get("target")
    if target:
        sentence = told(target)
        yield f"{sentence[0].upper()}{sentence[1:]}."


def _where_judged(final: Judgement) -> str:
    if final.of_artifact and not final.on_test:
        return (
            f"Judged is the file that would be deployed, on the {final.split} split: this run is one of several that a search "
            "chose from, and only the chosen one reads the test split."
        )
    if final.of_artifact:
        return f"Judged is the file that would be deployed, on the {final.split} split, which nothing else has read."
    return (
        f"It failed on the {final.split} split already, so no artifact was written and the test split was not read. "
        "All figures below are of the model with its removed parts masked."
    )


def _figures(run: Run, final: Judgement) -> Iterator[Figure]:
    summary = run.summary
    for name, key in (("Layer FLOPs", "flops"), ("Parameters", "parameters")):
        original, compressed = summary[key]["original"], summary[key]["compressed"]
        context = f"{magnitude(compressed)} of {magnitude(original)}"
        yield Figure(name=name, value=share(compressed / original), context=context)
    score = headline(final)
    if score is not None:
        yield score_figure(score, final.split)
    pairs = final.pairs
    lost = int((pairs.original_right & ~pairs.compressed_right).sum())
    won = int((~pairs.original_right & pairs.compressed_right).sum())
    context = f"{answers(run)} right → wrong / wrong → right, of {count(len(pairs))}"
    yield Figure(name="Changed answers", value=f"{count(lost)} / {count(won)}", context=context)
    if (summary.get("target") or {}).get("met") is not None:
        yield _speed_figure(summary["target"])
    yield from _component_figures(summary)
    deployed = summary["deployed"]
    if deployed is not None:
        context = f"{share(deployed['bytes'] / deployed['original_bytes'])} of the original in float32"
        yield Figure(name="File that runs", value=f"{deployed['bytes'] / 1e6:,.3g} MB", context=context)


def _speed_figure(target: dict[str, Any]) -> Figure:
    aim = "target met" if target["met"] else f"target missed by {share(target['missed'])}"
    times = f"{plain(target['deployed']['median'], 2)} ms against {plain(target['original']['median'], 2)} ms"
    return Figure(name="Times as fast", value=plain(target["speedup"], 2), context=f"{times}; {aim}")


def score_figure(score: dict[str, Any], split: str) -> Figure:
    name = spoken(score["metric"])
    return Figure(
        name=name[0].upper() + name[1:],
        value=f"{plain(score['original'], 3)} → {plain(score['compressed'], 3)}",
        context=f"original → compressed, {count(int(score['n']))} {split} rows",
    )


def _component_figures(summary: dict[str, Any]) -> Iterator[Figure]:
    for kind, states in summary["components"].items():
        total = sum(states.values())
        yield Figure(name=f"Removed {plural(kind)}", value=share(states["removed"] / max(1, total)),
                     context=f"{count(states['removed'])} of {count(total)}")  # fmt: skip
    restored = {kind: states["restored"] for kind, states in summary["components"].items() if states["restored"]}
    if restored:
        flops = share(summary["restored_share"]["flops"])
        yield Figure(
            name="Put back",
            value=count(sum(restored.values())),
            context=f"{kinds(restored)}; {flops} of the removed FLOPs",
        )


def spoken(metric: str) -> str:
    return metric.replace("_", " ")
