"""The anatomy counts every parameter and FLOP once, for every family, by an independent count."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from torch.utils.flop_counter import FlopCounterMode

from compress_explain import families
from compress_explain.editing.masks import Masks
from compress_explain.editing.surgery import expected_parameters, materialize
from compress_explain.errors import InputError
from compress_explain.families import AttentionParts, Family, FeedForwardParts, Stack
from compress_explain.inquiry import tokens_of
from compress_explain.model.anatomy import linear_shape, read_anatomy
from compress_explain.model.loading import Subject
from tests.tiny import (
    CLASSIFIERS,
    FAMILIES,
    MODELS,
    WITH_AND_WITHOUT_GENERATION,
    flagged,
    generator_inputs,
    tiny_examples,
    tiny_inputs,
    tiny_model,
    tiny_tokens,
    uneven_removal,
)

KINDS = dict.fromkeys(("llama", "qwen3", "mistral", "qwen2", "gemma", "phi3"), "kv_group")


@pytest.mark.parametrize("family", FAMILIES)
def test_components_and_the_rest_add_up_to_every_layer(family):
    """Removing all components leaves of a layer its norms and the biases of its consumers, nothing else."""
    model = tiny_model(family)
    anatomy = read_anatomy(model, tiny_tokens(family))
    for layer in anatomy.layers.values():
        removable = sum(
            anatomy.groups[name].parameters * anatomy.groups[name].count
            for sublayer in layer.sublayers
            for name in anatomy.sublayers[sublayer].groups
        )
        block = model.get_submodule(layer.module)
        linears = [module for module in block.modules() if isinstance(module, torch.nn.Linear | hf.Conv1D)]
        in_linears = {id(parameter) for module in linears for parameter in module.parameters()}
        norms = sum(
            parameter.numel()
            for name, parameter in block.named_parameters()
            if id(parameter) not in in_linears and "relative_attention_bias" not in name
        )
        sites = [anatomy.groups[name].site for name in anatomy.groups if name.startswith(layer.name + ".")]
        site_biases = [model.get_submodule(site).bias for site in sites]
        biases = sum(bias.numel() for bias in site_biases if bias is not None)
        assert removable + norms + biases == layer.parameters
        outside = norms if layer.norm == "after" else 0  # a norm before a sublayer is part of it
        assert sum(anatomy.sublayers[name].parameters for name in layer.sublayers) + outside == layer.parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_the_total_is_the_models(family):
    model = tiny_model(family)
    anatomy = read_anatomy(model, tiny_tokens(family))
    in_layers = sum(
        parameter.numel()
        for layer in anatomy.layers.values()
        for parameter in model.get_submodule(layer.module).parameters()
    )
    total = model.num_parameters()
    assert anatomy.parameters == total
    assert anatomy.parameters_elsewhere == total - in_layers > 0


@pytest.mark.parametrize(("family", "generates"), WITH_AND_WITHOUT_GENERATION)
def test_flops_are_those_that_torch_counts(family, generates):
    """Exact, no tolerance: matrix products in the layers of one full-length example, eager attention."""
    model = tiny_model(family, attention="eager", generates=generates).requires_grad_(False)
    inputs = generator_inputs(family, batch=1) if generates else tiny_inputs(family, batch=1, padded=False)
    anatomy = read_anatomy(model, tiny_tokens(family))
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        model(**inputs)
    counted = counter.get_flop_counts()
    root = type(model).__name__
    for layer in anatomy.layers.values():
        assert layer.flops == sum(counted[f"{root}.{layer.module}"].values()), layer.name
        assert layer.flops == sum(anatomy.sublayers[name].flops for name in layer.sublayers)
    for linear in anatomy.linears.values():
        assert linear.flops == sum(counted[f"{root}.{linear.module}"].values()), linear.name
    assert anatomy.flops == sum(layer.flops for layer in anatomy.layers.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_removing_a_component_saves_the_flops_that_torch_no_longer_counts(family):
    model = tiny_model(family, attention="eager").requires_grad_(False)
    inputs = tiny_inputs(family, batch=1, padded=False)
    anatomy = read_anatomy(model, tiny_tokens(family))
    removed = uneven_removal(anatomy)

    def count(subject):
        counter = FlopCounterMode(display=False)
        with counter, torch.inference_mode():
            subject(**inputs)
        return counter.get_total_flops()

    assert count(model) - count(materialize(model, anatomy, removed)) == anatomy.saved(removed)[1] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_are_named_and_sized_after_the_model(family):
    model = tiny_model(family)
    anatomy = read_anatomy(model, tiny_tokens(family))
    assert anatomy.kinds == (KINDS.get(family, "head"), "neuron")
    for group in anatomy.groups.values():
        assert group.count == (24 if group.kind == "neuron" else 4)
        assert linear_shape(model.get_submodule(group.site))[0] == group.count * group.width
        for producer in group.producers:
            outputs = linear_shape(model.get_submodule(producer.module))[1]
            assert outputs == group.count * producer.width
        assert group.layer in anatomy.layers
        assert all(anatomy.locate(name) == (group, index) for index, name in enumerate(group.components))


def test_head_dimensions_follow_the_weights_not_the_hidden_size():
    anatomy = read_anatomy(tiny_model("qwen3"), 9)
    group = anatomy.groups["decoder.layer.0.attention.group"]
    assert group.width == 2 * 6  # two query heads of width 6 a group, though hidden/heads is 4
    assert [producer.width for producer in group.producers] == [12, 6, 6]


def test_the_rows_of_fused_linears():
    """Phi-3 with heads of width 4, two a group, the others of width 8: blocks of unequal size, blocks of one head each, a gate beside its neuron."""
    kept = torch.tensor([1])

    def rows(family, name):
        group = read_anatomy(tiny_model(family), 9).groups[name]
        return group.rows(group.producers[0], kept).tolist()

    assert rows("phi3", "decoder.layer.0.attention.group") == [*range(8, 16), *range(36, 40), *range(52, 56)]
    assert rows("gpt_neox", "decoder.layer.0.attention.head") == [*range(24, 48)]
    assert rows("modernbert", "encoder.layer.0.attention.head") == [*range(8, 16), *range(40, 48), *range(72, 80)]
    assert rows("modernbert", "encoder.layer.0.ffn.neuron") == [1, 25]


def test_what_is_given_a_table_as_well_is_no_reader_of_the_stream():
    shared, own = (read_anatomy(tiny_model(name), 9) for name in ("deberta-v2", "deberta-v2-own"))
    name = "encoder.layer.0.attention"
    assert [each.module.rpartition(".")[2] for each in shared.groups[f"{name}.head"].readers[0]] == ["value_proj"]
    assert len(own.groups[f"{name}.head"].readers[0]) == 3 and len(own.groups[f"{name}.head"].producers) == 5
    assert [each.name.rpartition(".")[2] for each in shared.linears.values() if each.shared][:2] == ["query", "key"]
    assert own.linears[f"{name}.position_key"].shared and not own.linears[f"{name}.key"].shared


def test_norms_stand_where_the_configuration_says():
    assert {layer.norm for layer in read_anatomy(tiny_model("opt"), 9).layers.values()} == {"before"}
    assert {layer.norm for layer in read_anatomy(tiny_model("opt-after"), 9).layers.values()} == {"after"}


def test_towers_are_counted_with_their_own_tokens():
    both = read_anatomy(tiny_model("clip-pair"), 9)
    assert {each.tokens for each in both.linears.values() if each.name.startswith("vision")} == {5}
    assert {each.tokens for each in both.linears.values() if each.name.startswith("text")} == {9}
    cross = read_anatomy(tiny_model("whisper", generates=True), 9)
    names = ("query", "key", "value", "output")
    assert [cross.linears[f"decoder.layer.0.cross_attention.{each}"].tokens for each in names] == [9, 7, 7, 9]


def test_cross_attention_has_its_own_components():
    names = set(read_anatomy(tiny_model("t5"), 9).groups)
    assert {"decoder.layer.1.attention.head", "decoder.layer.1.cross_attention.head"} <= names
    assert not any(name.startswith("encoder") and "cross" in name for name in names)


def test_an_encoder_alone_is_read_without_its_decoder():
    config = hf.T5Config(**tiny_model("t5").config.to_diff_dict())
    anatomy = read_anatomy(hf.T5EncoderModel(config), 9)
    assert {layer.split(".")[0] for layer in anatomy.layers} == {"encoder"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bare_model_has_the_same_components(family):
    model = tiny_model(family)
    bare = type(model.base_model)(model.config)
    assert set(read_anatomy(bare, 9).groups) == set(read_anatomy(model, 9).groups)


def test_a_near_miss_is_pointed_out():
    with pytest.raises(InputError, match=r"did you mean 'encoder\.layer\.0\.ffn\.neuron'"):
        read_anatomy(tiny_model("bert"), 9).locate("encoder.layer.0.ffn.neurn.3")


def test_a_family_whose_layers_share_their_weights_is_refused_with_the_reason():
    model = hf.AlbertModel(hf.AlbertConfig(hidden_size=32, num_attention_heads=4, intermediate_size=24, vocab_size=60))
    with pytest.raises(InputError, match="'albert': its layers share one set of weights"):
        read_anatomy(model, 9)
    assert "albert" in families.refused() and "albert" not in families.families()


def test_a_model_whose_layers_lie_elsewhere_is_refused():
    model = tiny_model("vit")
    model.vit.blocks = model.vit._modules.pop("layers")
    with pytest.raises(InputError, match="no layers where the family 'vit' has them.*layers of model.base_model"):
        read_anatomy(model, 5)


def test_what_is_refused_is_not_registered():
    with pytest.raises(ValueError, match="'albert' is already registered"):
        families.refuse("albert", "again")


def test_an_unknown_family_is_told_which_are_known_and_how_to_add_one():
    model = hf.CamembertForSequenceClassification(_camembert_config())
    with pytest.raises(InputError) as caught:
        read_anatomy(model, 9)
    message = str(caught.value)
    assert "'camembert'" in message
    assert all(name in message for name in families.families())
    assert "compress_explain.families.register(family)" in message


def test_one_row_is_all_that_a_new_family_takes(camembert):
    model = hf.CamembertForSequenceClassification(_camembert_config()).eval()
    inputs = tiny_inputs("roberta")
    anatomy = read_anatomy(model, 9)
    removed = uneven_removal(anatomy)
    with Masks(model, anatomy) as masks, torch.inference_mode():
        masks.remove(flagged(anatomy, removed))
        masked = model(**inputs).logits
    smaller = materialize(model, anatomy, removed)
    with torch.inference_mode():
        assert torch.allclose(smaller(**inputs).logits, masked, atol=1e-6)
    assert smaller.num_parameters() == expected_parameters(model, anatomy, removed) < model.num_parameters()


def test_a_family_is_not_overridden(camembert):
    with pytest.raises(ValueError, match="'camembert' is already registered"):
        families.register(camembert)


def test_the_table_is_read_only():
    with pytest.raises(TypeError):
        families.families()["bert"] = families.family_of("bert")  # type: ignore[index]


@pytest.fixture
def camembert():
    """A row for CamemBERT, taken out again afterwards."""
    row = Family(
        model_type="camembert",
        stacks=(
            Stack(
                name="encoder",
                layers="encoder.layer",
                norm="after",
                attention=(
                    AttentionParts(
                        module="attention.self",
                        query="attention.self.query",
                        key="attention.self.key",
                        value="attention.self.value",
                        output="attention.output.dense",
                    ),
                ),
                feed_forward=(FeedForwardParts(up="intermediate.dense", down="output.dense"),),
            ),
        ),
    )
    families.register(row)
    yield row
    del families.table._FAMILIES["camembert"]


def _camembert_config():
    return hf.CamembertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=24, max_position_embeddings=40,
    )  # fmt: skip


@pytest.mark.parametrize("family", [name for name in CLASSIFIERS if MODELS[name].reads == ("image",)])
def test_the_tokens_of_an_image_are_those_that_reach_the_layers(family):
    """Class tokens differ from family to family."""
    model = tiny_model(family)
    subject = Subject(model=model, processor=None, task="image-classification", source="", digest="")
    assert tokens_of(subject, tiny_examples(family)) == tiny_tokens(family)
