"""A file is timed where nothing but numpy and ONNX Runtime is installed, and what was measured is read elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import compress_explain
from compress_explain.deployment.targets import read_targets
from compress_explain.errors import InputError
from compress_explain.hardware.onnx_file import OnnxFile, digest

ALONE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "scipy", "pandas", "onnx", "sklearn", "jaxtyping", "pyarrow"}:
            raise ImportError(name)

sys.meta_path.insert(0, Missing())
from compress_explain.cli import main
main()
"""


def text_file(path, width=8):
    """Embeds tokens and averages them under the mask; wider is slower."""
    table = numpy_helper.from_array(np.random.default_rng(0).standard_normal((100, width)).astype(np.float32), "table")
    square = numpy_helper.from_array(np.eye(width, dtype=np.float32), "square")
    ids, mask = (
        helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "tokens"])
        for n in ("input_ids", "attention_mask")
    )
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "square"], ["mixed"]),
        helper.make_node("Cast", ["attention_mask"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["weight"], ["seen"]),
        helper.make_node("Mul", ["mixed", "seen"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled"], ["logits"], axes=[1], keepdims=0),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "text", [ids, mask], [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", width])], [table, square]
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=10), path)
    return path


def test_a_machine_without_torch_times_a_file_and_another_reads_what_was_found(tmp_path):
    small, large = text_file(tmp_path / "model.onnx"), text_file(tmp_path / "original.onnx", width=256)
    out = tmp_path / "raspberry.json"
    command = [
        "latency",
        str(small),
        "--out",
        str(out),
        "--batch",
        "2",
        "--tokens",
        "64",
        "--against",
        str(large),
        "--blocks",
        "24",
    ]
    done = subprocess.run([sys.executable, "-c", ALONE, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = read_targets([out], digest(small))
    assert (row.machine, row.batch, row.tokens, row.threads, row.n) == ("raspberry", 2, 64, 1, 48)
    assert row.original is not None and row.speedup is not None
    assert row.speedup.low <= row.speedup.value <= row.speedup.high and row.speedup.value > 1
    assert row.verdict in ("faster", "inconclusive")
    document = json.loads(out.read_text())
    assert {"processor", "cores", "memory_bytes", "system", "packages", "fingerprint"} <= set(document["machine"])
    assert len(document["points"][0]["calls"]) == 24 * 6


def test_alone_there_is_no_saving(tmp_path):
    from compress_explain.hardware.interleaved import Patience
    from compress_explain.hardware.target_file import Grid, write_target

    grid = Grid(batches=(1,), tokens=(8, 16))
    write_target(text_file(tmp_path / "model.onnx"), tmp_path / "here.json", grid, patience=Patience(blocks=12))
    rows = read_targets([tmp_path / "here.json"])
    assert [row.tokens for row in rows] == [8, 16] and all(row.speedup is None and row.n == 24 for row in rows)


def test_inputs_fit_the_graph(tmp_path):
    inputs = OnnxFile(path=text_file(tmp_path / "model.onnx")).inputs(3, 5)
    assert {name: each.shape for name, each in inputs.items()} == {"input_ids": (3, 5), "attention_mask": (3, 5)}
    assert (inputs["attention_mask"] == 1).all() and inputs["input_ids"].dtype == np.int64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a compress-explain-latency file"),
        ('{"format": "compress-explain-latency", "version": 2}', "newer version"),
        ('{"format": "compress-explain-latency", "version": 1, "points": [{}]}', "lacks what a target file holds"),
    ],
)
def test_other_files_are_refused(tmp_path, text, said):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(InputError, match=said):
        read_targets([tmp_path / "other.json"])


def test_figures_of_another_artifact_are_refused(tmp_path):
    from compress_explain.hardware.interleaved import Patience
    from compress_explain.hardware.target_file import Grid, write_target

    write_target(
        text_file(tmp_path / "m.onnx"),
        tmp_path / "t.json",
        Grid(batches=(1,), tokens=(8,)),
        patience=Patience(blocks=12),
    )
    with pytest.raises(InputError, match="another artifact"):
        read_targets([tmp_path / "t.json"], "0" * 64)
    with pytest.raises(InputError, match="no ONNX file"):
        write_target(tmp_path / "t.json", tmp_path / "u.json", Grid())


def test_every_public_name_is_found_when_it_is_asked_for():
    named = [name for names in compress_explain._HOMES.values() for name in names]
    assert sorted(named) == sorted(compress_explain.__all__)
    with pytest.raises(AttributeError, match="no attribute 'prize'"):
        compress_explain.prize  # noqa: B018


def test_the_package_alone_imports_nothing_heavy():
    code = "import sys, compress_explain.cli; print([m for m in ('torch', 'numpy', 'pandas', 'scipy') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
