"""The example on real data: sentiment with a six-layer encoder. Needs the data and model beside the project."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from compress_explain import Masks, Run, load_compressed, read_anatomy, replay
from compress_explain.cli import _guarded, app
from compress_explain.editing.surgery import expected_parameters
from compress_explain.record.checkpoint import read_manifest, removed_flags

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
MODEL = SHARED / "models" / "minilm-sst2"
DATA = SHARED / "data" / "sst2"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.shared,
    pytest.mark.skipif(not MODEL.exists(), reason="the shared data and models are not here"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("sst2") / "run"
    overrides = {
        "model": MODEL,
        "data.calibration": DATA / "train_sentences.csv",
        "data.validation": DATA / "dev.csv",
        "data.test": DATA / "test.csv",
        "data.input": "text",
        "compensation": "null",
        "reinstatement.trims": 1,
        "audit.heads": 0,
        "audit.neurons": 0,
        "registries": "[]",
        "attribution.rows": 48,
    }
    arguments = ["run", str(ROOT / "examples" / "sst2.yaml"), "--out", str(folder)]
    for key, value in overrides.items():
        arguments += ["--set", f"{key}={value}"]
    assert _guarded(lambda: app(arguments, standalone_mode=False)) == 0
    return Run(folder)


def test_the_first_judgement_fails_a_slice_and_the_last_passes_everything(run):
    failed = {row["slice"] for row in run.summary["first_verdicts"] if row["state"] == "fail"}
    assert failed - {"all"}
    assert run.summary["judged_split"] == "test"
    assert {row["state"] for row in run.summary["verdicts"]} == {"pass"}


def test_few_components_come_back_in_few_evaluations(run):
    share = run.summary["restored_share"]
    assert 0 < share["count"] <= 0.10 and share["flops"] <= 0.10
    assert run.summary["evaluations"] <= 20


def test_every_edit_has_a_reason(run):
    touched = run.components[run.components["status"] != "kept"]
    assert touched["removed_reason"].str.contains("cheapest").all()
    restored = run.components[run.components["status"] == "restored"]
    assert restored["restored_reason"].str.contains("slack for accuracy").all()


def test_base_and_ledger_give_the_artifact_bit_for_bit(run):
    base = AutoModelForSequenceClassification.from_pretrained(MODEL, dtype=torch.float32).eval()
    replayed, loaded = replay(base, run.folder).state_dict(), load_compressed(run.folder / "artifact").state_dict()
    assert replayed.keys() == loaded.keys()
    assert all(torch.equal(replayed[name], loaded[name]) for name in loaded)


def test_masking_equals_the_artifact(run):
    base = AutoModelForSequenceClassification.from_pretrained(MODEL, dtype=torch.float32).eval()
    artifact = load_compressed(run.folder / "artifact")
    anatomy = read_anatomy(base, tokens=16)
    masks = Masks(base, anatomy)
    removed = removed_flags(anatomy, read_manifest(run.folder / "artifact")["removed"])
    inputs = {"input_ids": torch.randint(1000, 20000, (8, 16)), "attention_mask": torch.ones(8, 16, dtype=torch.long)}
    masks.remove(
        anatomy.groups[name].components[index]
        for name, flags in removed.items()
        for index in flags.nonzero().flatten().tolist()
    )
    with masks, torch.inference_mode():
        masked = base(**inputs).logits
    with torch.inference_mode():
        torch.testing.assert_close(artifact(**inputs).logits, masked, atol=1e-5, rtol=0)
    assert artifact.num_parameters() == expected_parameters(base, anatomy, removed)
