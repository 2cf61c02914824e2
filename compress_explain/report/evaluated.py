"""The page of an evaluation: two models beside each other, the verdict first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from compress_explain.model.tasks import TASKS
from compress_explain.report.compared import compared
from compress_explain.report.judgement import Judgement, headline
from compress_explain.report.numbers import count, plain, share, signed
from compress_explain.report.page import environment
from compress_explain.report.provenance import Provenance
from compress_explain.report.verdict import WORDS, Figure, Opening, gates_in_words, score_figure, spoken

if TYPE_CHECKING:
    from compress_explain.evaluating.evaluated import Evaluated


def render_evaluation(evaluated: Evaluated, texts: tuple[str, ...] | None, labels: dict[int, str]) -> str:
    """The whole page. The same evaluation gives the same bytes.

    ``texts`` are those of the rows; None shows "redacted" in their place. ``labels`` names the classes.
    """
    summary = evaluated.summary
    record = evaluated.ledger.find("judged", "artifact")
    assert record is not None, "an evaluation is judged before its page is written"
    judgement = Judgement(record, evaluated.ledger)
    page: dict[str, Any] = {
        "opening": _opening(evaluated, judgement),
        "provenance": _provenance(evaluated),
        "unit": f"{TASKS[summary['settings']['task']].decides}s",
        **compared(summary["settings"], judgement, judgement, None if texts is None else {"test": texts}, labels),
    }
    return environment().get_template("evaluation.html").render(page)


def _opening(evaluated: Evaluated, judgement: Judgement) -> Opening:
    summary = evaluated.summary
    word, advice = WORDS[evaluated.state] if summary["judged"] else ("NOT JUDGED", "no gates were given")
    return Opening(
        model=PurePath(summary["settings"]["candidate"]).name,
        state=evaluated.state if summary["judged"] else "inconclusive",
        word=word,
        advice=advice,
        sentences=tuple(_sentences(evaluated, judgement)),
        figures=tuple(_figures(judgement)),
    )


def _sentences(evaluated: Evaluated, judgement: Judgement) -> Iterator[str]:
    summary, score = evaluated.summary, headline(judgement)
    rows = count(summary["splits"]["test"]["rows"])
    original = PurePath(summary["settings"]["original"]).name
    yield f"Both models answered the same {rows} rows; the original is {original}."
    if score is not None:
        change = f"{signed(score['difference'])} ({signed(score['low'])} to {signed(score['high'])})"
        name = spoken(score["metric"])
        yield f"{name[0].upper()}{name[1:]} is {plain(score['original'], 4)} and {plain(score['compressed'], 4)}: {change}."
    if summary["judged"]:
        yield gates_in_words(evaluated.state, judgement)
    if summary["attempt"] > 1:
        yield (
            f"This is attempt {count(summary['attempt'])} at a verdict on these rows for something made of this original: "
            "each one makes a pass by luck likelier."
        )


def _figures(judgement: Judgement) -> Iterator[Figure]:
    score, pairs = headline(judgement), judgement.pairs
    if score is not None:
        yield score_figure(score, "")
    lost = int((pairs.original_right & ~pairs.compressed_right).sum())
    won = int((~pairs.original_right & pairs.compressed_right).sum())
    context = f"right → wrong / wrong → right, of {count(len(pairs))}"
    yield Figure(name="Changed answers", value=f"{count(lost)} / {count(won)}", context=context)
    churn = float((pairs.original_guesses != pairs.compressed_guesses).mean())
    yield Figure(name="Decided otherwise", value=share(churn), context="right or wrong")


def _provenance(evaluated: Evaluated) -> Provenance:
    started, ledger = evaluated.ledger.records[0].body, evaluated.ledger
    settings = evaluated.summary["settings"]
    return Provenance(
        run=[
            ("identity", started["identity"]), ("protocol", started["protocol"]), ("ledger head", ledger.head),
            ("attempt", count(evaluated.summary["attempt"])), ("first record", ledger.records[0].time),
        ],
        model=[
            (f"{name}{what}", value)
            for name, facts in started["models"].items()
            for what, value in (("", f"{facts['source']} ({facts['form']})"), (", SHA-256", facts["digest"]))
        ],
        splits=[{"name": name, **facts} for name, facts in started["splits"].items()],
        settings=[(key, str(value)) for key, value in settings.items() if value not in ([], None)],
        environment=[(key, str(value)) for key, value in started["environment"].items()],
        files={name: digest for record in ledger for name, digest in record.files.items()},
    )  # fmt: skip
