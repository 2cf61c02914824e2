"""Strategies, order and budgets are chosen: what is tried, what goes on, what is named, and that it ends the same way again."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from rich.console import Console

import compress_explain.search.expected as expected_module
import compress_explain.search.seeking as seeking_module
from compress_explain import Gate, InputError, LedgerError, Target
from compress_explain.cli import _guarded, app
from compress_explain.config import load_config
from compress_explain.editing.edits import Edit
from compress_explain.editing.masks import Masks
from compress_explain.evaluators import Quality
from compress_explain.model.anatomy import read_anatomy
from compress_explain.plugins.catalog import STRATEGIES
from compress_explain.plugins.registry import Searching
from compress_explain.plugins.strategy import Quantizing
from compress_explain.pricing import RayWorkers
from compress_explain.progress import Progress
from compress_explain.record.replay import read_ledger
from compress_explain.registry import MlflowRegistry
from compress_explain.running.job import Job
from compress_explain.search import Found, Search, search
from compress_explain.search.costs import Cost
from compress_explain.search.expected import open_pricebook
from compress_explain.search.fronts import dominated, fronts, kept
from compress_explain.search.naming import name_one
from compress_explain.search.space import Pipeline, Variant, space
from compress_explain.strategies import Heads, Int8Dynamic, Layers, LowRank, Neurons, Structured
from compress_explain.terminal.reading import print_ledger
from compress_explain.terminal.search import print_search
from tests.small_job import CONFIG, loaded_small_job, small_job_files
from tests.test_target import made_table

QUIET = Progress(quiet=True)
LENIENT = (Gate(metric="accuracy", max_drop=0.15, rule="point"),)
SMALL = Search(strategies=("neurons", "heads", "layers"), levels=(0.8, 0.5), trials=2, rows=64)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return loaded_small_job(tmp_path_factory.mktemp("inputs"))


def job_of(inputs, **options):
    _, subject, splits = inputs
    parts = {"strategies": (), "evaluators": (Quality(),), "gates": LENIENT, "compensation": None, "priced_rows": 128}
    return Job(subject=subject, splits=splits, **{**parts, **options})


@pytest.fixture(scope="module")
def found(inputs, tmp_path_factory) -> Found:
    return search(job_of(inputs), SMALL, tmp_path_factory.mktemp("search") / "out", QUIET)


# Fronts


def test_the_front_is_what_nothing_else_beats():
    generator = np.random.default_rng(0)
    points = generator.integers(0, 5, (60, 3)).astype(float)
    found = fronts(points)
    for place, point in enumerate(points):
        better = (points <= point).all(1) & (points < point).any(1)
        first = (points == point).all(1)[:place].any()
        assert (found[place] == 0) == (not better.any() and not first)
    assert dominated(points).diagonal().sum() == 0
    assert all(found[place] > found[dominated(points)[place]].min() for place in np.flatnonzero(found))


def test_neighbours_are_kept_when_the_front_leaves_room_and_both_ends_when_it_does_not():
    line = np.array([[1.0, 9.0], [2.0, 7.0], [3.0, 5.0], [4.0, 3.0], [5.0, 1.0]])
    assert kept(line, 3) == [0, 2, 4]
    assert kept(np.vstack([line, line + 0.5]), 7)[:5] == [0, 1, 2, 3, 4]


# The space


def test_every_strategy_of_the_catalogue_is_in_the_space_or_left_out_with_a_reason():
    everything = space(Search(), None)
    offered = {step.name for step in everything.variants.values()}
    assert offered | everything.left_out.keys() == set(STRATEGIES) and not offered & everything.left_out.keys()
    assert {"structured", "heads", "neurons", "sublayers", "layers", "vocabulary"} <= offered
    assert {step.name for step in everything.quantizing} >= {"int8_dynamic", "int8_static", "weight_only", "half"}
    assert "distill" in everything.left_out


@dataclass(frozen=True, kw_only=True)
class Stranger:
    """Somebody else's strategy, with a budget of FLOPs."""

    flops_kept: float

    @property
    def kinds(self):
        return ("neuron",)

    @property
    def rounds(self):
        return 1

    def plan(self, situation) -> tuple[Edit, ...]:
        return ()


def test_a_strangers_strategy_is_tried_at_every_level_without_being_known_by_name(monkeypatch):
    entries = {**STRATEGIES.entries, "stranger": type("Entry", (), {"load": lambda self: Stranger, "value": "x"})()}
    monkeypatch.setattr(STRATEGIES, "entries", entries)
    levels = [step.level for step in space(Search(), None).variants.values() if step.name == "stranger"]
    assert sorted(levels) == sorted(Search().levels)


def test_pipelines_have_their_steps_in_an_order_that_makes_sense():
    everything = space(
        Search(strategies=("structured", "layers", "vocabulary", "distill", "int8_dynamic", "half")), None
    )
    for pipeline in everything.following(everything.chains):
        quantizing = [isinstance(each, Quantizing) for each in pipeline.strategies]
        assert sum(quantizing) <= 1 and not any(quantizing[:-1])
        names = [step.name for step in pipeline.steps]
        if set(names) & {"structured", "layers"}:
            assert "distill" in names, "what was asked for is in every pipeline that removes"
        levels = [step.level for step in pipeline.steps if step.level is not None]
        assert levels == sorted(levels, reverse=True) and len(set(levels)) == len(levels)
    chains = {tuple(step.name for step in chain.steps) for chain in everything.chains}
    assert chains == {("structured",), ("layers",), ("structured", "layers"), ("layers", "structured")}


def test_with_a_target_a_budget_may_be_left_to_it():
    assert not [step for step in space(Search(), None).variants.values() if step.open]
    assert {step.words for step in space(Search(), Target(speedup=2)).variants.values() if step.open} == {"structured"}


def test_options_that_are_lists_are_a_grid():
    entry = {"heads": {"share": [0.2, 0.4], "floor": [0.1, 0.3]}}
    steps = space(Search(strategies=(entry, {"vocabulary": {"least": 2}})), None).variants
    assert sum(step.name == "heads" for step in steps.values()) == 4
    assert steps["vocabulary(least=2)"].options == {"least": 2}


BAD = {
    "levels": ({"levels": (0.5, 1.0)}, r"search\.levels.*shares in \(0, 1\)"),
    "no levels": ({"levels": ()}, r"search\.levels"),
    "trials": ({"trials": 0}, r"search\.trials.*1\.\.100"),
    "rows": ({"rows": 1}, r"search\.rows"),
    "minutes": ({"minutes": 0}, r"search\.minutes"),
    "by": ({"by": "flop"}, r"search\.by.*did you mean 'flops'"),
    "aim": ({"bytes_kept": 1.2}, r"search\.bytes_kept.*\(0, 1\]"),
    "losses": ({"losses": (0.0,)}, r"search\.losses"),
    "nothing": ({"strategies": ()}, r"search\.strategies.*nothing may be tried"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Search(**options)


def test_what_cannot_be_built_is_refused_before_anything_is_priced(inputs, tmp_path):
    for entry, message in [
        ("structurd", "did you mean 'structured'"),
        ({"heads": {"shar": 0.5}}, "did you mean 'share'"),
        ({"heads": {"share": [0.5, 1.5]}}, r"heads\.share: 1\.5"),
        ({"heads": {}, "neurons": {}}, "names exactly one"),
        ({"low_rank": {"flops_kept": 0.5}}, "does not price yet.*a job of its own"),
    ]:
        with pytest.raises(InputError, match=message):
            search(job_of(inputs), Search(strategies=(entry,)), tmp_path / "out", QUIET)
        assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"search\.by.*without a target"):
        search(job_of(inputs), Search(by="milliseconds"), tmp_path / "out", QUIET)
    with pytest.raises(InputError, match="lowrank.*does not price yet.*use run"):
        space(Search(), None, own=[LowRank(flops_kept=0.5)])
    tunings = ("heads", {"distill": {"epochs": [1.0, 2.0]}})
    with pytest.raises(InputError, match="none can be chosen"):
        space(Search(strategies=tunings), None)


# The configuration


def config_file(folder: Path, **changes) -> Path:
    document = {key: value for key, value in (CONFIG | changes).items() if value is not None}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_run_without_strategies_names_the_command_that_chooses_them(tmp_path):
    for strategies in ("auto", None):
        with pytest.raises(InputError, match=r"strategies: .*compress-explain search"):
            load_config(config_file(tmp_path, strategies=strategies), [])
        assert load_config(config_file(tmp_path, strategies=strategies), [], searching=True).strategies == []


def test_the_keys_of_a_search_are_those_of_the_class(tmp_path):
    config = load_config(
        config_file(tmp_path, strategies="auto", search={"trials": 3, "levels": [0.5]}), [], searching=True
    )
    assert config.build_search() == Search(trials=3, levels=(0.5,))
    assert set(type(config.search).model_fields) == {each.name for each in fields(Search)}
    for key, value, message in [
        ("trails", 3, "did you mean 'trials'"),
        ("strategies", ["haeds"], "'heads'"),
        ("by", "milliseconds", "target"),
    ]:
        with pytest.raises(InputError, match=message):
            load_config(config_file(tmp_path, strategies="auto", search={key: value}), [], searching=True)


# Rung 0


def test_costs_and_harms_are_those_of_the_states_that_pipelines_lead_to(inputs):
    """What is foretold of a pipeline's cost is what its edits save; more edits are expected to do more harm."""
    job = job_of(inputs)
    anatomy = read_anatomy(job.subject.model, 20)
    steps = {name: Variant(name=name, options={}, strategy=each) for name, each in {
        "some": Neurons(flops_kept=0.85), "more": Neurons(flops_kept=0.75), "layer": Layers(count=1), "int8": Int8Dynamic(),
    }.items()}  # fmt: skip
    with Masks(job.subject.model, anatomy) as masks:
        book, _ = open_pricebook(job, masks, steps.values(), QUIET)
        some, more, both, small = (
            book.expect(Pipeline(steps=tuple(steps[name] for name in names)))
            for names in (("some",), ("more",), ("layer", "more"), ("more", "int8"))
        )
    for each in (some, more, both):
        removed = {}
        for edit in each.edits:
            part, index = anatomy.find(edit.component)
            removed.setdefault(part.name, torch.zeros(part.count, dtype=torch.bool))[index] = True
        parameters, flops = anatomy.saved(removed)
        assert each.cost.flops == pytest.approx(1 - flops / anatomy.flops)
        assert each.cost.work == pytest.approx(each.cost.flops)
        assert (
            each.cost.bytes == pytest.approx(each.cost.parameters) == pytest.approx(1 - parameters / anatomy.parameters)
        )
    assert some.harm.together < more.harm.together < both.harm.together
    assert small.cost.flops == more.cost.flops and small.cost.bytes < 0.5 * more.cost.bytes
    saved = sum(edit.work_saved for edit in small.edits) / anatomy.flops
    assert small.cost.work == pytest.approx(1 - saved)
    assert more.cost.flops / 3 < small.cost.work < 0.5 * more.cost.flops
    assert small.harm.together > more.harm.together
    assert len({(edit.component, edit.action) for edit in both.edits}) == len(both.edits)


def test_an_open_budget_buys_what_the_target_asks_for(inputs, monkeypatch):
    """Half of the time by the table; a budget of FLOPs that saves less misses the target by what it lacks."""
    job = job_of(inputs, target=Target(speedup=2))
    anatomy = read_anatomy(job.subject.model, 20)
    table = made_table(anatomy, head=1.0, neuron=0.1)
    monkeypatch.setattr(expected_module, "latency_of", lambda *given: table)
    steps = [Variant(name=name, options=options, strategy=each) for name, options, each in (
        ("structured", {}, Structured()), ("neurons", {"flops_kept": 0.9}, Neurons(flops_kept=0.9)),
    )]  # fmt: skip
    with Masks(job.subject.model, anatomy) as masks:
        book, _ = open_pricebook(job, masks, steps, QUIET)
        bought, little = (book.expect(Pipeline(steps=(step,))) for step in steps)
    assert steps[0].open and bought.cost.milliseconds_allowed == table.original.median / 2
    assert 0.8 < bought.cost.milliseconds / bought.cost.milliseconds_allowed < 1.1, "as far as few rounds lead"
    missed = little.cost.milliseconds / (table.original.median / 2) - 1
    assert little.cost.beyond({}) == pytest.approx(missed) and missed > 0.2


# A whole search


def test_every_rung_says_who_went_on_and_why_the_others_did_not(found):
    for name, most in (("priced", 18), ("masked", 6), ("refitted", 2)):
        table = found.rung(name)
        assert 0 < table["kept"].sum() <= most
        assert table[~table["kept"]]["why"].str.len().gt(5).all()
        record = found.ledger.find("ranked", name)
        assert sorted(record.body["kept"]) == sorted(table[table["kept"]]["number"])
    tried = found.rung("masked")
    assert set(tried["number"]) == set(found.rung("priced").query("kept")["number"])
    assert tried["observed_kl"].notna().all() and (tried["observed_rows"] == 64).all()
    assert (found.rung("refitted")["observed_rows"] == 160).all()


def test_what_is_not_tried_is_not_better_in_expectation_than_all_that_is(found):
    table = found.rung("priced")
    points = table[["work", "expected_together"]].to_numpy()
    best = fronts(points) == 0
    assert best[table["kept"]].any()
    out = table[table["why"].fillna("").str.startswith("no better than")]
    for row in out.to_dict("records"):
        other = table[table["number"] == int(row["why"].split()[3])].iloc[0]
        assert other["work"] <= row["work"] and other["expected_together"] <= row["expected_together"]


def test_every_trial_is_a_run_of_its_own_that_only_the_named_one_takes_to_test(found):
    found.verify()
    assert found.state == "pass" and found.exit_code == 0 and found.passed
    assert 1 <= len(found.trials) <= 2 and sum(body["named"] for body in found.trials) == 1
    for body in found.trials:
        ledger = read_ledger(found.folder / body["folder"])
        judged = [record.body["split"] for record in ledger.of_kind("judged")]
        assert ("test" in judged) == body["named"]
        assert (ledger.find("predicted", "artifact-test") is not None) == body["named"]
        assert ledger.find("finished", "end") is not None and (found.folder / body["folder"] / "report.html").exists()
    assert not found.ledger.find("predicted", "original-test")


def test_the_named_point_costs_least_of_those_that_pass(found):
    passing = [body for body in found.trials if body["state"] == "pass"]
    named = next(body for body in found.trials if body["named"])
    assert named["cost"] == min(body["cost"] for body in passing) and "does the least work" in found.summary["why"]
    assert found.named.summary["judged_split"] == "test"
    assert named["cost"] == pytest.approx(named["flops"])
    deployed = found.named.summary["deployed"]
    assert named["bytes"] == deployed["bytes"] / deployed["original_bytes"]


def test_the_front_the_summary_and_the_page_say_the_same(found):
    front, summary = found.front, found.summary
    assert front["number"].tolist() == [body["number"] for body in summary["trials"]]
    assert front[front["named"]]["number"].tolist() == [summary["named"]]
    page = (found.folder / "report.html").read_text()
    for body in summary["trials"]:
        assert f'href="{body["folder"]}/report.html"' in page
    assert "Rank correlation" in page and "<script" not in page
    text = io.StringIO()
    print_search(found, Console(file=text, width=200))
    for words in ("priced only", "Named: trial", "on test", "rank correlation", "Next:"):
        assert words in text.getvalue(), words
    text = io.StringIO()
    print_ledger(found.folder, Console(file=text, width=240))
    for words in ("chain verified", "pipelines priced", "tried on 64 rows", "named trial", "judged on test: pass"):
        assert words in text.getvalue(), words


def test_how_good_the_prices_were_is_told(found):
    told = next(rung["agreement"] for rung in found.summary["rungs"] if rung["name"] == "masked")
    table = found.rung("masked")
    ranks = table[["expected_together", "observed_kl"]].rank()
    assert told["n"] == len(table) >= 4
    assert told["together"] == pytest.approx(np.corrcoef(ranks.T)[0, 1]) and told["together"] > 0.5


def test_mlflow_shows_the_search_as_one_run_with_its_trials_inside(found, tmp_path):
    registry = MlflowRegistry(
        tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", experiment="searches", register_as="chosen"
    )
    assert isinstance(registry, Searching)
    address = registry.publish_search(found.folder)
    assert registry.publish_search(found.folder) == address
    client = MlflowClient(tracking_uri=registry.tracking_uri)
    experiment = client.get_experiment_by_name("searches").experiment_id
    runs = client.search_runs([experiment], max_results=1000)
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    inside = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.info.run_name for run in inside} == {Path(body["folder"]).name for body in found.trials}
    assert parent.data.tags["compress_explain.ledger_head"] == found.ledger.head and address.endswith(
        parent.info.run_id
    )
    assert parent.data.metrics["named/work"] == next(body["work"] for body in found.trials if body["named"])
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {
        "report.html",
        "search.json",
        "front.parquet",
    }
    [version] = client.search_model_versions("name='chosen'")
    named = next(run for run in inside if run.info.run_name == found.named.folder.name)
    assert version.run_id == named.info.run_id


def test_a_changed_trial_is_noticed(found, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(found.folder, folder)
    trial = folder / found.trials[0]["folder"]
    lines = (trial / "ledger.jsonl").read_text().splitlines(keepends=True)
    (trial / "ledger.jsonl").write_text("".join(lines[: len(lines) // 2]))
    with pytest.raises(LedgerError):
        Found(folder).verify()


def same(one: Found, other: Found) -> None:
    """The same decisions, and the same figures, but for paths and times."""
    assert one.summary["named"] == other.summary["named"] and one.summary["why"] == other.summary["why"]
    for name in ("priced", "masked", "refitted"):
        pd.testing.assert_frame_equal(one.rung(name), other.rung(name))
    columns = ["number", "pipeline", "state", "flops", "bytes", "accuracy_change", "kl", "named", "on_front"]
    pd.testing.assert_frame_equal(one.front[columns], other.front[columns])


def test_a_search_that_was_stopped_anywhere_goes_on_and_ends_the_same(found, inputs, tmp_path, monkeypatch):
    lines = (found.folder / "ledger.jsonl").read_text().splitlines(keepends=True)
    kinds = [record.kind for record in found.ledger]
    begun = []
    carried_out = seeking_module.on_validation
    monkeypatch.setattr(
        seeking_module, "on_validation", lambda *given: begun.append(given[1].number) or carried_out(*given)
    )
    for position, trials_again in ((kinds.index("tried"), [1, 2]), (kinds.index("trial"), [2])):
        folder = tmp_path / f"stopped-{position}"
        shutil.copytree(found.folder, folder)
        (folder / "ledger.jsonl").write_text("".join(lines[: position + 1]))
        if position != kinds.index("trial"):
            shutil.rmtree(folder / "trials")
        begun.clear()
        with pytest.raises(InputError, match="--resume"):
            search(job_of(inputs), SMALL, folder, QUIET)
        again = search(job_of(inputs), SMALL, folder, QUIET, resume=True)
        assert begun == trials_again
        same(found, again)
        again.verify()


def test_another_search_is_not_continued_in_its_folder(found, inputs):
    with pytest.raises(InputError, match="another run"):
        search(job_of(inputs), replace(SMALL, trials=1), found.folder, QUIET, resume=True)


@pytest.mark.exhaustive
def test_a_killed_process_is_continued_where_it_was(inputs, tmp_path):
    """SIGKILL in the middle of the first trial; what was tried before is not tried again, and the trial itself goes on."""
    small_job_files(tmp_path)
    options = {"strategies": ["neurons", "heads"], "levels": [0.8, 0.5], "trials": 1, "rows": 64}
    config_file(tmp_path, strategies="auto", search=options, evaluators=["quality"], gates=[{"metric": "accuracy", "max_drop": 0.3}],
                slices=None)  # fmt: skip
    program = (
        "import os, signal, sys\n"
        "import torch; torch.set_num_threads(1)\n"
        "import compress_explain.run as flow\n"
        "def killed(*given, **options):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "flow.compensate = killed\n"
        "from compress_explain.cli import main\n"
        "sys.argv = ['compress-explain', 'search', 'config.yaml']\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-2000:]
    lines = (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds.count("ranked") == 3 and "trial" not in kinds
    [trial] = (tmp_path / "out" / "trials").iterdir()
    begun = len((trial / "ledger.jsonl").read_text().splitlines())
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert _guarded(lambda: app(["search", "config.yaml", "--resume"], standalone_mode=False)) in (0, 3)
    finally:
        os.chdir(before)
    after = (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()
    assert after[: len(lines)] == lines
    assert len((trial / "ledger.jsonl").read_text().splitlines()) > begun > 1
    Found(tmp_path / "out").verify()


def test_when_the_time_is_up_nothing_new_is_begun_but_one_trial(inputs, tmp_path):
    hurried = search(job_of(inputs), replace(SMALL, minutes=1e-6), tmp_path / "out", QUIET)
    assert len(hurried.trials) == 1 and hurried.state == "pass"
    assert not hurried.ledger.of_kind("tried")
    assert hurried.rung("refitted")["kept"].sum() == 2, "chosen by what was expected"


def test_gates_that_nothing_passes_name_nothing_and_leave_test_unread(inputs, tmp_path):
    strict = job_of(inputs, gates=(Gate(metric="nll", max=1e-9),))
    few = Search(strategies=("neurons",), levels=(0.7,), trials=1, rows=64)
    nothing = search(strict, few, tmp_path / "out", QUIET)
    assert nothing.state == "fail" and nothing.exit_code == 1 and nothing.named is None
    assert nothing.summary["test"] is None and "none of 1 trials passes" in nothing.summary["why"]
    for body in nothing.trials:
        assert not read_ledger(nothing.folder / body["folder"]).find("predicted", "original-test")
    assert "no point can be named" in (nothing.folder / "report.html").read_text()


def test_strategies_that_the_job_lists_are_one_more_pipeline(inputs, tmp_path):
    own = job_of(inputs, strategies=(Heads(share=0.25), Structured(flops_kept=0.6)))
    few = Search(strategies=("neurons",), levels=(0.9,), trials=1, rows=64)
    both = search(own, few, tmp_path / "out", QUIET)
    assert both.ledger.records[0].body["settings"]["own"] == "heads(share=0.25) → structured(flops_kept=0.6)"
    assert "heads(share=0.25) → structured(flops_kept=0.6)" in set(both.rung("priced")["pipeline"])


# The choice

BODY = {"trouble": None, "state": "pass", "reserve": 1.0, "work": 0.5, "flops": 0.5, "bytes": 0.5, "parameters": 0.5,
        "milliseconds": None, "target_missed": None}  # fmt: skip


def named(trials, aims=None, *, timed=False, by="work"):
    return name_one({number: BODY | each for number, each in enumerate(trials, start=1)}, by, aims or {}, timed=timed)


def test_which_point_is_named():
    assert named([{"work": 0.4}, {"work": 0.3}, {"work": 0.2, "state": "fail"}]).number == 2
    assert named([{"work": 0.4, "reserve": 3.0}, {"work": 0.4, "reserve": 4.0}]).number == 2
    aim = {"bytes_kept": 0.3}
    first = named(
        [{"bytes": 0.25, "reserve": 1.0}, {"bytes": 0.28, "reserve": 2.0}, {"bytes": 0.5, "reserve": 9.0}], aim
    )
    assert first.number == 2 and "most reserve" in first.why
    near = named([{"bytes": 0.6}, {"bytes": 0.33}], aim)
    assert near.number == 2 and "misses it by 10.0%" in near.why
    late = named([{"target_missed": 0.2}, {"target_missed": 0.0, "reserve": 0.1}], timed=True, by="milliseconds")
    assert late.number == 2
    unsure = named([{"state": "inconclusive"}, {"state": "fail", "work": 0.1}])
    assert unsure.number == 1 and "no gate failed" in unsure.why
    assert named([{"state": "fail"}]).number is None
    assert name_one({1: {"trouble": "x"}}, "work", {}, timed=False).number is None


def test_what_is_aimed_at_is_missed_by_the_worst_of_all_aims():
    cost = Cost(flops=0.5, parameters=0.6, bytes=0.4, work=0.5, milliseconds=6.0, milliseconds_allowed=5.0)
    assert cost.beyond({}) == pytest.approx(0.2)
    assert cost.beyond({"flops_kept": 0.25, "bytes_kept": 0.5}) == pytest.approx(1.0)
    assert replace(cost, milliseconds=None).beyond({"bytes_kept": 0.4}) == 0.0


# Elsewhere


@pytest.mark.exhaustive
def test_a_cluster_makes_the_same_choice(found, inputs, tmp_path):
    pytest.importorskip("ray")
    there = search(job_of(inputs), SMALL, tmp_path / "out", QUIET, engine=RayWorkers(workers=2, threads=1))
    same(found, there)
    there.verify()
