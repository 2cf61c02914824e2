"""Patching and ablation: what is put in is what is told of, nothing else moves, and the numbers are those of plain passes."""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from compress_explain.data.examples import ALL
from compress_explain.editing.masks import Masks
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import load_subject
from compress_explain.signals.findings import as_table
from compress_explain.signals.interventions import patching
from compress_explain.signals.interventions.ablated_parts import ablated_parts
from compress_explain.signals.interventions.ablation import ablate
from compress_explain.signals.interventions.patching import patch
from compress_explain.signals.interventions.patching_told import LOGIT, bottleneck
from compress_explain.signals.interventions.ratios import ratios_of_sums
from compress_explain.signals.stream.layers import EMBEDDING, layers_of
from compress_explain.signals.stream.places import LAYER, Pass, places_of
from tests.asked import asked_rows, asking_tokenizer, finder
from tests.states import language_examples
from tests.test_questions import encoded
from tests.tiny import logits_of, tiny_examples, tiny_inputs, tiny_model
from tests.trained import reviews, trained_model

FAMILIES = ("bert", "distilbert", "deberta-v2-own", "modernbert", "vit", "dinov2", "gpt2", "llama", "opt", "opt-after", "gpt_neox", "t5", "bart")  # fmt: skip


@contextmanager
def replaced(model, module, stream):
    """Inside it what ``module`` gives is ``stream``, whatever it computes; a tuple's other members stay."""

    def swap(module, inputs, output):
        return stream if isinstance(output, torch.Tensor) else (stream, *output[1:])

    handle = model.get_submodule(module).register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def hooks_in(model):
    return [
        name
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    ]


def shaken(model, *parts, seed=3, by=0.1):
    """A copy with noise in the parameters whose names contain one of ``parts``."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if any(part in name for part in parts):
                parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return other


def patched(original, compressed, examples, theirs=None, **options):
    mine, other = layers_of(original), layers_of(compressed)
    found = patch(original, compressed, examples, examples if theirs is None else theirs, mine, other, **options)
    return as_table(found)


def told(table, figure, layer, site=LAYER, slice_name=ALL):
    chosen = table[(table.figure == figure) & (table.layer == layer) & (table.other == site)]
    return chosen[chosen.slice == slice_name].iloc[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_activation_put_into_its_own_model_changes_no_bit_and_another_one_does(family):
    model, inputs = tiny_model(family), tiny_inputs(family)
    layers = layers_of(model)
    places = places_of(model, layers)
    assert len(places) >= 1 + 3 * len(layers)
    with torch.inference_mode():
        run = Pass(model, layers, inputs)
        for place in places.values():
            value = run.at(place)
            assert torch.equal(run.with_at(place, value.clone()), run.logits), place
            assert not torch.equal(run.with_at(place, value.flip(0)), run.logits), place
    assert torch.equal(run.logits, logits_of(model, inputs)) and not hooks_in(model)


@pytest.mark.parametrize("family", ["bert", "gpt2", "opt", "vit"])
def test_what_is_run_again_from_a_place_is_what_a_whole_pass_gives_with_the_stream_exchanged(family):
    model, inputs = tiny_model(family), tiny_inputs(family)
    other = shaken(model, "weight")
    layers = layers_of(model)
    with torch.inference_mode():
        runs = [Pass(each, layers, inputs) for each in (model, other)]
        for name, module in zip(layers.names, layers.modules, strict=True):
            place = places_of(model, layers)[name, LAYER]
            stream = runs[1].at(place)
            with replaced(model, module, stream):
                whole = logits_of(model, inputs)
            assert torch.equal(runs[0].with_at(place, stream), whole)


def test_what_comes_before_a_place_is_not_computed_again():
    model, inputs = tiny_model("bert"), tiny_inputs("bert")
    layers = layers_of(model)
    counted = []
    for index, module in enumerate(layers.modules):
        linear = model.get_submodule(module).output.dense
        linear.register_forward_hook(lambda *_, index=index: counted.append(index))
    with torch.inference_mode():
        run = Pass(model, layers, inputs)
        counted.clear()
        for place in [each for each in places_of(model, layers).values() if each.site == LAYER]:
            run.with_at(place, run.at(place))
    assert counted == [0, 1, 2, 1, 2, 2]


def test_a_place_keeps_what_is_put_in_also_where_a_hook_rounds():
    model, inputs = tiny_model("bert"), tiny_inputs("bert")
    layers = layers_of(model)
    for module in layers.modules:
        for linear in (model.get_submodule(module).attention.output.dense, model.get_submodule(module).output.dense):
            linear.register_forward_hook(lambda module, inputs, output: torch.round(output, decimals=1))
    with torch.inference_mode():
        run = Pass(model, layers, inputs)
        for place in places_of(model, layers).values():
            assert torch.equal(run.with_at(place, run.at(place)), run.logits)
            assert not torch.equal(run.with_at(place, run.at(place).flip(0)), run.logits)


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit", "opt-after"])
def test_all_is_back_after_the_last_layer_if_heads_are_equal_and_nothing_before_the_first_if_embeddings_are(family):
    model = tiny_model(family)
    layers = layers_of(model)
    inside = [f".{number}." for number in range(len(layers))]
    table = patched(model, shaken(model, *inside), tiny_examples(family, rows=40))
    for figure in ("recovered", "broken"):
        last, first = told(table, figure, layers.names[-1]), told(table, figure, EMBEDDING)
        assert last.value == 1.0 and first.value == 0.0
        assert last.low == pytest.approx(1) and last.high == pytest.approx(1)
    assert not table.value.isna().any() and not hooks_in(model)


def test_what_only_one_sublayer_does_otherwise_is_back_there_and_nowhere_else():
    model = tiny_model("gpt2")
    other = shaken(model, "h.1.mlp")
    table = patched(model, other, tiny_examples("gpt2", rows=40))
    for figure in ("recovered", "broken"):
        assert told(table, figure, "decoder.layer.1", "feed_forward").value == 1.0
        assert told(table, figure, "decoder.layer.1").value == 1.0
        assert told(table, figure, "decoder.layer.1", "attention").value == 0.0
        assert told(table, figure, "decoder.layer.0").value == 0.0
    assert bottleneck(table) == "decoder.layer.1"


@pytest.mark.parametrize(
    ("parts", "where"),
    [(("wte",), EMBEDDING), (("h.0.",), "decoder.layer.0"), (("h.2.",), "decoder.layer.2"), (("score",), LOGIT)],
)
def test_the_bottleneck_is_where_the_change_was_made(parts, where):
    model = tiny_model("gpt2")
    table = patched(model, shaken(model, *parts), tiny_examples("gpt2", rows=24))
    assert bottleneck(table) == where
    assert bottleneck(table[table.other != LAYER]) is None


def test_the_larger_of_two_changes_is_the_bottleneck():
    model = tiny_model("bert")
    other = shaken(shaken(model, "layer.0.output", by=0.01), "layer.2.output", by=0.5)
    assert bottleneck(patched(model, other, tiny_examples("bert"))) == "encoder.layer.2"


def test_figures_are_the_slope_that_they_say_they_are():
    model = tiny_model("bert")
    other = shaken(model, "layer.")
    examples = tiny_examples("bert", rows=20)
    table = patched(model, other, examples, batch_size=7)
    name, module = layers_of(model).names[1], layers_of(model).modules[1]
    batch = examples.batch(np.arange(20))
    streams = {}
    for key, each in (("o", model), ("c", other)):
        handle = each.get_submodule(module).register_forward_hook(
            lambda _, inputs, output, key=key: streams.update(
                {key: output if isinstance(output, torch.Tensor) else output[0]}
            )
        )
        streams[f"logits {key}"] = logits_of(each, batch.inputs).double()
        handle.remove()
    with replaced(other, module, streams["o"]):
        mended = logits_of(other, batch.inputs).double()
    o, c, p = (each - each.mean(1, keepdim=True) for each in (streams["logits o"], streams["logits c"], mended))
    slope = float(((p - c) * (o - c)).sum() / (o - c).square().sum())
    assert told(table, "recovered", name).value == pytest.approx(slope, rel=1e-4)


def test_the_same_model_twice_has_nothing_to_recover():
    model = tiny_model("bert")
    table = patched(model, copy.deepcopy(model), tiny_examples("bert"))
    assert table.value.isna().all() and set(table.note) == {"both models give the same logits"}
    assert bottleneck(table) is None


def test_what_only_rounding_does_is_no_loss():
    model = tiny_model("bert")
    other = copy.deepcopy(model)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    for layer in other.bert.encoder.layer:  # the same sums, in another order
        up, down = layer.intermediate.dense, layer.output.dense
        up.weight.data, up.bias.data, down.weight.data = up.weight[order], up.bias[order], down.weight[:, order]
    examples = tiny_examples("bert")
    batch = examples.batch(np.arange(len(examples)))
    assert not torch.equal(logits_of(model, batch.inputs), logits_of(other, batch.inputs))
    table = patched(model, other, examples)
    assert set(table.note) == {"both models give the same logits"} and bottleneck(table) is None


def test_classes_in_another_order_are_put_in_order():
    model = tiny_model("bert")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name in ("weight", "bias"):
            parameter = getattr(other.classifier, name)
            parameter.copy_(parameter[[2, 0, 1]])  # class 1 of the copy is class 0 of the original
    examples = tiny_examples("bert")
    assert set(patched(model, other, examples, order=(1, 2, 0)).note) == {"both models give the same logits"}
    assert not patched(model, other, examples).value.isna().any()


def test_slices_and_flips_are_told_if_they_are_large_enough():
    model = tiny_model("gpt2")
    rows = 64
    slices = {"many": np.arange(rows) < 40, "few": np.arange(rows) < 29}
    examples = tiny_examples("gpt2", rows=rows, slices=slices)
    other = shaken(model, "h.", by=0.3)
    table = patched(model, other, examples)
    assert set(table.slice) == {ALL, "many", "flipped"}
    many = patched(model, other, examples.only(np.arange(40)))
    last = layers_of(model).names[1]
    assert told(table, "broken", last, slice_name="many").value == pytest.approx(told(many, "broken", last).value)
    batch = examples.batch(np.arange(rows))
    turned = logits_of(model, batch.inputs).argmax(-1) != logits_of(other, batch.inputs).argmax(-1)
    assert set(table[table.slice == "flipped"].n) == {int(turned.sum())}


def test_what_cannot_be_exchanged_is_said_not_raised():
    model, examples = tiny_model("bert"), tiny_examples("bert")
    other_tokens = replace(
        examples,
        inputs={name: [np.append(row, row[-1]) for row in rows] for name, rows in examples.inputs.items()},
    )
    [row] = patched(model, model, examples, other_tokens).itertuples()
    assert math.isnan(row.value) and "no row as the same tokens" in row.note
    [row] = patched(model, tiny_model("bert", labels=4), examples).itertuples()
    assert math.isnan(row.value) and "number of classes" in row.note


def test_rows_that_are_read_otherwise_are_left_out_and_counted():
    model, examples = tiny_model("bert"), tiny_examples("bert", rows=24)
    longer = {
        name: [*rows[:-2], *(np.append(row, row[-1]) for row in rows[-2:])] for name, rows in examples.inputs.items()
    }
    table = patched(model, shaken(model, "layer"), examples, replace(examples, inputs=longer))
    assert set(table[table.slice == ALL].n) == {22} and table.note.str.startswith("2 rows are left out").all()


def test_streams_of_other_widths_are_said():
    model = tiny_model("bert")
    config = copy.deepcopy(model.config)
    config.hidden_size = 16
    table = patched(model, type(model)(config).eval(), tiny_examples("bert"))
    assert table.value.isna().all() and table.note.str.contains("another shape").all()


def test_of_a_model_without_a_known_anatomy_only_the_stream_is_told():
    model = tiny_model("bert")
    model.config.model_type = "nothing-known"
    table = patched(model, shaken(model, "layer"), tiny_examples("bert"))
    assert set(table.other) == {LAYER} and list(table.layer.unique()) == [EMBEDDING, "layer.0", "layer.1", "layer.2"]


def test_a_language_model_is_told_of_its_decisions_alone():
    model = tiny_model("gpt2", generates=True)
    other = shaken(model, "h.1.")
    examples = language_examples(rows=34)
    table = patched(model, other, examples)
    assert set(table[table.slice == ALL].n) == {int(examples.decisions.sum())}
    assert {"early", "late"} & set(table.slice)
    alone = patched(model, other, examples, batch_size=1)  # no padding at all
    assert np.allclose(table.value, alone.value, atol=1e-5)
    assert told(table, "recovered", "decoder.layer.2").value == 1.0


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finder")
    finder("bert").save_pretrained(folder)
    asking_tokenizer().save_pretrained(folder)
    return encoded(load_subject(str(folder), "question-answering"), asked_rows(18, seed=6), empty_answers="allow")


def test_of_answers_only_the_tokens_where_one_can_lie_are_told_of(questions):
    model = finder("bert")
    lifted = copy.deepcopy(model)
    with torch.no_grad():
        lifted.qa_outputs.bias.add_(3.0)  # every token alike: no distribution changes
    table = patched(model, lifted, questions)
    assert table.value.isna().all() and bottleneck(table) is None
    both = patched(model, shaken(lifted, "layer.1.", by=0.3), questions)
    without_lift = patched(model, shaken(model, "layer.1.", by=0.3), questions)
    assert told(both, "recovered", "encoder.layer.1").value == pytest.approx(1, abs=1e-4)
    assert np.allclose(both.value, without_lift.value, atol=1e-3) and bottleneck(both) == "encoder.layer.1"


def test_where_nothing_differs_nothing_is_run(monkeypatch):
    model = tiny_model("bert")
    ran = []
    whole = Pass.with_at
    monkeypatch.setattr(
        patching.Pass, "with_at", lambda self, place, value: ran.append(place.layer) or whole(self, place, value)
    )
    patched(model, shaken(model, "layer.2."), tiny_examples("bert"))
    assert set(ran) == {"encoder.layer.2"}


def test_ratios_of_the_rows_that_are_drawn_cover_the_truth():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(60):
        rows = np.repeat(np.arange(60), 3)
        whole = rng.exponential(size=60)[rows]
        parts = (0.4 * whole + 0.5 * rng.normal(size=60)[rows])[None]  # the same in all of a row
        _, low, high = ratios_of_sums(parts, whole, rows, 0.9, trial)[0]
        hits += low <= 0.4 <= high
    assert 45 <= hits <= 59


# Ablation


def ablated(model, examples, **options):
    return as_table(ablate(model, examples, layers_of(model), **options))


@pytest.mark.parametrize(
    "family",
    ["bert", "gpt2", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("llama", "vit", "opt", "dinov2"))],
)
def test_what_is_set_to_zero_is_what_masks_take_out(family):
    model, examples = tiny_model(family), tiny_examples(family, rows=12)
    table = ablated(model, examples, batch_size=5).set_index(["other", "figure"])
    anatomy = read_anatomy(model, 8)
    batch = examples.batch(np.arange(12))
    own = logits_of(model, batch.inputs).double().log_softmax(-1)
    layer = next(iter(anatomy.layers))
    attention, ffn = anatomy.layers[layer].sublayers
    [group], [neurons] = anatomy.sublayers[attention].groups, anatomy.sublayers[ffn].groups
    count = anatomy.groups[neurons].count
    eighth = [f"{neurons}.{index}" for index in range(count // 8)]
    for name, components in (
        (f"{group}.1", [f"{group}.1"]),
        (f"{neurons}.0-{len(eighth) - 1}", eighth),
        (ffn, [ffn]),
    ):
        with Masks(model, anatomy) as masks:
            masks.remove(components)
            without = logits_of(model, batch.inputs).double().log_softmax(-1)
        kl = float((own.exp() * (own - without)).sum(-1).mean())
        flips = float((own.argmax(-1) != without.argmax(-1)).double().mean())
        assert table.loc[(name, "kl.zero"), "value"] == pytest.approx(kl, rel=1e-4, abs=1e-9)
        assert table.loc[(name, "flips.zero"), "value"] == pytest.approx(flips)
    assert not hooks_in(model)


def test_everything_is_ablated_once_and_every_neuron_in_one_eighth():
    model = tiny_model("bert")
    parts = ablated_parts(model, layers_of(model), {})
    assert len({part.name for part in parts}) == len(parts) == 3 * (2 + 4 + 8)
    for layer in layers_of(model).names:
        neurons = [part.columns for part in parts if part.name.startswith(f"{layer}.ffn.neuron")]
        assert torch.cat(neurons).tolist() == list(range(24))


def test_the_mean_is_of_real_tokens_and_is_put_on_every_token():
    model, examples = tiny_model("bert"), tiny_examples("bert", rows=10)
    table = ablated(model, examples, batch_size=4).set_index(["other", "figure"])
    site = model.bert.encoder.layer[1].attention.output.dense
    entering = []
    handle = site.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0].flatten(0, 1)))
    for row in range(10):
        logits_of(model, examples.batch(np.array([row])).inputs)  # alone: nothing is padding
    handle.remove()
    mean = torch.cat(entering).mean(0)[8:16]

    def swap(_, inputs):
        return torch.cat([inputs[0][..., :8], mean.expand(*inputs[0].shape[:-1], 8), inputs[0][..., 16:]], -1)

    batch = examples.batch(np.arange(10))
    own = logits_of(model, batch.inputs).double().log_softmax(-1)
    handle = site.register_forward_pre_hook(swap)
    without = logits_of(model, batch.inputs).double().log_softmax(-1)
    handle.remove()
    kl = float((own.exp() * (own - without)).sum(-1).mean())
    assert table.loc[("encoder.layer.1.attention.head.1", "kl.mean"), "value"] == pytest.approx(kl, rel=1e-4)


def test_a_part_that_says_the_same_of_everything_is_missed_by_zero_and_not_by_its_mean():
    model, examples = tiny_model("bert"), tiny_examples("bert")
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.value.weight[:8] = 0  # the first head: its bias is left
        model.bert.encoder.layer[2].output.dense.weight.zero_()
    table = ablated(model, examples).set_index(["other", "figure"]).value
    for name in ("encoder.layer.0.attention.head.0", "encoder.layer.2.ffn"):
        assert table[name, "kl.mean"] < 1e-9 < 1e-4 < table[name, "kl.zero"]


def test_what_a_trained_model_needs_is_told_from_what_it_does_not():
    model, examples = trained_model(), reviews(64, seed=9)
    with torch.no_grad():
        model.transformer.h[0].attn.c_proj.weight[:8] = 0  # nobody hears the first head
    table = ablated(model, examples)
    of = table.set_index(["other", "figure"])
    deaf = of.loc[("decoder.layer.0.attention.head.0", "flips.zero")]
    assert of.loc[("decoder.layer.0.attention.head.0", "kl.zero"), "value"] < 1e-12
    assert deaf.value == 0 < deaf.high < 0.1  # nothing was seen of 64
    whole = table[table.figure == "kl.zero"].sort_values("value").iloc[-1]
    assert whole.other.count(".") == 3 and whole.value > 0.1 and 0 < whole.low < whole.value < whole.high
    assert set(table.unit) == {"nats", "share"} and set(table.n) == {64}


def test_a_compressed_model_is_told_in_the_originals_names():
    original, compressed = tiny_model("bert"), tiny_model("bert")
    config = copy.deepcopy(compressed.config)
    config.num_hidden_layers = 2
    smaller = type(compressed)(config).eval()
    theirs = layers_of(smaller)
    names = {f"encoder.layer.0.ffn.neuron.{index}": f"encoder.layer.0.ffn.neuron.{index}" for index in range(24)}
    names |= {
        f"encoder.layer.1.attention.head.{index}": f"encoder.layer.2.attention.head.{index + 1}" for index in (0, 1, 2)
    }
    layers = replace(theirs, names=("encoder.layer.0", "encoder.layer.2"))
    found = ablate(
        smaller, tiny_examples("bert"), layers, renamed=names, like=read_anatomy(original, 1), model_name="compressed"
    )
    table = as_table(found)
    others = set(table.other)
    assert {"encoder.layer.2.attention.head.1", "encoder.layer.2.attention.head.3", "encoder.layer.2.ffn"} <= others
    assert not any(name.startswith("encoder.layer.1.") for name in others)
    assert set(table.model) == {"compressed"} and set(table.layer) == {"encoder.layer.0", "encoder.layer.2"}


def test_an_eighth_of_a_compressed_model_is_what_is_left_of_the_originals():
    model = tiny_model("bert")
    left = [index for index in range(24) if index not in (0, 1, 2, 5)]  # an eighth is three neurons
    smaller = copy.deepcopy(model)
    for layer in smaller.bert.encoder.layer:
        for linear, axis in ((layer.intermediate.dense, 0), (layer.output.dense, 1)):
            linear.weight.data = linear.weight.data.index_select(axis, torch.tensor(left))
        layer.intermediate.dense.bias.data = layer.intermediate.dense.bias.data[left]
    names = {
        f"encoder.layer.{layer}.ffn.neuron.{own}": f"encoder.layer.{layer}.ffn.neuron.{index}"
        for layer in range(3)
        for own, index in enumerate(left)
    }
    parts = ablated_parts(smaller, layers_of(smaller), names, read_anatomy(model, 1))
    first = {part.name: part.columns.tolist() for part in parts if part.name.startswith("encoder.layer.0.ffn.neuron")}
    assert first["encoder.layer.0.ffn.neuron.3-5"] == [0, 1] and first["encoder.layer.0.ffn.neuron.21-23"] == [
        17,
        18,
        19,
    ]
    assert "encoder.layer.0.ffn.neuron.0-2" not in first


def test_one_way_alone_is_told_as_it_is_beside_the_other():
    model, examples = tiny_model("bert"), tiny_examples("bert", rows=8)
    both, one = ablated(model, examples), ablated(model, examples, ways=("mean",))
    assert set(one.figure) == {"kl.mean", "flips.mean"}
    chosen = both[both.figure.str.endswith("mean")]
    assert chosen.value.tolist() == one.value.tolist() and chosen.other.tolist() == one.other.tolist()


def test_a_language_model_is_ablated_on_its_decisions():
    model = tiny_model("gpt2", generates=True)
    examples = language_examples(rows=5)
    together, alone = (ablated(model, examples, batch_size=size) for size in (8, 1))
    assert set(together.n) == {int(examples.decisions.sum())}
    assert np.allclose(together.value, alone.value, atol=1e-6)


def test_of_an_unknown_family_it_is_said_that_parts_are_not_known():
    model = tiny_model("bert")
    model.config.model_type = "nothing-known"
    [row] = ablated(model, tiny_examples("bert")).itertuples()
    assert math.isnan(row.value) and "nothing-known" in row.note
