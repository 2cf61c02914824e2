"""Bytes, parameters, FLOPs and activations are counted, and what both models have is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress_explain.comparison.contest import Side
from compress_explain.comparison.gates import Gate, judge
from compress_explain.errors import InputError
from compress_explain.evaluators import Footprint
from compress_explain.hardware.counted import activations, files_of, flops, parameters
from compress_explain.model.anatomy import read_anatomy
from tests.test_interleaved import tiny_contest
from tests.tiny import tiny_examples, tiny_model


def test_external_data_counts_and_a_tokenizer_does_not(tmp_path):
    for name, size in {"model.onnx": 10, "model.onnx.data": 500, "tokenizer.json": 70}.items():
        (tmp_path / name).write_bytes(b"x" * size)
    files = files_of(tmp_path)
    assert files is not None and (files.runs, files.others) == (510, 70)
    alone = files_of(tmp_path / "model.onnx")
    assert alone is not None and alone.runs == 510


def test_of_two_sets_of_weights_one_counts(tmp_path):
    assert files_of(tmp_path) is None
    for name, size in {"model.safetensors": 100, "pytorch_model.bin": 100, "config.json": 5}.items():
        (tmp_path / name).write_bytes(b"x" * size)
    files = files_of(tmp_path)
    assert files is not None and files.runs == 105


def test_flops_are_those_of_the_anatomy():
    model, examples = tiny_model("bert", attention="eager"), tiny_examples("bert")
    side = Side(name="original", forward=lambda inputs: None, examples=examples, processor=None, module=model)
    tokens = int(sorted(examples.lengths)[len(examples) // 2])
    linears = sum(linear.flops for linear in read_anatomy(model, tokens).linears.values())
    found = flops(side, 4)
    assert (
        found is not None and linears <= found < 1.6 * linears
    )  # attention's own products, pooler and classifier besides


class Wide(nn.Module):
    """Makes one result of 3 x 4 KiB a row and another as large, the first of which is gone when the last is made."""

    def forward(self, input_ids, **others):
        first = torch.zeros(len(input_ids), 3072)
        second = first + 1
        del first
        return second + 1


def test_activations_are_those_that_live_at_once():
    side = Side(name="original", forward=lambda inputs: None, examples=tiny_examples("bert"), processor=None)
    object.__setattr__(side, "module", Wide())
    assert activations(side, 8) == pytest.approx(2 * 8 * 3072 * 4 / 2**20)


def test_shared_parameters_count_once():
    first, second = nn.Linear(3, 4), nn.Linear(3, 4)
    second.weight = first.weight
    assert parameters(nn.Sequential(first, second)) == 12 + 4 + 4


def test_counted_figures_pass_and_fail_without_doubt():
    measured = Footprint(rounds=0).measure(tiny_contest(), lambda rows: None)
    scores = Footprint(rounds=0).scores(measured)
    assert {score.metric for score in scores} == {"parameters", "flops", "activation_memory"}
    assert all(score.low == score.difference == score.high == 0 for score in scores)
    gates = [Gate(metric="parameters", max_rise=0), Gate(metric="flops", max=1)]
    assert [verdict.state for verdict in judge(gates, scores)] == ["pass", "fail"]
    assert (measured.set_index("figure").loc["bytes_on_disk", "why"]) == "no files are at hand"


def test_rounds_that_give_no_interval_are_refused():
    with pytest.raises(InputError, match="no interval"):
        Footprint(rounds=1)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_peak_of_memory_is_measured_in_processes_of_their_own():
    measured = Footprint(rounds=2, batch=2).measure(tiny_contest(), lambda rows: None)
    (peak,) = [score for score in Footprint().scores(measured) if score.metric == "peak_memory"]
    assert peak.original > 0 and peak.compressed > 0 and peak.n == 2
