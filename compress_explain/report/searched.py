"""The page of a search: which point was picked and why, the front, how pipelines were thinned out, how good prices were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import pandas as pd

from compress_explain.record.outcome import REPORT
from compress_explain.report.front import Dot, Front, Point, front
from compress_explain.report.numbers import count, plain, share, signed, small
from compress_explain.report.page import environment
from compress_explain.report.verdict import Figure

if TYPE_CHECKING:
    from compress_explain.search import Found

_WORDS = {
    "pass": ("PASSED", "may be released"),
    "fail": ("FAILED", "must not be released"),
    "inconclusive": ("INCONCLUSIVE", "do not release yet"),
}
_AXES = (
    ("milliseconds", "milliseconds of one call, measured", False),
    ("work", "work left: FLOPs in float32 that take as long", True),
    ("bytes", "bytes of the file, of the original in float32", True),
    ("flops", "layer FLOPs left", True),
)
_RUNGS = {
    "priced": (
        "Priced, nothing tried",
        "every pipeline that the space holds and the model allows; expected KL from one pricing",
    ),
    "masked": ("Tried by mask", "all edits at once on some rows of validation; nothing refitted, nothing put back"),
    "refitted": ("Tried, refitted", "all edits at once and what is left refitted once; all rows of validation"),
    "trials": ("Run in full", "prices anew in every round, gates, reinstatement, the file that would be deployed"),
}
_NAMES = {
    "work": "work",
    "flops": "FLOPs",
    "parameters": "parameters",
    "bytes": "bytes",
    "milliseconds": "milliseconds",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A trial in the table; ``cost`` has one text a way to count."""

    number: int
    pipeline: str
    link: str | None
    state: str | None
    trouble: str | None
    flops: str
    parameters: str
    bytes: str
    work: str
    milliseconds: str
    change: str
    interval: str
    put_back: str
    named: bool
    on_front: bool


@dataclass(frozen=True, kw_only=True)
class RungRow:
    """A rung in words, and how well prices ranked what was seen on it."""

    title: str
    what: str
    considered: int
    kept: int
    together: str
    summed: str
    n: str


def render_search(found: Found) -> str:
    """The whole page. The same search gives the same bytes."""
    summary = found.summary
    word, advice = _WORDS[found.state]
    page: dict[str, Any] = {
        "model": PurePath(summary["settings"]["model"]).name,
        "state": found.state,
        "word": word,
        "advice": advice if summary["named"] is not None else "no point can be named",
        "sentences": tuple(_sentences(summary)),
        "figures": tuple(_figures(summary)),
        "fronts": tuple(_fronts(found)),
        "rows": tuple(_row(body) for body in sorted(found.trials, key=_by_cost)),
        "timed": any(body.get("milliseconds") is not None for body in found.trials),
        "rungs": tuple(_rung(each) for each in summary["rungs"]),
        "agreement": _agreement(summary),
        "dropped": tuple(_dropped(found)),
        "refused": tuple(sorted(summary["refused"].items()))[:60],
        "refused_count": len(summary["refused"]),
        "left_out": tuple(sorted(summary["left_out"].items())),
        "named": next((_row(body) for body in found.trials if body["named"]), None),
        "priced_rows": summary["priced_rows"],
        "minutes": plain(summary["seconds"] / 60, 1),
        "settings": _settings(summary["settings"]["search"]),
        "identity": summary["identity"],
        "head": found.ledger.head,
    }
    return environment().get_template("search.html").render(page)


def _sentences(summary: dict[str, Any]) -> Iterator[str]:
    if summary["named"] is None:
        yield f"{_upper(summary['why'])}, so the test split was not read."
        return
    body = next(each for each in summary["trials"] if each["named"])
    yield f"Trial {body['number']} is named: {body['pipeline']}. Why: {summary['why']}."
    test = summary["test"]
    yield (
        f"It does {share(body['flops'])} of the original's layer FLOPs"
        + (f" in {share(body['bytes'])} of its bytes" if body["bytes"] is not None else "")
        + f"; accuracy changes by {_points(test)} points ({_interval(test)}) on {count(test['rows'])} test rows, "
        f"and by {_points(body)} on validation, where it was chosen."
    )
    if summary["aims"] or summary["target"]:
        aims = [
            f"at most {share(value)} of {_NAMES[name.removesuffix('_kept')]}" for name, value in summary["aims"].items()
        ]
        wanted = ", ".join([*([summary["target"]] if summary["target"] else []), *aims])
        missed = body["missed"]
        yield f"Aimed at: {wanted}. " + ("That is met." if not missed else f"That is missed by {share(missed)}.")
    yield "Every choice was made on calibration and validation; only the named run read the test split, once."


def _figures(summary: dict[str, Any]) -> Iterator[Figure]:
    rungs = {rung["name"]: rung for rung in summary["rungs"]}
    yield Figure(
        name="Pipelines priced",
        value=count(rungs["priced"]["considered"]),
        context="from one pricing, none of them tried",
    )
    tried = rungs["masked"]["considered"]
    yield Figure(
        name="Tried by mask",
        value=count(tried),
        context=f"{count(rungs['refitted']['considered'])} of them refitted too",
    )
    yield Figure(
        name="Run in full",
        value=count(rungs["trials"]["considered"]),
        context=f"{plain(summary['seconds'] / 60, 1)} minutes in all",
    )
    told = rungs["masked"]["agreement"]
    if told and told["together"] is not None:
        yield Figure(
            name="Prices against what was seen",
            value=plain(told["together"], 2),
            context=f"rank correlation with KL seen by mask, n = {told['n']}",
        )
    body = next((each for each in summary["trials"] if each["named"]), None)
    if body is not None:
        yield Figure(
            name="Layer FLOPs left", value=share(body["flops"]), context=f"of trial {body['number']}, the named one"
        )
        if body["bytes"] is not None:
            yield Figure(
                name="File that runs",
                value=f"{body['file_bytes'] / 1e6:,.3g} MB",
                context=f"{share(body['bytes'])} of the original in float32",
            )
        if body["speedup"] is not None:
            context = f"{plain(body['milliseconds'], 2)} ms against {plain(body['original_milliseconds'], 2)} ms"
            yield Figure(name="Times as fast", value=plain(body["speedup"], 2), context=context)


def _fronts(found: Found) -> Iterator[Front]:
    """A panel for each way to count that differs between trials; the one that counted comes first."""
    done = [body for body in found.trials if body["trouble"] is None]
    seen = found.rung("refitted")
    seen = seen[seen["observed_kl"].notna()] if "observed_kl" in seen else seen.iloc[:0]
    order = sorted(_AXES, key=lambda axis: axis[0] != found.summary["by"])
    drawn = 0
    for name, words, shares in order:
        points = [_point(body, name) for body in done if body.get(name) is not None]
        same_as_work = name == "flops" and all(abs(body["work"] - body["flops"]) < 1e-9 for body in done)
        if points and not same_as_work and drawn < 3:
            drawn += 1
            yield front(f"front-{name}", words, points, list(_dots(seen, name)), shares=shares)


def _point(body: dict[str, Any], name: str) -> Point:
    return Point(
        number=body["number"], cost=body[name], change=body["accuracy_change"],
        interval=(body["accuracy_low"], body["accuracy_high"]), state=body["state"], named=body["named"],
        on_front=body["on_front"], link=_link(body),
        title=f"trial {body['number']}{', the named one' if body['named'] else ''}: {body['pipeline']}; {body['state']} on validation, "
        f"accuracy {_points(body)} points ({_interval(body)}), {share(body['flops'])} of FLOPs, {share(body['bytes'])} of bytes",
    )  # fmt: skip


def _dots(seen: pd.DataFrame, name: str) -> Iterator[Dot]:
    for row in seen.to_dict("records"):
        if row[name] is not None and not pd.isna(row[name]):
            change = float(row["observed_accuracy_change"])
            title = f"only tried: {row['pipeline']}; accuracy {signed(100 * change, 1)} points, KL {small(row['observed_kl'])} nats"
            yield Dot(cost=float(row[name]), change=change, title=title)


def _row(body: dict[str, Any]) -> Row:
    done = body["trouble"] is None
    return Row(
        number=body["number"], pipeline=body["pipeline"], link=_link(body) if done else None,
        state=body["state"] if done else None, trouble=body["trouble"],
        **{name: share(body[name]) if done else "–" for name in ("flops", "parameters", "bytes", "work")},
        milliseconds=plain(body["milliseconds"], 2) if done else "–",
        change=_points(body) if done else "–", interval=_interval(body) if done else "",
        put_back=count(body["put_back"]) if done else "–", named=body["named"], on_front=body["on_front"],
    )  # fmt: skip


def _rung(rung: dict[str, Any]) -> RungRow:
    title, what = _RUNGS[rung["name"]]
    told = rung["agreement"] or {"together": None, "summed": None, "n": None}
    return RungRow(
        title=title, what=what, considered=rung["considered"], kept=rung["kept"], together=plain(told["together"], 2),
        summed=plain(told["summed"], 2), n=count(told["n"]),
    )  # fmt: skip


def _agreement(summary: dict[str, Any]) -> str:
    """How good the prices were, in a sentence."""
    told = next(rung["agreement"] for rung in summary["rungs"] if rung["name"] == "masked")
    if told["together"] is None:
        return "Too few pipelines were tried to tell how well prices ranked them."
    better = "worse" if told["together"] >= told["summed"] else "better"
    return (
        f"Of {count(told['n'])} pipelines that were tried by mask, the KL that was expected before anything was tried ranked the KL "
        f"that was then seen with a Spearman correlation of {plain(told['together'], 2)}. Simply adding the prices of all edits, which "
        f"forgets that some edits move the same rows, ranks them {better}: {plain(told['summed'], 2)}. "
        "Further up there are fewer pipelines, and they are alike in what was expected of them, so that there is less to rank."
    )


def _dropped(found: Found) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Rung by rung, those that went no further, with the reason."""
    for name in ("refitted", "masked", "priced"):
        table = found.rung(name)
        out = (
            table[~table["kept"]].sort_values("expected_together", kind="stable").head(40 if name == "priced" else 200)
        )
        rows = [
            {
                "number": int(row["number"]), "pipeline": row["pipeline"], "work": share(row["work"]), "bytes": share(row["bytes"]),
                "expected": small(row["expected_together"]), "seen": small(_known(row.get("observed_kl"))), "why": row["why"],
            }
            for row in out.to_dict("records")
        ]  # fmt: skip
        if rows:
            more = int((~table["kept"]).sum())
            yield (
                f"{_RUNGS[name][0]}: {count(more)} went no further{f', {len(rows)} shown' if more > len(rows) else ''}",
                rows,
            )


def _settings(values: dict[str, Any]) -> str:
    """What was asked for, in one line."""
    given = {name: value for name, value in values.items() if value is not None}
    return ", ".join(f"{name}: {value}" for name, value in given.items())


def _known(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _by_cost(body: dict[str, Any]) -> tuple[bool, float]:
    return body["cost"] is None, body["cost"] or 0.0


def _link(body: dict[str, Any]) -> str:
    return f"{body['folder']}/{REPORT}"


def _points(body: dict[str, Any]) -> str:
    """A change of accuracy in points of percent."""
    return signed(100 * body["accuracy_change"], 1)


def _interval(body: dict[str, Any]) -> str:
    return f"{signed(100 * body['accuracy_low'], 1)} to {signed(100 * body['accuracy_high'], 1)}"


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
