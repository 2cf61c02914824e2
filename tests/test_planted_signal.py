"""The positive control: a signal that is carried by one head, is lost with it, is seen to be lost, and is brought back."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from compress_explain.record.ledger import Ledger
from compress_explain.terminal.commands import run_config
from tests.planted_signal import ATTRIBUTE_HEAD, planted_job

_ACCURACY = {"metric": "accuracy", "max_drop": 0.02, "rule": "point"}
_RETENTION = {"metric": "signals.attribute.named.retention", "min": 0.7, "rule": "point"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def carried_out(folder, gates):
    run_config(planted_job(folder, heads=0.75, gates=gates), [], None, resume=False)
    return pd.read_parquet(folder / "run" / "tables" / "measured-signals-artifact.parquet"), Ledger(
        folder / "run" / "ledger.jsonl"
    )


def retained(found, signal):
    rows = found[(found["part"] == "retention") & (found["figure"] == "retained") & (found["other"] == "chosen")]
    return rows.set_index("signal").loc[signal]


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    return carried_out(tmp_path_factory.mktemp("without"), [_ACCURACY])


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    return carried_out(tmp_path_factory.mktemp("gated"), [_ACCURACY, _RETENTION])


def test_accuracy_does_not_see_that_the_attribute_is_gone(without):
    found, ledger = without
    scores = pd.read_parquet(ledger.path.parent / "tables" / "scores-artifact.parquet").set_index("metric")
    assert scores.loc["accuracy", "low"] <= 0 <= scores.loc["accuracy", "high"]
    assert retained(found, "task")["low"] > 0.95
    assert retained(found, "attribute.named")["high"] < 0.3


def test_the_maps_point_at_the_layer_that_lost_it(without):
    found, _ = without
    same = found[(found["part"] == "cka") & (found["model"] == "") & (found["layer"] == found["other"])].set_index(
        "layer"
    )
    assert same.loc["encoder.layer.0", "low"] > 0.995 > same.loc["encoder.layer.1", "high"]


def test_patching_what_answers_for_the_attribute_points_there_too(without):
    found, _ = without
    told = found[(found["part"] == "signal_patching") & (found["other"] == "layer") & (found["slice"] == "all")]
    assert set(told["signal"]) == {"attribute.named"}
    recovered = told[told["figure"] == "recovered"].set_index("layer")
    assert recovered.loc["encoder.layer.0", "high"] < 0.1
    assert recovered.loc["encoder.layer.1", "low"] > 0.9


def test_a_gate_on_the_signal_brings_back_the_head_that_carries_it(gated):
    found, ledger = gated
    planned = ledger.find("planned", "reinstate-1")
    edits = pd.read_parquet(ledger.path.parent / next(iter(planned.files)))
    assert edits["component"].tolist() == [ATTRIBUTE_HEAD]
    assert ledger.records[-1].body["state"] == "pass"
    assert retained(found, "attribute.named")["low"] > 0.9
