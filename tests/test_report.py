"""The report says the verdict first, hides nothing, and is safe to open whatever the data hold."""

import itertools
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from compress_explain.comparison.gates import Gate
from compress_explain.compensation import Compensation
from compress_explain.data.examples import Examples
from compress_explain.data.loading import Splits
from compress_explain.evaluators import Quality, Slices
from compress_explain.model.loading import Subject
from compress_explain.progress import Progress
from compress_explain.record.outcome import Run
from compress_explain.report import render_report
from compress_explain.report.flips import REDACTED
from compress_explain.report.judgement import final_judgement
from compress_explain.run import execute
from compress_explain.running.job import Job
from compress_explain.running.reinstate import Reinstatement
from compress_explain.strategies import Heads, Neurons

HOSTILE = "<script>alert('x')</script>"
LABELS = {0: "down", 1: "up"}
ROWS = 200


class NoProcessor:
    """Stands for a tokenizer that has nothing to save."""

    def save_pretrained(self, folder: Path) -> None: ...


def tiny_model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=16, num_labels=2, initializer_range=0.35,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def split(model: BertForSequenceClassification, name: str, seed: int) -> Examples:
    """Random tokens, labelled as the model does but for one row in ten."""
    draw = np.random.default_rng(seed)
    rows = [draw.integers(1, 40, 8).astype(np.int64) for _ in range(ROWS)]
    with torch.inference_mode():
        labels = model(input_ids=torch.from_numpy(np.stack(rows))).logits.argmax(-1).numpy()
    labels = np.where(draw.random(ROWS) < 0.1, 1 - labels, labels)
    half = np.arange(ROWS) % 2 == 0
    return Examples(
        name=name,
        inputs={"input_ids": rows, "attention_mask": [np.ones(8, dtype=np.int64)] * ROWS},
        labels=labels,
        slices={"all": np.ones(ROWS, dtype=bool), f"kind={HOSTILE}": half, "other": ~half},
        texts=tuple(f"secret {name} {row} {HOSTILE}" for row in range(ROWS)),
        digest=f"{seed:064d}",
        padding={"input_ids": 0, "attention_mask": 0},
    )


def finished_run(
    folder: Path, gates: list[Gate], limits: Reinstatement, compensation: Compensation | None = None
) -> tuple[Run, dict[str, tuple[str, ...]]]:
    model = tiny_model()
    splits = Splits(
        calibration=split(model, "calibration", 1),
        validation=split(model, "validation", 2),
        test=split(model, "test", 3),
    )
    job = Job(
        subject=Subject(model=model, processor=NoProcessor(), task="text-classification", source="models/<i>tiny", digest="0" * 64),
        splits=splits,
        strategies=[Heads(share=0.25, rounds=1), Neurons(share=0.5, rounds=2)],
        evaluators=[Quality(), Slices()],
        gates=gates,
        compensation=compensation,
        reinstatement=limits,
    )  # fmt: skip
    return execute(job, folder, Progress(quiet=True)), {each.name: each.texts for each in splits}


LOOSE = [Gate(metric="accuracy", max_drop=0.9), Gate(metric="accuracy", slice="*", max_drop=0.9)]
MIDDLE = [Gate(metric="accuracy", max_drop=0.15), Gate(metric="nll", slice="*", max_rise=2.0, rule="point")]
STRICT = [Gate(metric="negative_flips", max=0.0, rule="point"), Gate(metric="accuracy", slice="*", max_drop=0.001)]
CASES = {
    "loose": (LOOSE, Reinstatement()),
    "restored": (MIDDLE, Reinstatement(max_rounds=8, step=0.3, max_share=1.0, reserve=0.3)),
    "failed": (STRICT, Reinstatement(max_rounds=1)),
    "refitted": (LOOSE, Reinstatement(), Compensation()),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Run, dict[str, tuple[str, ...]]]]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: finished_run(folder / name, *case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def page(runs: dict[str, tuple[Run, dict[str, tuple[str, ...]]]]) -> Callable[[str], str]:
    return lambda name: render_report(*runs[name], LABELS)


class Outline(HTMLParser):
    """Tags, attributes and visible text, as a browser would read them."""

    VOID = frozenset({"meta", "br", "rect", "path", "circle"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_comes_before_the_gates_and_they_before_all_else(name: str, page: Callable[[str], str]) -> None:
    html = page(name)
    order = ["verdict", "gates", "removed", "parts", "audit", "effects", "slices", "flips", "reinstated", "provenance"]
    places = [html.index(f'id="{part}"') for part in order]
    assert places == sorted(places)


def test_the_first_sentence_says_whether_how_small_and_how_good(runs, page) -> None:
    run, _ = runs["loose"]
    score = final_judgement(run).scores["accuracy", "all"]
    text = " ".join(Outline(page("loose")).text.split())
    flops = run.summary["flops"]["compressed"] / run.summary["flops"]["original"]
    assert "PASSED: may be released" in text
    assert f"{100 * flops:.0f}% of the original's layer FLOPs" in text
    assert f"accuracy {score['original']:.3f} → {score['compressed']:.3f} on {ROWS} test rows" in text


@pytest.mark.parametrize("name", CASES)
def test_every_gate_has_its_row_with_state_and_interval(name: str, runs, page) -> None:
    run, _ = runs[name]
    table = page(name).split('id="gates"')[1].split("</table>")[0]
    rows = [Outline(f"<tr>{row.split('</tr>')[0]}</tr>").text for row in table.split("<tr>")[2:]]
    assert len(rows) == len(run.summary["verdicts"])
    for row, verdict in zip(rows, run.summary["verdicts"], strict=True):
        low = f"{abs(verdict['low']):.4f}"
        assert (
            verdict["state"] in row
            and verdict["gate"].replace("_", " ") in row
            and verdict["slice"] in row
            and low in row
        )


@pytest.mark.parametrize("name", CASES)
def test_it_holds_no_script_and_loads_nothing(name: str, page) -> None:
    html = page(name)
    outline = Outline(html)
    tags = {tag for tag, _ in outline.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert "<script" not in html and "<i>tiny" not in html and "&lt;i&gt;tiny" in html
    for _, attributes in outline.tags:
        assert not any(key.startswith("on") or key == "src" for key in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"(https?:)?//[a-z]|@import|url\((?!#)", html)
    policy = next(
        attributes for tag, attributes in outline.tags if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_hostile_texts_labels_and_slices_are_shown_as_text(runs) -> None:
    run, texts = runs["failed"]
    outline = Outline(render_report(run, texts, {0: HOSTILE, 1: "up"}))
    assert "script" not in {tag for tag, _ in outline.tags}
    assert outline.text.count(HOSTILE) > 10
    assert f"kind={HOSTILE}" in outline.text


@pytest.mark.parametrize("name", CASES)
def test_tags_nest_ids_are_unique_and_headings_descend_by_one(name: str, page) -> None:
    outline = Outline(page(name))
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h[1-6]", tag)]
    assert not outline.open and len(ids) == len(set(ids))
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_every_figure_has_a_title_and_a_description(page) -> None:
    for figure in re.findall(r"<svg[^>]*role=\"img\".*?</svg>", page("restored"), re.S):
        named = re.search(r'aria-labelledby="(\S+) (\S+)"', figure)
        assert named and f'<title id="{named[1]}">' in figure and f'<desc id="{named[2]}">' in figure


def test_redaction_hides_every_text_and_keeps_the_rest(runs, page) -> None:
    run, _ = runs["failed"]
    redacted = render_report(run, None, LABELS)
    assert "secret" in page("failed") and "secret" not in redacted
    assert REDACTED in redacted and "Right → wrong" in redacted
    shown = len(re.findall(r'data-label="Row"', redacted))
    assert shown == len(re.findall(r'data-label="Row"', page("failed"))) > 0


def test_the_same_run_gives_the_same_bytes(runs, page) -> None:
    assert page("restored") == page("restored")
    reopened = Run(runs["restored"][0].folder)
    assert render_report(reopened, runs["restored"][1], LABELS) == page("restored")


def test_changed_answers_are_those_that_one_model_gets_right(runs, page) -> None:
    run, texts = runs["failed"]
    pairs = final_judgement(run).pairs
    lost = np.flatnonzero((pairs.original.argmax(1) == pairs.labels) & (pairs.compressed.argmax(1) != pairs.labels))
    section = page("failed").split('id="flips"')[1].split("Wrong → right")[0]
    rows = [int(row) for row in re.findall(r"secret validation (\d+) ", section)]
    assert f"{min(20, len(lost))} of {len(lost)} shown" in section
    assert set(rows) <= set(lost.tolist()) and len(rows) == min(20, len(lost))


def test_a_run_that_failed_on_validation_says_so(runs, page) -> None:
    run, _ = runs["failed"]
    text = " ".join(Outline(page("failed")).text.split())
    assert run.state == "fail" and run.summary["judged_split"] == "validation"
    assert "FAILED: must not be released" in text
    assert "no artifact was written and the test split was not read" in text
    assert f"{ROWS} validation rows" in text


def test_what_was_restored_is_told_round_by_round_with_its_cause(runs, page) -> None:
    run, _ = runs["restored"]
    rounds = [record for record in run.ledger.of_kind("planned") if record.step.startswith("reinstate-")]
    section = page("restored").split('id="reinstated"')[1]
    assert rounds and section.count('class="round"') == len(rounds)
    worst = min(run.summary["first_verdicts"], key=lambda verdict: verdict["slack"])
    assert worst["gate"] in section and "most useful for the time that it takes" in section
    assert "Nothing was restored: every gate held" in page("loose")


def test_every_trial_without_restorations_says_how_it_ended(runs, page) -> None:
    run, _ = runs["restored"]
    trials = [record.step for record in run.ledger.of_kind("planned") if record.step.startswith("trim-")]
    taken_back = {record.step for record in run.ledger.of_kind("reverted")}
    table = page("restored").split("Which restorations were needed</h3>")[1].split("</div>")[0]
    text = Outline(table + "</div>").text
    for step in trials:
        row = text.split(step.replace("-", " "))[1].split("trim ")[0]
        assert ("put back again" if step in taken_back else "left out") in row
    assert run.passed and taken_back and len(trials) > len(taken_back)


def test_the_grid_shows_every_head_and_the_counts_add_up(runs, page) -> None:
    run, _ = runs["restored"]
    cells = re.findall(r"<title>(encoder\.layer\.\d\.attention\.head\.\d): (kept|removed|restored);", page("restored"))
    heads = run.components[run.components["kind"] == "head"]
    assert dict(cells) == dict(zip(heads["component"], heads["status"], strict=True))


def test_what_a_refit_gave_back_stands_beside_its_step(runs, page) -> None:
    run, _ = runs["refitted"]
    stage = run.course[-1]
    assert stage.compensated is not None and "refitting the rest: " in Outline(page("refitted")).text
