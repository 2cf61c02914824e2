"""Embeddings: pooling, neighbours, what is told of them, prices, whole runs, and the errors that teach."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
import transformers as hf
import yaml
from mlflow.models import Model
from scipy.stats import spearmanr

from compress_explain.cli import _guarded, app
from compress_explain.comparison.decided import decide_all
from compress_explain.comparison.predictions import Pairs, logits_of, paired
from compress_explain.comparison.scores import metrics_told, score
from compress_explain.config import load_config
from compress_explain.data.loading import load_examples
from compress_explain.data.neighbours import SHARPNESS, nearest_of
from compress_explain.editing.masks import Masks
from compress_explain.editing.surgery import materialize
from compress_explain.errors import InputError
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import infer_task, load_subject
from compress_explain.model.pooling import Pooling, read_pooling
from compress_explain.pricing import price
from compress_explain.pricing.joint import expected_joint, observed_joint
from compress_explain.progress import Progress
from compress_explain.record.checkpoint import load_compressed
from compress_explain.record.outcome import Run
from compress_explain.record.replay import replay
from compress_explain.registry import served
from compress_explain.strategies import Distill, Vocabulary
from compress_explain.terminal.commands import build_job, load_inputs
from tests.small_job import sentences, tiny_tokenizer
from tests.tiny import MODELS, uneven_removal

EMBEDDERS = {
    "bert": hf.BertModel,
    "roberta": hf.RobertaModel,
    "xlm-roberta": hf.XLMRobertaModel,
    "electra": hf.ElectraModel,
    "distilbert": hf.DistilBertModel,
    "mpnet": hf.MPNetModel,
    "deberta-v2": hf.DebertaV2Model,
    "modernbert": hf.ModernBertModel,
}


def embedder(family: str, seed: int = 0, scale: float = 0.25) -> Any:
    """A random model in evaluation mode whose every parameter matters."""
    tiny = MODELS[family]
    config = tiny.config(**tiny.options)
    config._attn_implementation = tiny.kernels[-1]
    model = EMBEDDERS[family](config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.25 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + noise if "norm" in name.lower() and name.endswith("weight") else noise)
            if name.endswith("output.dense.weight"):
                parameter.mul_(scale / 0.25)
    return model.eval()


def write_model(folder: Path, model: Any, mode: str | None = None) -> Path:
    """Model and tokenizer, and with a ``mode`` what sentence-transformers writes beside them."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    if mode is not None:
        kinds = ["Transformer", "Pooling", "Normalize"]
        modules = [{"idx": place, "type": f"sentence_transformers.models.{kind}"} for place, kind in enumerate(kinds)]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir(exist_ok=True)
        flags = {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "max_tokens")}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **flags}))
    return folder


def pairs_of_texts(rows: int, seed: int) -> pd.DataFrame:
    """Two sentences a row, and how many of their words both have."""
    first, second = sentences(rows, seed), sentences(rows, seed + 100)
    generator = np.random.default_rng(seed)
    halves = [
        " ".join([*str(one).split()[: generator.integers(1, 6)], *str(other).split()[2:]])
        for one, other in zip(first["text"], second["text"], strict=True)
    ]
    words = [(set(one.split()), set(other.split())) for one, other in zip(first["text"], halves, strict=True)]
    scores = [len(one & other) / len(one | other) for one, other in words]
    return pd.DataFrame({"sentence1": first["text"], "sentence2": halves, "score": scores, "source": first["source"]})


# Pooling


def test_tokens_become_an_embedding():
    states = torch.tensor([[[2.0, 0.0], [0.0, 4.0], [9.0, 9.0]], [[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert Pooling(normalize=False).of(states, mask).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert Pooling(mode="cls", normalize=False).of(states, mask).tolist() == [[2.0, 0.0], [3.0, 4.0]]
    torch.testing.assert_close(Pooling().of(states, mask)[1], torch.tensor([0.6, 0.8]))


def test_the_folder_says_how_texts_are_pooled(tmp_path):
    write_model(tmp_path, embedder("bert"), "cls_token")
    assert infer_task(str(tmp_path)) == "feature-extraction"
    assert load_subject(str(tmp_path), "feature-extraction").pooling == Pooling(mode="cls")
    asked = load_subject(str(tmp_path), "feature-extraction", pooling="mean", normalize=False)
    assert asked.pooling == Pooling(mode="mean", normalize=False)
    write_model(tmp_path, embedder("bert"), "max_tokens")
    with pytest.raises(InputError, match="its texts are pooled by pooling_mode_max_tokens.*by mean or cls"):
        read_pooling(str(tmp_path))
    modules = json.loads((tmp_path / "modules.json").read_text())
    (tmp_path / "modules.json").write_text(json.dumps([*modules, {"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(InputError, match="after the model it has a module Dense"):
        read_pooling(str(tmp_path))
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(InputError, match="not JSON.*copy the whole folder again"):
        read_pooling(str(tmp_path))


# What is decided


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("embedder"), embedder("bert", scale=0.01))
    return load_subject(str(folder), "feature-extraction")


@pytest.fixture(scope="module")
def split(subject, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    sentences(24, 5).drop(columns="label").to_csv(path, index=False)
    return load_examples(str(path), [], subject)


def alone(model: Any, split: Any, pooling: Pooling) -> np.ndarray:
    """The embedding of each text, read by itself."""
    found = []
    for row in range(len(split)):
        batch = split.batch(np.array([row])).inputs
        with torch.inference_mode():
            found.append(pooling.of(model(**batch).last_hidden_state, batch["attention_mask"])[0].numpy())
    return np.stack(found)


def test_a_text_decides_which_other_is_nearest(subject, split):
    embeddings = alone(subject.model, split, Pooling())
    near = embeddings @ embeddings.T
    np.fill_diagonal(near, -1)
    decided = decide_all(logits_of(subject.model), split, 5)
    np.testing.assert_array_equal([each[0] for each in split.tags.ids], near.argmax(1))
    inside = ~np.eye(len(split), dtype=bool)
    np.testing.assert_allclose(decided.logits[inside], SHARPNESS * near[inside], atol=1e-3)
    np.testing.assert_allclose(decided.directions, embeddings, atol=1e-5)
    pairs = paired(split, decided, decided)
    assert pairs.original_right.all() and len(pairs) == pairs.independent == len(split)
    np.testing.assert_array_equal(
        np.sort(nearest_of(embeddings, 3, at_once=7), 1), np.sort(np.argsort(-near, axis=1)[:, :3], 1)
    )


def test_the_same_text_is_no_neighbour(subject, tmp_path):
    frame = sentences(8, 5)
    frame.loc[3, "text"] = frame.loc[0, "text"]
    frame.to_csv(tmp_path / "rows.csv", index=False)
    examples = load_examples(str(tmp_path / "rows.csv"), [], subject)
    assert examples.neighbours.apart.sum(1).tolist() == [6, 7, 7, 6, 7, 7, 7, 7]
    assert examples.neighbours.nearest[0] not in (0, 3)


def test_what_is_told_of_texts(subject, split, tmp_path):
    other = embedder("bert", seed=1, scale=0.01)
    one, two = (decide_all(logits_of(model), split, 5) for model in (subject.model, other))
    pairs = paired(split, one, two)
    told = {metric.name: score(pairs, metric, "all", 0.9) for metric in metrics_told(pairs)}
    assert set(told) == {"cosine", "overlap", "accuracy", "nll", "negative_flips"}
    first, second = (alone(model, split, Pooling()) for model in (subject.model, other))
    assert told["cosine"].compressed == pytest.approx((first * second).sum(1).mean(), abs=1e-5)
    assert told["cosine"].original == 1 and told["cosine"].n == len(split)
    ten = []
    for row in range(len(split)):
        both = [
            np.argsort(-np.where(np.arange(len(split)) == row, -9, side[row] @ side.T))[:10] for side in (first, second)
        ]
        ten.append(len(set(both[0]) & set(both[1])) / 10)
    assert told["overlap"].compressed == pytest.approx(np.mean(ten)) and 0 < np.mean(ten) < 1
    pairs.save(tmp_path / "pairs.parquet")
    again = Pairs.load(tmp_path / "pairs.parquet")
    assert all(score(again, metric, "all", 0.9) == told[metric.name] for metric in metrics_told(again))


def test_what_people_said_is_compared_pair_by_pair(subject, tmp_path):
    frame = pairs_of_texts(30, seed=3)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    config = {"input": "sentence1", "label": "score"}
    from compress_explain.data.loading import DataSpec, encode_splits

    spec = DataSpec(calibration="c", validation="v", test="t", pair="sentence2", **config)
    frames = {"calibration": pairs_of_texts(6, 1), "validation": pairs_of_texts(6, 2), "test": frame}
    examples = encode_splits(frames, spec, [], subject).test
    assert len(examples) == 60 and examples.texts[:2] == (frame["sentence1"][0], frame["sentence2"][0])
    other = embedder("bert", seed=1, scale=0.01)
    one, two = (decide_all(logits_of(model), examples, 8) for model in (subject.model, other))
    pairs = paired(examples, one, two)
    told = {metric.name: score(pairs, metric, "all", 0.9) for metric in metrics_told(pairs)}
    for side, model in (("original", subject.model), ("compressed", other)):
        embeddings = alone(model, examples, Pooling())
        cosines = (embeddings[::2] * embeddings[1::2]).sum(1)
        expected = spearmanr(cosines, frame["score"]).statistic
        assert getattr(told["spearman"], side) == pytest.approx(expected, abs=1e-3)
    assert told["spearman"].n == told["cosine"].n == 30
    assert told["spearman"].low <= told["spearman"].difference <= told["spearman"].high
    with pytest.raises(InputError, match=r"1 pairs have no number of how alike they are \(first: row 2\)"):
        bad = frame.assign(score=[*frame["score"][:2], None, *frame["score"][3:]])
        encode_splits({**frames, "test": bad}, spec, [], subject)
    with pytest.raises(InputError, match="data.pair: 'other': no such column"):
        encode_splits(frames, replace(spec, pair="other"), [], subject)
    with pytest.raises(InputError, match="all pairs are equally alike"):
        encode_splits({**frames, "test": frame.assign(score=1.0)}, spec, [], subject)


def test_what_is_expected_of_a_plan_has_the_slope_of_what_it_does(subject, split):
    anatomy = read_anatomy(subject.model, tokens=split.tokens)
    original = decide_all(logits_of(subject.model), split, 6)
    with Masks(subject.model, anatomy) as masks:
        components = [each for group in anatomy.groups.values() for each in group.components[::2]]
        expected = expected_joint(masks, split, components, original.logits, 6)["all"]
        masks.remove(components)
        removed = decide_all(logits_of(subject.model), split, 6)
    observed = observed_joint(paired(split, original, original), paired(split, original, removed))
    assert observed.kl > 1e-6 and expected.n == observed.n == len(split)
    assert expected.loss_change == pytest.approx(observed.loss_change, rel=0.05, abs=1e-6)
    assert expected.kl == pytest.approx(observed.kl, rel=0.05)


def test_a_price_is_what_switching_off_does_to_the_neighbours(subject, split):
    anatomy = read_anatomy(subject.model, tokens=split.tokens)
    original = decide_all(logits_of(subject.model), split, 6)
    with Masks(subject.model, anatomy) as masks:
        prices = price(masks, split, kinds=("head",), batch_size=6, projections=64)
        kl = []
        for component in prices.components:
            masks.remove([component])
            removed = decide_all(logits_of(subject.model), split, 6)
            masks.restore([component])
            kl.append(observed_joint(paired(split, original, original), paired(split, original, removed)).kl)
    assert np.corrcoef(prices.values["kl"][0], kl)[0, 1] > 0.98
    assert prices.values["kl"][0].sum() == pytest.approx(sum(kl), rel=0.15)


@pytest.mark.parametrize("family", EMBEDDERS)
def test_every_family_is_cut_as_it_is_masked(family, tmp_path):
    write_model(tmp_path / family, embedder(family))
    sentences(8, 5).to_csv(tmp_path / "rows.csv", index=False)
    ours = load_subject(str(tmp_path / family), "feature-extraction")
    split, model = load_examples(str(tmp_path / "rows.csv"), [], ours), ours.model
    anatomy = read_anatomy(model, tokens=split.tokens)
    removed = uneven_removal(anatomy)
    with Masks(model, anatomy) as masks:
        original = decide_all(logits_of(model), split, 6)
        for name, flags in removed.items():
            masks.remove([anatomy.groups[name].components[index] for index in flags.nonzero().flatten().tolist()])
        masked = decide_all(logits_of(model), split, 6)
    cut = decide_all(logits_of(materialize(model, anatomy, removed)), split, 6)
    np.testing.assert_allclose(cut.directions, masked.directions, atol=2e-5)
    assert np.abs(masked.directions - original.directions).max() > 1e-3


def test_models_that_do_not_embed_texts_are_refused(tmp_path):
    hf.GPT2Model(hf.GPT2Config(**MODELS["gpt2"].options)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="gpt2 is no encoder of text, and texts are embedded with those only.*bert"):
        load_subject(str(tmp_path), "feature-extraction")


# Whole runs


CONFIG = {
    "model": "model",
    "task": "feature-extraction",
    "data": {
        "calibration": "calibration.csv", "validation": "validation.csv", "test": "test.csv",
        "input": "sentence1", "pair": "sentence2", "label": "score",
    },
    "slices": {"source": {"column": "source"}},
    "strategies": [{"heads": {"share": 0.4, "rounds": 1}}, {"neurons": {"share": 0.5, "rounds": 1}}],
    "gates": [
        {"metric": "cosine", "min": 0.3, "rule": "point"},
        {"metric": "overlap", "slice": "*", "min": 0.2, "rule": "point"},
        {"metric": "spearman", "max_drop": 0.5, "rule": "point"},
    ],
    "reinstatement": {"max_rounds": 2, "trims": 1, "step": 0.3},
    "audit": {"heads": 2, "neurons": 2, "rows": 16},
    "batch_size": 20, "registries": [], "runtime": "onnx", "out": "out",
}  # fmt: skip


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedding")
    write_model(folder / "model", embedder("bert", scale=0.1), "mean_tokens")
    for name, seed in (("calibration", 2), ("validation", 3), ("test", 4)):
        pairs_of_texts(24, seed).to_csv(folder / f"{name}.csv", index=False)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return folder


def call(command: str, folder: Path, *arguments: str) -> int:
    files = [f"--set=data.{name}={folder / name}.csv" for name in ("calibration", "validation", "test")]
    given = [command, str(folder / "config.yaml"), f"--set=model={folder / 'model'}", *files, *arguments]
    return _guarded(lambda: app(given, standalone_mode=False))


@pytest.fixture(scope="module")
def finished(job):
    assert call("run", job, "--out", str(job / "out")) in (0, 3)
    return Run(job / "out")


@pytest.fixture(scope="module")
def opened(job):
    files = [f"data.{name}={job / name}.csv" for name in ("calibration", "validation", "test")]
    config = load_config(job / "config.yaml", [f"model={job / 'model'}", *files])
    return config, *load_inputs(config, Progress(quiet=True))


def test_the_file_that_was_written_is_what_was_judged(finished, opened):
    test = opened[2].test
    pairs = Pairs.load(finished.folder / "predictions" / "artifact-test.parquet")
    session = onnxruntime.InferenceSession(finished.folder / "artifact" / "model.onnx")
    assert [each.name for each in session.get_outputs()] == ["last_hidden_state"]
    for batch in test.batches(20):
        feeds = {each.name: batch.inputs[each.name].numpy() for each in session.get_inputs()}
        states = torch.from_numpy(session.run(None, feeds)[0])
        directions = test.neighbours.directions(states, batch.inputs["attention_mask"]).numpy()
        cosines = (directions * test.neighbours.original[batch.rows]).sum(1)
        np.testing.assert_allclose(pairs.embeddings.cosine[batch.rows], cosines, atol=1e-4)


def test_figures_are_of_texts_pairs_and_slices(finished):
    table = finished.scores.set_index(["metric", "slice"])
    assert 0.3 <= table.loc[("cosine", "all"), "compressed"] < 1 and table.loc[("cosine", "all"), "n"] == 24
    assert table.loc[("overlap", "source=web"), "compressed"] < 1
    assert table.loc[("spearman", "all"), "original"] > 0.3
    assert sum(each["removed"] for each in finished.summary["components"].values()) > 0


def test_what_was_removed_is_gone_and_replays(finished, opened):
    model = load_compressed(finished.folder / "artifact")
    assert type(model).__name__ == "BertModel" and model.pooler is None
    assert read_anatomy(model, tokens=9).parameters < finished.summary["parameters"]["original"]
    again = replay(opened[1].model, finished.folder).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_every_step_was_expected_and_observed_and_reported(finished):
    steps = [stage for stage in finished.course if stage.observed is not None]
    assert steps
    for stage in steps:
        assert all(np.isfinite(value) for value in (*stage.expected.values(), *stage.observed.values()))
    page = (finished.folder / "report.html").read_text()
    assert "neighbours right → wrong" in page and "cosine" in page.lower()


def test_mlflow_serves_embeddings_of_the_file_that_was_judged(finished, opened, tmp_path):
    served._save(finished, tmp_path / "model", Model())
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    inputs, expected = served.judged(finished.folder / "artifact")
    np.testing.assert_allclose(served.figures_of(model.predict(inputs)), expected, atol=1e-5)
    test = opened[2].test
    found = model.predict(pd.DataFrame({"text": test.texts[:4]}))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    pairs = Pairs.load(finished.folder / "predictions" / "artifact-test.parquet")
    cosines = (found * test.neighbours.original[:4]).sum(1)
    np.testing.assert_allclose(pairs.embeddings.cosine[:4], cosines, atol=1e-4)


def test_a_finished_run_is_resumed_without_doing_anything_again(finished, job):
    assert call("run", job, "--out", str(job / "out"), "--resume") in (0, 3)
    assert Run(job / "out").ledger.head == finished.ledger.head


@pytest.mark.exhaustive
def test_a_stopped_run_goes_on_where_it_stopped(finished, job, tmp_path):
    shutil.copytree(job / "out", tmp_path / "out")
    path = tmp_path / "out" / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    kinds = [json.loads(line)["kind"] for line in lines]
    path.write_text("".join(lines[: kinds.index("observed") + 1]))
    assert call("run", job, "--out", str(tmp_path / "out"), "--resume") in (0, 3)
    pd.testing.assert_frame_equal(Run(tmp_path / "out").scores, finished.scores)


def test_gates_on_embeddings_bring_components_back(job):
    """As a checkpoint, of texts without pairs."""
    overrides = ['gates=[{"metric": "cosine", "min": 0.97, "rule": "point"}]', "compensation=null", "runtime=torch",
                 "reinstatement={step: 0.5, max_share: 1.0, max_rounds: 4, trims: 0}", "audit={heads: 0, neurons: 0}",
                 "strategies=[{neurons: {share: 0.9, rounds: 1}}]", "data.pair=null"]  # fmt: skip
    assert call("run", job, "--out", str(job / "strict"), *(f"--set={each}" for each in overrides)) in (0, 1)
    done = Run(job / "strict")
    judged = [record.body["verdicts"][0] for record in done.ledger.of_kind("judged") if record.step != "artifact"]
    assert judged[0]["state"] == "fail" and judged[-1]["estimate"] > judged[0]["estimate"] and judged[0]["n"] == 24
    back = done.components[done.components["status"] == "restored"]
    assert len(back) > 0 and back["restored_reason"].str.contains("slack for cosine").all()


@pytest.mark.parametrize("strategy", [Vocabulary(), Distill()], ids=lambda each: type(each).__name__)
def test_what_is_for_rows_is_refused_before_anything_is_priced(opened, strategy):
    with pytest.raises(InputError, match="feature-extraction answers for what texts are near to, not for rows"):
        replace(build_job(*opened), strategies=[strategy])


BAD_INPUT = {
    "no second text": (lambda f: f.drop(columns="sentence2"), (), "data.pair: 'sentence2': no such column"),
    "an empty second text": (
        lambda f: f.assign(sentence2=[None, *f["sentence2"][1:]]), (), "1 rows have no second text (first: row 0)",
    ),
    "words for scores": (lambda f: f.assign(score="alike"), (), "have no number of how alike they are"),
    "a gate on what nobody said": (lambda f: f, ("--set=data.pair=null",), "nobody said how alike texts are"),
    "an unknown pooling": (lambda f: f, ("--set=pooling=max",), "pooling"),
    "pooling for another task": (
        lambda f: f, ("--set=task=text-generation", "--set=pooling=cls", "--set=gates.2.metric=nll", "--set=gates.0.metric=nll",
                      "--set=gates.1.metric=nll"), "makes no embeddings",
    ),
    "one text": (lambda f: f.assign(sentence1="good", sentence2="good"), (), "too few to be near to one another"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_ends_with_one_message_and_nothing_written(case, job, tmp_path, capfd):
    edit, more, message = BAD_INPUT[case]
    shutil.copytree(job, tmp_path / "job", ignore=shutil.ignore_patterns("out", "strict"))
    edit(pd.read_csv(job / "test.csv")).to_csv(tmp_path / "job" / "test.csv", index=False)
    assert call("run", tmp_path / "job", "--out", str(tmp_path / "out"), *more) == 2
    told = capfd.readouterr().err
    assert message in told and "Remedy" in told and "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_a_starting_configuration_is_written(job, tmp_path):
    given = ["init", str(job / "model"), str(job / "test.csv"), "--out", str(tmp_path / "config.yaml")]
    assert _guarded(lambda: app(given, standalone_mode=False)) == 0
    config = load_config(tmp_path / "config.yaml", [])
    assert (config.task, config.data.input) == ("feature-extraction", "sentence1")
    assert [gate.metric for gate in config.gates] == ["cosine", "overlap"]
