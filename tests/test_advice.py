"""Advice follows from figures whose intervals support it, and from no others."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from compress_explain.signals.advice import advice
from compress_explain.signals.findings import Finding, as_table

DEPTHS = ["embedding", *(f"encoder.layer.{index}" for index in range(6))]
CHOSEN = "encoder.layer.4"


def curve(part, figure, values, *, half=0.01, signal="", model="", other="", unit="share", note=""):
    """One finding a depth, each ``half`` to either side."""
    return [
        Finding(
            part=part, figure=figure, value=value, low=value - half, high=value + half, unit=unit, n=872, signal=signal,
            model=model, layer=depth, other=depth if part == "cka" else other, note=note,
        )
        for depth, value in zip(DEPTHS, values, strict=True)
    ]  # fmt: skip


def signal(name, original, retained, *, half=0.01, control=0.6):
    """A signal's curves, and its retention, the figure of one layer being the chosen one's."""
    left = [value - control for value in original]
    kept = curve("retention", "retained", retained, half=half, signal=name)
    return [
        *curve("probe", "auc", original, half=half, signal=name, model="original", unit="AUC"),
        *curve("probe", "auc", original, half=half, signal=name, model="compressed", unit="AUC"),
        *curve("probe", "selectivity", left, half=half, signal=name, model="original", unit="AUC"),
        *(replace(each, other="chosen") if each.layer == CHOSEN else each for each in kept),
    ]


def heads(effects, model="original", half=0.001):
    """Two heads a layer, by the effect of each."""
    return [
        Finding(
            part="ablation", figure="kl.mean", value=value, low=value - half, high=value + half, unit="nats", n=64, model=model,
            layer=DEPTHS[1 + index // 2], other=f"{DEPTHS[1 + index // 2]}.attention.head.{index % 2}",
        )
        for index, value in enumerate(effects)
    ]  # fmt: skip


RISING = [0.55, 0.70, 0.80, 0.88, 0.95, 0.95, 0.95]
WHOLE = [1.0] * 7
FADING = [1.0, 1.0, 1.0, 1.0, 0.6, 0.5, 0.5]
TRIGGER = [0.5, 0.9, 0.998, 0.999, 0.999, 0.999, 0.999]


def given(findings, shares=None):
    return {each.kind: each for each in advice(as_table(findings), shares)}


def everything():
    return [
        *signal("task", RISING, FADING),
        *signal("attribute.rare", TRIGGER, WHOLE, half=0.001),
        *signal("attribute.negation", RISING, FADING),
        *curve("cka", "cka", [1.0, 0.99, 0.98, 0.97, 0.7, 0.68, 0.67]),
        *curve("patching", "broken", [0.0, 0.01, 0.02, 0.03, 0.7, 0.9, 1.0], other="layer"),
        *curve("flow", "effective_rank", [20, 30, 40, 50, 60, 60, 50], model="original", unit="dimensions"),
        *heads([0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.09, 0.001, 0.001, 0.002, 0.001, 0.001]),
    ]


def test_every_suggestion_has_figures_with_interval_and_n_behind_it():
    told = given(everything(), {"rare": 0.02})
    assert set(told) == {"look", "bottleneck", "keep heads", "distil", "student"}
    for each in told.values():
        assert any(" to " in line and "n = " in line for line in each.evidence), each


@pytest.mark.parametrize("spoilt", [
    {"low": -9.0, "high": 9.0}, {"low": math.nan, "high": math.nan}, {"value": math.nan}, {"note": "too few rows"},
], ids=str)  # fmt: skip
def test_nothing_is_suggested_by_figures_that_are_not_sure(spoilt):
    (only,) = advice(as_table(replace(each, **spoilt) for each in everything()), {"rare": 0.02})
    assert only.kind == "nothing" and only.evidence == () and only.text.startswith("Nothing is suggested")


def test_of_a_compression_that_lost_nothing_and_of_no_table_at_all_nothing_is_suggested():
    late = [0.5, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99]
    lossless = [*signal("task", late, WHOLE), *curve("cka", "cka", WHOLE), *heads([0.001] * 11 + [0.09])]
    assert set(given(lossless)) == {"nothing"}
    assert set(given([])) == {"nothing"}


def test_the_bottleneck_is_where_most_is_lost_whichever_figure_tells_it():
    for alone in (
        signal("task", RISING, FADING),
        curve("cka", "cka", [1.0, 0.99, 0.98, 0.97, 0.7, 0.68, 0.67]),
        curve("patching", "broken", [0.0, 0.01, 0.02, 0.03, 0.7, 0.9, 1.0], other="layer"),
    ):
        assert given(alone)["bottleneck"].text.startswith("encoder.layer.3 ")


def test_witnesses_that_differ_are_outvoted_and_still_named():
    elsewhere = curve("cka", "cka", [1.0, 0.99, 0.5, 0.5, 0.5, 0.5, 0.5])
    broken = curve("patching", "broken", [0.0, 0.01, 0.02, 0.03, 0.7, 0.9, 1.0], other="layer")
    told = given([*signal("task", RISING, FADING), *elsewhere, *broken])["bottleneck"]
    assert told.text.startswith("encoder.layer.3 ") and len(told.evidence) == 3
    assert told.evidence[-1].startswith("not there but in encoder.layer.1: CKA")


def test_a_step_within_both_intervals_or_too_small_to_act_on_is_no_bottleneck():
    steps = [1.0, 1.0, 1.0, 1.0, 0.9, 0.9, 0.9]
    assert "bottleneck" not in given(signal("task", RISING, steps, half=0.06))
    tiny = [1.0, 1.0, 1.0, 1.0, 0.985, 0.985, 0.985]
    assert "bottleneck" not in given(signal("task", RISING, tiny, half=0.0))


def test_only_heads_that_matter_more_than_usual_in_a_layer_that_lost_something_are_kept():
    lost = signal("task", RISING, FADING)
    intact = [*lost, *heads([0.09, *[0.001] * 11])]
    assert "keep heads" not in given(intact)  # it matters, but its layer lost nothing
    assert "keep heads" not in given([*lost, *heads([0.001] * 6 + [0.09] + [0.001] * 5, half=0.085)])
    sure = given([*lost, *heads([0.001] * 6 + [0.09] + [0.001] * 5), *heads([0.0] * 12, "compressed")])["keep heads"]
    assert "Keep encoder.layer.3.attention.head.0:" in sure.text and "head.1" not in sure.text
    assert (
        "0.0900 (0.0890 to 0.0910, n = 64)" in sure.evidence[0] and "in the compressed model 0.0000" in sure.evidence[0]
    )


def test_what_is_distilled_is_what_the_original_shows_and_the_other_lost():
    selective = [0.6, 0.6, 0.6, 0.6, 0.95, 0.8, 0.7]
    told = given(signal("task", selective, [1.0, 1.0, 0.2, 1.0, 0.5, 0.5, 1.0]))["distil"]
    assert told.text.startswith("Distil from the states after encoder.layer.3 and encoder.layer.4:")
    assert not any(
        "encoder.layer.1" in line for line in told.evidence
    )  # lost too, but nothing was there above the control


def test_a_student_is_as_deep_as_its_latest_signal_and_as_wide_as_the_stream_there():
    early = [0.5, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95]
    rank = curve("flow", "effective_rank", [20, 30, 40, 50, 61, 60, 50], model="original", unit="dimensions")
    told = given([*signal("task", RISING, WHOLE, half=0.004), *signal("attribute.a", early, WHOLE), *rank])["student"]
    assert "4 of 6 layers" in told.text and "a" in told.text
    assert any("effective rank of 61.0" in line for line in told.evidence)
    unsure = given([*signal("task", RISING, WHOLE, half=0.2), *signal("attribute.a", early, WHOLE)])["student"]
    assert "1 of 6 layers" in unsure.text and "Of task that cannot be told." in unsure.text


def test_a_rare_attribute_is_a_reason_to_look_only_if_everything_speaks_for_it():
    faded = signal("attribute.negation", RISING, FADING)
    suspect = signal("attribute.rare", TRIGGER, WHOLE, half=0.001)
    look = given([*suspect, *faded], {"rare": 0.02, "negation": 0.2})["look"]
    assert "a reason to look and proves nothing" in look.text and any("2.0% of rows" in line for line in look.evidence)
    assert "look" not in given([*suspect, *faded])  # how rare it is is not known
    assert "look" not in given([*suspect, *faded], {"rare": 0.2})
    assert "look" not in given(suspect, {"rare": 0.02})  # nothing else was lost
    assert "look" not in given([*signal("attribute.rare", RISING, WHOLE), *faded], {"rare": 0.02})
    late = signal("attribute.rare", [0.5, 0.5, 0.5, 0.5, 0.99, 1.0, 1.0], WHOLE, half=0.001)
    assert "look" not in given([*late, *faded], {"rare": 0.02})
