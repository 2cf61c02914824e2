"""What a menu of edits lists, in which order, and what each saves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress_explain.editing.surgery import materialize
from compress_explain.errors import InputError
from compress_explain.model.anatomy import read_anatomy
from compress_explain.pricing import read_menu
from compress_explain.pricing.menu import menu_of_kinds
from tests.tiny import FAMILIES, tiny_model, tiny_tokens


def anatomy_of(family):
    return read_anatomy(tiny_model(family), tiny_tokens(family))


def test_the_order_is_that_of_the_table_whatever_the_order_of_the_words():
    """Groups, then linears with their edits beside one another, then sublayers, then layers."""
    anatomy = anatomy_of("bert")
    menu = read_menu(anatomy, " layers, linears:rank4 ,neurons,linears:int8, sublayers,heads")
    grouped = [name for group in anatomy.groups.values() for name in group.components]
    linears = [name for name in anatomy.linears for _ in range(2)]
    assert menu.components == (*grouped, *linears, *anatomy.sublayers, *anatomy.layers)
    assert menu.linearisable == len(grouped) + len(linears)
    removed = [index in (3, 20) for index in range(len(grouped))]
    edits = menu.edits(removed)
    assert [index for index, edit in enumerate(edits) if edit == "restore"] == [3, 20]
    assert edits[len(grouped) : menu.linearisable] == ("rank4", "int8") * len(anatomy.linears)
    assert set(edits[menu.linearisable :]) == {"remove"}
    assert menu.kinds == (
        *[group.kind for group in anatomy.groups.values() for _ in range(group.count)],
        *["linear"] * len(linears), *["sublayer"] * 6, *["layer"] * 3,
    )  # fmt: skip
    assert len(menu.components) == len(menu.kinds) == len(edits) == len(menu.savings()[0])


@pytest.mark.parametrize(("family", "kind"), [("bert", "head"), ("llama", "kv_group")])
def test_heads_are_what_the_model_has_of_them(family, kind):
    menu = read_menu(anatomy_of(family), "heads")
    assert set(menu.kinds) == {kind} and menu.names == "heads"
    assert read_menu(anatomy_of(family), "neurons").names == "neurons"


def test_a_menu_is_named_as_it_is_read():
    anatomy = anatomy_of("bert")
    text = "heads,neurons,sublayers,layers,linears:int8,linears:int4-g64,linears:rank3"
    menu = read_menu(anatomy, text)
    assert menu.names == text and read_menu(anatomy, menu.names) == menu
    assert read_menu(anatomy, "linears:int4").names == "linears:int4-g32"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "edits: '': no edit"),
        (" , ", "no edit"),
        ("heads,heads", "edits: 'heads,heads'.*twice"),
        ("heads,head", "edits: 'head': no such kind of edit.*did you mean 'heads'"),
        ("linears", "edits: 'linears': no such kind.*linears:int8"),
        ("linears:int9", "edits: 'int9': unknown edit of a linear"),
        ("linears:rank0", "edits: 'rank0': there is no such rank"),
        ("linears:int4-g7", "edits: 'int4-g7'"),
        ("linears:", "edits: ''"),
        ("heads;neurons", "edits: 'heads;neurons'"),
    ],
)
def test_what_is_no_menu_is_refused_with_its_word(text, problem):
    with pytest.raises(InputError, match=problem):
        read_menu(anatomy_of("bert"), text)


def test_a_rank_that_no_weight_has_is_refused_when_it_is_counted():
    menu = read_menu(anatomy_of("bert"), "linears:rank900")
    with pytest.raises(InputError, match="rank900.*no such rank"):
        menu.savings()


def test_kinds_that_the_model_has_not_are_refused():
    anatomy = anatomy_of("bert")
    assert menu_of_kinds(anatomy).groups == tuple(anatomy.groups.values())
    with pytest.raises(InputError, match="kinds: .*kv_group.*choose from head, neuron"):
        menu_of_kinds(anatomy, ["kv_group"])


# Savings


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_removal_saves_is_what_the_smaller_model_lacks(family):
    """Heads and neurons against models that they were cut out of; four bytes a parameter.

    Heads of T5 aside: layers that share a position bias each get one of their own when they differ.
    """
    model, anatomy = tiny_model(family), anatomy_of(family)
    menu = read_menu(anatomy, "heads,neurons")
    parameters, flops, size = menu.savings()
    assert (size == 4 * parameters).all()
    for group in anatomy.of_kind(*(menu.kinds if not family.startswith("t5") else ["neuron"])):
        column = menu.components.index(group.components[1])
        removed = {name: torch.zeros(each.count, dtype=torch.bool) for name, each in anatomy.groups.items()}
        removed[group.name][1] = True
        smaller = materialize(model, anatomy, removed)
        assert parameters[column] == anatomy.parameters - sum(each.numel() for each in smaller.parameters())
        assert flops[column] == group.flops > 0


def test_what_a_sublayer_or_layer_saves_is_all_that_is_in_it():
    model, anatomy = tiny_model("llama"), anatomy_of("llama")
    menu = read_menu(anatomy, "sublayers,layers")
    parameters, flops, size = menu.savings()
    saved = dict(zip(menu.components, parameters, strict=True))
    layer = model.model.layers[1]
    assert saved["decoder.layer.1"] == sum(each.numel() for each in layer.parameters())
    attention, ffn = [layer.self_attn, layer.input_layernorm], [layer.mlp, layer.post_attention_layernorm]
    for name, modules in {"attention": attention, "ffn": ffn}.items():  # each with the norm that only it reads
        whole = sum(each.numel() for module in modules for each in module.parameters())
        assert saved[f"decoder.layer.1.{name}"] == whole
    work = dict(zip(menu.components, flops, strict=True))
    assert work["decoder.layer.1"] == work["decoder.layer.1.attention"] + work["decoder.layer.1.ffn"]
    assert (size == 4 * parameters).all()


def test_what_a_weight_edit_saves():
    """By hand for one weight of 24 by 32 in a BERT of 9 tokens: bytes by quantization, all three by low rank."""
    menu = read_menu(anatomy_of("bert"), "linears:int8,linears:int4-g16,linears:rank5,linears:bf16")
    parameters, flops, size = menu.savings()
    start = menu.components.index("encoder.layer.1.ffn.up")
    columns = slice(start, start + 4)
    assert menu.edits([])[columns] == ("int8", "int4-g16", "rank5", "bf16")
    weights = 24 * 32
    assert parameters[columns].tolist() == [0, 0, weights - 5 * (24 + 32), 0]
    assert flops[columns].tolist() == [0, 0, 2 * 9 * (weights - 5 * (24 + 32)), 0]
    int8 = weights + 24 * (4 + 1)  # a scale and a zero point an output
    int4 = weights // 2 + 24 * 2 * 4 + 24  # two groups an output: two scales, and two zero points in a byte
    assert size[columns].tolist() == [4 * weights - each for each in (int8, int4, 4 * 5 * (24 + 32), 2 * weights)]
    assert parameters.dtype == flops.dtype == size.dtype == np.int64
