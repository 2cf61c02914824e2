"""What observing a training finds: a signal that is planted and wiped out, where it is, when it falls, and what seeds say of that."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from compress_explain.cli import _guarded, app
from compress_explain.data.encoding import Reading
from compress_explain.data.examples import ALL, Examples
from compress_explain.data.slices import SliceRule
from compress_explain.errors import Exit, InputError
from compress_explain.model.loading import Subject
from compress_explain.registry import MlflowRegistry
from compress_explain.signals.probing.resampling import Readings
from compress_explain.signals.training.callback import SignalsCallback
from compress_explain.signals.training.falling import falls_of, spread_of
from compress_explain.signals.training.forming import course_of
from compress_explain.signals.training.observations import Kept
from compress_explain.signals.training.observed import PAGE, SUMMARY, TABLE
from compress_explain.signals.training.observing import Observation, Observing
from compress_explain.signals.training.over_training import Watched, observe
from compress_explain.signals.training.reaching import reach_of
from compress_explain.signals.training.rows import rows_to_watch
from compress_explain.signals.training.series import series_in, series_of
from tests.small_job import tiny_tokenizer

QUICK = Observing(decisions=300, resamples=80)
DEPTHS = ("embedding", "layer.0", "layer.1")
ROWS, WIDTH, VOCABULARY = 240, 16, 404
SIGN, KIND = (
    (range(4, 104), range(104, 204)),
    (range(204, 304), range(304, 404)),
)  # too many words for random weights to tell apart
END = 2


def rows(seed: int = 0, count: int = ROWS) -> Examples:
    """Two telling words a row: one says its label, the other whether it is in the slice ``kind``."""
    rng = np.random.default_rng(seed)
    labels, kinds = rng.integers(0, 2, count), rng.integers(0, 2, count)
    ids = [
        np.array([rng.choice(KIND[kind]), rng.choice(SIGN[label]), END])
        for label, kind in zip(labels, kinds, strict=True)
    ]
    return Examples(
        name="test", inputs={"input_ids": ids, "attention_mask": [np.ones(3, dtype=np.int64) for _ in ids]}, labels=labels,
        slices={ALL: np.ones(count, dtype=bool), "kind": kinds == 1}, texts=tuple(map(str, range(count))),
        digest=f"planted-{seed}-{count}", padding={"input_ids": 0, "attention_mask": 0},
    )  # fmt: skip


def new_model(seed: int = 0, vocabulary: int = VOCABULARY) -> GPT2ForSequenceClassification:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary, n_embd=WIDTH, n_layer=2, n_head=2, n_inner=24, n_positions=4, num_labels=2, pad_token_id=0,
        bos_token_id=1, eos_token_id=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return GPT2ForSequenceClassification(config).eval()


def planted(kind: float, label: float, noise: int = 0) -> GPT2ForSequenceClassification:
    """A model whose second layer hands on the label, and the ``kind`` that strongly, and whose head reads the ``label`` that well.

    Attention is even over the words and moves two directions of the embedding to the end: words of a kind differ in one of them, words
    of a label in the other.
    """
    model = new_model(noise)
    with torch.no_grad():
        table = model.transformer.wte.weight
        table.normal_(0, 0.3)
        table[:, :2] = 0
        model.transformer.wpe.weight.zero_()
        for sign, words in zip((-1, 1), KIND, strict=True):
            table[list(words), 0] = sign * 3.0
        for sign, words in zip((-1, 1), SIGN, strict=True):
            table[list(words), 1] = sign * 3.0
        for block in model.transformer.h:
            for part in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_proj):
                part.weight.zero_()
                part.bias.zero_()
        second = model.transformer.h[1].attn
        second.c_attn.weight[:2, 2 * WIDTH : 2 * WIDTH + 2] = torch.eye(2)  # values
        second.c_proj.weight[0, 0], second.c_proj.weight[1, 1] = kind, 2.0
        model.score.weight.zero_()
        model.score.weight[:, 1] = label * torch.tensor([-1.0, 1.0])
    return model


def save(folder, **models):
    """Each model under the step that its name ends with."""
    for name, model in models.items():
        model.save_pretrained(folder / f"checkpoint-{name[1:]}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training that forms the kind by step 10 and wipes it out by step 30, while it learns the label ever better; and another seed."""
    folder = tmp_path_factory.mktemp("trained")
    for seed, name in enumerate(("one", "two")):
        save(
            folder / name,
            s0=new_model(5 + seed), s10=planted(2.0, 0.1, seed), s20=planted(2.0, 0.4, seed), s30=planted(0.0, 2.0, seed),
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def observed(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("observed") / "out"
    watched = Watched(
        series=series_in(trained / "one"),
        seeds=(series_in(trained / "two"),),
        examples=rows(),
        learning=rows(9),
        observing=QUICK,
    )
    return observe(watched, out), out, watched


def of(summary, signal):
    return next(each for each in summary["signals"] if each["signal"] == signal)


def test_a_signal_that_is_wiped_out_is_told_with_its_step_and_layer(observed):
    kind = of(observed[0], "attribute.kind")
    assert (kind["verdict"], kind["formed"]) == ("erased", {"step": 10, "layer": "decoder.layer.1"})
    assert kind["peak"]["step"] in (10, 20)
    assert kind["peak"]["value"] > 0.3
    assert kind["kept"]["high"] < 0.3


def test_a_signal_that_stays_is_kept(observed):
    task = of(observed[0], "task")
    assert task["verdict"] == "kept"
    assert task["kept"]["low"] <= 1 <= task["kept"]["high"] + 0.02


def test_the_fall_is_warned_of_where_it_is_and_nowhere_else(observed):
    falls = [fall for fall in observed[0]["falls"] if fall["signal"] == "attribute.kind"]
    assert [(fall["before"], fall["after"]) for fall in falls] == [(20, 30)]
    assert falls[0]["loss"]["high"] < 0
    assert (falls[0]["repeated"], falls[0]["seeds"], falls[0]["noise"]) == (1, 1, False)


def test_checkpoints_are_alike_where_nothing_changed_between_them(observed):
    table = pd.read_parquet(observed[1] / TABLE)
    mine = table[(table["seed"] == 0) & (table["part"] == "cka") & (table["layer"] == "decoder.layer.1")]
    alike = mine.set_index(["figure", "step"])["value"]
    assert alike["cka_before", 20] > 0.999  # only the head learned
    assert alike["cka_last", 20] < 0.9 and alike["cka_before", 30] < 0.9
    assert set(mine[mine["figure"] == "cka_before"]["step"]) == {10, 20, 30}


def test_any_two_checkpoints_are_compared_and_other_trainings_are_a_yardstick(observed):
    table = pd.read_parquet(observed[1] / TABLE)
    pairs = table[table["figure"] == "cka_checkpoints"].set_index(["step", "other"])["value"]
    assert len(pairs) == 16 and pairs[10, "20"] == pytest.approx(pairs[20, "10"])
    assert pairs[10, "20"] > 0.999 and pairs[30, "30"] == pytest.approx(1)
    assert max(pairs[20, "30"], pairs[0, "30"]) < 0.9
    assert table[table["figure"] == "cka_trainings"]["other"].tolist() == ["two"]
    page = (observed[1] / PAGE).read_text()
    assert "Checkpoint by checkpoint, at layer 1" in page and "more alike than two trainings" in page


def test_table_summary_and_page_tell_the_same(observed):
    summary, out, _ = observed
    table = pd.read_parquet(out / TABLE)
    strength = table[(table["part"] == "course") & (table["figure"] == "strength") & (table["signal"] == "task")]
    assert strength["value"].tolist() == [each["value"] for each in of(summary, "task")["strength"]]
    assert json.loads((out / SUMMARY).read_text()) == summary
    page = (out / PAGE).read_text()
    assert "training erases it" in page and "script" not in page
    assert page.count("<svg") >= 2 + len(summary["signals"])


def test_spread_is_the_range_over_seeds(observed):
    summary, out, _ = observed
    table = pd.read_parquet(out / TABLE)
    for step in ("0", "10", "30"):
        losses = table[(table["part"] == "loss") & (table["step"] == int(step))]["value"]
        assert summary["spread"]["loss"][step] == pytest.approx(np.ptp(losses))


def test_a_signal_with_too_few_decisions_is_left_out_and_said_so(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("compress_explain.signals.probing.quality.FEW", ROWS)  # as if it were right about nearly all
    rare, learning = (
        replace(each, slices={ALL: np.ones(ROWS, dtype=bool), "rare": np.arange(ROWS) < 4})
        for each in (rows(), rows(9))
    )
    two = series_of([trained / "one" / f"checkpoint-{step}" for step in (20, 30)], "two")
    watched = Watched(series=two, examples=rare, learning=learning, observing=QUICK)
    summary = observe(watched, tmp_path / "out")
    assert "too few to tell" in summary["left_out"]["attribute.rare"]
    assert "attribute.rare" not in {each["signal"] for each in summary["signals"]}
    page = (tmp_path / "out" / PAGE).read_text()
    assert "was not looked for" in page and "Which decisions will be wrong cannot be told" in page


def test_what_is_there_is_not_looked_at_again_and_something_else_is_refused(observed, monkeypatch):
    summary, out, watched = observed
    monkeypatch.setattr("compress_explain.signals.training.observing.Observer.told", None)  # which would fail
    assert observe(watched, out) == summary
    other = Watched(series=watched.series, examples=rows(3), learning=rows(9), observing=QUICK)
    with pytest.raises(InputError, match="made of other weights, rows or settings"):
        observe(other, out)


def readings(values: list[float], noise: float = 0.01, choosing: list[float] | None = None) -> Readings:
    """One part with these figures at each depth, resampled with shared noise."""
    drawn = np.random.default_rng(0).normal(0, noise, (1, len(values), 200))
    told = np.array([values], dtype=float)
    return Readings(
        values=told,
        draws=told[..., None] + drawn,
        choosing=np.array([choosing or values], dtype=float),
        weights=np.ones(1),
    )


def looks(
    strengths: list[list[float]],
    losses: list[float],
    choosing: list[list[float]] | None = None,
    held: list[list[float]] | None = None,
):
    chosen, held = choosing or strengths, held or strengths
    return [
        Observation(
            step=10 * n, findings=(), above={"s": readings(values, choosing=chosen[n])}, held={"s": readings(held[n])},
            loss=readings([loss], 0.001), outline=np.zeros((4, 2), dtype=np.float32),
        )
        for n, (values, loss) in enumerate(zip(strengths, losses, strict=True))
    ]  # fmt: skip


def test_a_signal_that_moves_to_another_layer_does_not_fall():
    told = looks([[0, 0.0, 0.0], [0, 0.3, 0.0], [0, 0.0, 0.3]], [3, 2, 1])
    course = course_of("s", told, DEPTHS, 0.9)
    assert course.layers[1:] == ("layer.0", "layer.1")
    assert (course.verdict, falls_of(course, told, 0.9)) == ("kept", [])


def test_a_fall_while_the_loss_gets_worse_is_no_warning():
    told = looks([[0, 0.3, 0], [0, 0.1, 0]], [1, 2])
    assert falls_of(course_of("s", told, DEPTHS, 0.9), told, 0.9) == []


def test_what_was_not_there_does_not_fall():
    told = looks([[0, 0.0, 0.0], [-0.1, -0.1, -0.1]], [2, 1])
    assert falls_of(course_of("s", told, DEPTHS, 0.9), told, 0.9) == []


def test_a_fall_that_is_smaller_than_seeds_differ_by_is_noise():
    mine, theirs = looks([[0, 0.3, 0], [0, 0.2, 0]], [2, 1]), looks([[0, 0.1, 0], [0, 0.1, 0]], [2, 1])
    courses = [course_of("s", each, DEPTHS, 0.9) for each in (mine, theirs)]
    [alone], [beside] = falls_of(courses[0], mine, 0.9), falls_of(courses[0], mine, 0.9, courses[1:])
    assert not alone.noise and alone.spread is None
    assert beside.noise and beside.spread == pytest.approx(0.2)
    assert spread_of(courses) == {0: pytest.approx(0.2), 10: pytest.approx(0.1)}


def test_the_maximum_is_chosen_on_other_rows_than_those_that_are_reported():
    rng = np.random.default_rng(1)
    flat = [[0.2 + e for e in rng.normal(0, 0.05, 3)] for _ in range(40)]
    apart = [[0.2 + e for e in rng.normal(0, 0.05, 3)] for _ in range(40)]
    own = course_of("s", looks(flat, [1.0] * 40), DEPTHS, 0.9)
    fair = course_of("s", looks(flat, [1.0] * 40, choosing=apart), DEPTHS, 0.9)
    assert own.peak.value > 0.27
    assert abs(fair.peak.value - 0.2) < 0.05 * 2


def test_what_random_weights_hand_on_and_training_throws_away_is_told():
    """All layers of random weights show .4 above chance; in the end the first still does and the last shows a tenth of it."""
    told = looks([[0, 0, 0], [0, -0.2, -0.36]], [2, 1], held=[[0.4, 0.4, 0.4], [0.4, 0.2, 0.04]])
    reach = reach_of("s", told, 0.9)
    assert reach.thrown_away
    assert (reach.untrained.value, reach.left.value) == (pytest.approx(0.4), pytest.approx(0.1))
    assert [each.value for each in reach.share] == [pytest.approx(1), pytest.approx(0.1)]


def test_what_was_never_handed_on_is_not_thrown_away():
    told = looks([[0, 0, 0], [0, 0, 0.3]], [2, 1], held=[[0.4, 0, 0], [0.4, 0, 0.3]])
    reach = reach_of("s", told, 0.9)
    assert not reach.thrown_away and np.isnan(reach.left.value)
    assert [each.value for each in reach.share] == [pytest.approx(0), pytest.approx(0.75)]


def test_what_no_layer_shows_has_no_share_that_reaches_the_last():
    told = looks([[0, 0, 0]], [2])
    assert np.isnan(reach_of("s", told, 0.9).share[0].value)


def test_a_signal_that_never_shows_is_absent():
    course = course_of("s", looks([[0, 0, 0]] * 3, [3, 2, 1]), DEPTHS, 0.9)
    assert (course.verdict, course.formed) == ("absent", None)


def ended(*words: str) -> int:
    return _guarded(lambda: app(list(words), standalone_mode=False))


def test_faults_get_one_message_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("text,label\ngood,0\n")
    (tmp_path / "empty").mkdir()
    save(tmp_path / "bare", s1=new_model(), s2=new_model())
    (tmp_path / "bare" / "checkpoint-2" / "model.safetensors").unlink()
    save(tmp_path / "mixed", s1=new_model(), s2=new_model(vocabulary=30))
    save(tmp_path / "single", s1=new_model())
    expected = {
        "absent": "no such folder", "empty": "no folder checkpoint-STEP is in it", "bare": "holds no model",
        "mixed": "vocab_size is not that of", "single": "takes two",
    }  # fmt: skip
    for name, problem in expected.items():
        assert ended("observe", str(tmp_path / name), "--data", str(tmp_path / "rows.csv")) == Exit.BAD_INPUT
        said = capsys.readouterr().err
        assert problem in said and said.count("error:") == 1 and "Remedy" in said


def test_seeds_with_other_steps_are_refused(trained, tmp_path):
    save(tmp_path / "late", s7=new_model(), s8=new_model())
    watched = Watched(series=series_in(trained / "one"), seeds=(series_in(tmp_path / "late"),), examples=rows())
    with pytest.raises(InputError, match="none of its steps"):
        observe(watched, tmp_path / "out")


def test_folders_without_numbers_are_taken_in_their_order(tmp_path):
    for name in ("first", "again"):
        new_model().save_pretrained(tmp_path / name)
    series = series_of([tmp_path / "first", tmp_path / "again"], "mine")
    assert [(each.step, each.path.name) for each in series.checkpoints] == [(0, "first"), (1, "again")]


class Rows(torch.utils.data.Dataset):
    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(self.examples.inputs["input_ids"][index])
        return {"input_ids": ids, "labels": torch.tensor(self.examples.labels[index])}


class KilledAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **given):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def trainer(folder, callbacks, steps: int = 6) -> Trainer:
    pytest.importorskip("accelerate")
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=16, learning_rate=5e-3, seed=1, save_steps=2,
        save_strategy="steps", report_to=[], use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    return Trainer(model=new_model(), args=arguments, train_dataset=Rows(rows(1)), callbacks=callbacks)


def watching(out) -> SignalsCallback:
    return SignalsCallback(rows(), every=3, out=out, learning=rows(9), observing=Observing(decisions=100, resamples=50))


def test_a_training_is_not_changed_by_being_looked_at(tmp_path):
    finished = []
    for name, callbacks in (("plain", []), ("looked", [watching(tmp_path / "out")])):
        each = trainer(tmp_path / name, callbacks)
        each.train()
        finished.append(copy.deepcopy(each.model.state_dict()))
    assert all(torch.equal(finished[0][name], finished[1][name]) for name in finished[0])
    assert Kept(folder=tmp_path / "out").steps == (0, 3, 6)
    assert set(pd.read_parquet(tmp_path / "out" / TABLE)["step"]) == {0, 3, 6}


def test_a_killed_training_loses_no_look_and_goes_on(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", [watching(out), KilledAt(5)]).train()
    assert set(pd.read_parquet(out / TABLE)["step"]) == {0, 3}
    with pytest.raises(InputError, match="does not continue it"):
        trainer(tmp_path / "other", [watching(out)]).train()
    trainer(tmp_path / "run", [watching(out)]).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert Kept(folder=out).steps == (0, 3, 6)
    whole = trainer(tmp_path / "whole", [watching(tmp_path / "again")])
    whole.train()
    once, twice = (pd.read_parquet(each / TABLE) for each in (tmp_path / "again", out))
    chosen = [each[(each["part"] == "loss") & (each["step"] == 6)]["value"].item() for each in (once, twice)]
    assert chosen[0] == pytest.approx(chosen[1], abs=1e-6)


def test_the_command_line_starts_without_what_observing_takes():
    code = "import compress_explain.cli, sys; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_curves_by_layer_are_mirrored_once(observed, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    summary, out, _ = observed
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    registry = MlflowRegistry(tracking_uri=uri, experiment="signals")
    assert registry.publish_observed(out) == registry.publish_observed(out)
    client = mlflow.MlflowClient(tracking_uri=uri)
    [run] = client.search_runs([client.get_experiment_by_name("signals").experiment_id])
    curve = client.get_metric_history(run.info.run_id, "signal/attribute_kind/decoder_layer_1")
    assert [point.step for point in curve] == [0, 10, 20, 30]
    assert curve[1].value > curve[3].value + 0.3
    told = client.get_metric_history(run.info.run_id, "course/task")
    assert [point.value for point in told] == [each["value"] for each in of(summary, "task")["strength"]]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {TABLE, SUMMARY, PAGE}
    assert "training erases it" in run.data.tags["mlflow.note.content"]


def test_bands_of_tokens_are_the_same_for_rows_to_learn_from(tmp_path):
    first, more = ({"text": [f"good film {n} " * (n % 5 + 2) for n in some]} for some in (range(20), range(20, 60)))
    pd.DataFrame(first).to_csv(tmp_path / "test.csv")
    pd.DataFrame(more).to_csv(tmp_path / "learn.csv")
    tokenizer = tiny_tokenizer()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1))
    subject = Subject(model=model, processor=tokenizer, task="text-generation", source="", digest="")
    rules = (SliceRule(name="position", token="position", quantiles=3),)
    reading = Reading(input="text", label="label", max_length=None, long_text="truncate")
    sources = str(tmp_path / "test.csv"), str(tmp_path / "learn.csv")
    examples, learning = rows_to_watch(*sources, subject, reading, rules=rules)
    assert list(examples.token_slices) == list(learning.token_slices) and len(examples.token_slices) == 3
    for split in (examples, learning):
        assert np.stack([np.concatenate(flags) for flags in split.token_slices.values()]).sum(0).tolist() == [1] * int(
            split.decisions.sum()
        )
