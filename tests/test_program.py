"""A program computes what the model computes, at any size, and torch alone opens it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress_explain.deployment import ProgramRunner, Runner, export_program
from compress_explain.editing.surgery import materialize
from compress_explain.errors import ArtifactError, InputError
from compress_explain.model.anatomy import read_anatomy
from tests.tiny import EXPORTED, tiny_examples, tiny_inputs, tiny_model, tiny_tokens, uneven_removal

FAST = ("bert", "vit")
FAMILIES = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.exhaustive) for name in (*EXPORTED, "deberta-v2")
]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_program_computes_what_the_cut_model_computes_at_sizes_it_was_not_exported_with(family, tmp_path):
    model = tiny_model(family)
    anatomy = read_anatomy(model, tiny_tokens(family))
    model = materialize(model, anatomy, uneven_removal(anatomy))
    assert export_program(model, tiny_examples(family), tmp_path / "program.pt2") <= 1e-4
    runner = ProgramRunner(path=tmp_path / "program.pt2")
    assert isinstance(runner, Runner)
    for batch, tokens in ((1, 7), (5, 12), (7, 3)):
        inputs = tiny_inputs(family, batch, tokens)
        with torch.inference_mode():
            expected = model(**inputs).logits.numpy()
        np.testing.assert_allclose(runner(inputs), expected, atol=1e-4, rtol=0)


@pytest.mark.exhaustive
def test_rows_with_other_numbers_of_end_tokens_are_refused_as_the_model_refuses_them(tmp_path):
    model, examples = tiny_model("t5"), tiny_examples("t5")
    export_program(model, examples, tmp_path / "program.pt2")
    inputs = dict(tiny_inputs("t5", 2, 6))
    ends = model.config.eos_token_id
    inputs["input_ids"] = torch.tensor([[5, 6, 7, 8, 9, ends], [5, ends, 7, ends, 9, ends]])
    with pytest.raises(ValueError, match="same number of <eos>"):
        model(**inputs)
    with pytest.raises(RuntimeError, match="rows differ in how many end tokens"):
        ProgramRunner(path=tmp_path / "program.pt2")(inputs)


def test_what_cannot_be_exported_is_refused_with_the_reason(tmp_path, monkeypatch):
    examples = tiny_examples("bert")
    with pytest.raises(InputError, match=r"write program\.pt2"):
        export_program(tiny_model("bert"), examples, tmp_path / "program.pt")
    with pytest.raises(InputError, match="two graphs"):
        export_program(tiny_model("t5", generates=True), tiny_examples("t5"), tmp_path / "program.pt2")
    with pytest.raises(InputError, match="'input_features': an input of no known shape"):
        export_program(tiny_model("whisper"), tiny_examples("whisper"), tmp_path / "program.pt2")
    with pytest.raises(InputError, match="torch cannot load it"):
        ProgramRunner(path=tmp_path / "none.pt2")(tiny_inputs("bert"))

    def fails(*_, **__):
        raise RuntimeError("data-dependent control flow\nand a page more")

    monkeypatch.setattr(torch.export, "export", fails)
    with pytest.raises(ArtifactError, match=r"cannot export it \(data-dependent control flow\)"):
        export_program(tiny_model("bert"), examples, tmp_path / "program.pt2")
