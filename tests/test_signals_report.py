"""The section on signals says what was found in words that its figures bear out; advice needs evidence."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest

from compress_explain.report.page import environment
from compress_explain.report.signal_retention import MOSTLY_LOST, OPEN, SURVIVES, UNTOLD, WEAKER
from compress_explain.report.signals import signals_section
from compress_explain.signals.advice.advice import advice
from compress_explain.signals.findings import Finding, as_table
from compress_explain.signals.found import Found
from tests.signals_table import DECISION, NEGATION, QUALITY, TASK, depths, findings, table, told


def page(section):
    return environment().get_template("section_signals.html").render(signals=section)


def kinds(found, **shares):
    return [each.kind for each in advice(as_table(found), shares)]


def test_every_signal_has_a_verdict_its_interval_and_n():
    section = signals_section(table())
    words = {row.name: row.word for row in section.retention}
    assert list(words.values()) == [WEAKER, SURVIVES, MOSTLY_LOST, UNTOLD, OPEN]
    for row in section.retention:
        assert row.retained.n == 872
        assert any(row.name in sentence for sentence in section.sentences)
    assert "1 survives in the compressed model: the original's decision 99.5% (97.5% to 100.0%)" in section.sentences[0]
    assert "n = 872 decisions" in section.sentences[0] and "at 90%" in section.sentences[0]


def test_what_cannot_be_told_is_told_in_words():
    why = "a <file> of another runtime, which cannot be looked into"
    nothing = Finding(
        part="retention", figure="retained", value=math.nan, unit="share", n=0, signal=TASK, other="chosen", note=why
    )
    broken = Finding(part="patching", figure="recovered", value=math.nan, unit="share", n=0, note="other tokens")
    section = signals_section(as_table([nothing, broken]))
    assert section.sentences == (f"Whether these survive cannot be told: right answer, since {why}.",)
    assert section.untold == (("where the decision is lost", "other tokens"),)
    html = page(section)
    assert "&lt;file&gt;" in html and "since other tokens." in html and "NaN" not in html and "nan" not in html.lower()


def test_names_from_data_are_escaped_and_there_is_no_script():
    html = page(signals_section(table()))
    assert "<b>x</b>" not in html and "&lt;b&gt;x&lt;/b&gt;" in html
    assert "<script" not in html and ">nan" not in html.lower()


@pytest.mark.parametrize("layers", [1, 3, 12, 48])
def test_labels_do_not_meet_and_marks_stay_in_their_frames_however_deep_a_model_is(layers):
    section = signals_section(table(layers))
    for chart in (*section.curves, *section.patching.charts, *section.flow.charts):
        left, top, right, bottom = chart.box
        places = [x for x, _ in chart.across]
        assert all(late - early >= 24 for early, late in pairwise(places))
        for line in chart.lines:
            numbers = re.findall(r"[ML](\S+) ([^LMZ]+)", line.path + line.band)
            assert all(left <= float(x) <= right and top <= float(y) <= bottom for x, y in numbers)
    for map in (section.alike.large, *section.alike.smalls):
        assert len(map.cells) == (layers + 1) ** 2 and map.width < 620
        assert all(map.size >= 30 for cell in map.cells if cell.number)


def test_a_chart_shows_both_models_with_bands_and_both_controls_without():
    chart = signals_section(table()).curves[0]
    assert [(line.look, bool(line.band)) for line in chart.lines] == [
        ("random", False), ("shuffled", False), ("original", True), ("compressed", True)
    ]  # fmt: skip
    assert "n = 872" in chart.lines[-1].points[-1][2]


def test_the_strictest_statistic_is_what_the_sentence_rests_on():
    hidden = signals_section(table()).quality
    assert "The original model holds more" in hidden.sentence
    weak = [
        replace(each, low=-0.1, high=0.2) if (each.signal, each.figure) == (QUALITY, "rho_output") else each
        for each in findings()
    ]
    naive = signals_section(as_table(weak)).quality
    assert naive.given[0].original.low > 0, "the naive one still lies above 0"
    assert "is not seen to hold more" in naive.sentence and "holds more" not in naive.sentence
    assert any(row.beyond for row in naive.catches) and "flags" not in naive.sentence


def test_catches_count_only_beyond_chance():
    rows = {(row.rate, row.model): row for row in signals_section(table()).quality.catches}
    assert rows["20%", "original"].beyond and not rows["5%", "original"].beyond
    assert "where chance would flag 6.1" in signals_section(table()).quality.sentence
    fewer = [
        replace(each, value=6.0) if (each.figure, each.other) == ("exclusive", "20%") else each for each in findings()
    ]
    assert "At no rate" in signals_section(as_table(fewer)).quality.sentence


def test_a_layer_that_is_gone_is_told_at_the_last_one_before_it():
    last = depths(6)[-1]
    shorter = [each for each in findings() if not (each.model == "compressed" and each.layer == last)]
    row = signals_section(as_table(shorter)).retention[0]
    assert row.compressed.layer == depths(6)[-2] and row.original.layer == last


def test_components_are_ranked_by_what_the_original_loses_and_what_is_gone_is_said_to_be():
    ablation = signals_section(table()).ablation
    assert ablation.parts[0].component == "encoder.layer.5.attention.head.2" and ablation.parts[0].compressed is None
    assert len(ablation.parts) == 10
    assert all(".head." not in row.component and ".neuron." not in row.component for row in ablation.sublayers)
    assert "not there" in page(signals_section(table()))


def test_attributions_that_point_at_nothing_are_not_relied_on():
    assert "both point at what they use" in signals_section(table()).reading.sentence
    at_random = [replace(each, low=-0.1) if each.figure == "deletion.gain" else each for each in findings()]
    assert "little hangs on that" in signals_section(as_table(at_random)).reading.sentence


def probed_within(half, **others):
    """The table, with probes' figures known to ``half`` on either side, or to what ``others`` say of a signal."""
    return [
        replace(each, low=each.value - others.get(each.signal, half), high=each.value + others.get(each.signal, half))
        if each.figure == "auc"
        else each
        for each in findings()
    ]


def test_advice_names_the_head_the_layers_and_the_depth_with_their_figures():
    by_kind = {each.kind: each for each in advice(as_table(probed_within(0.005)))}
    assert set(by_kind) == {"bottleneck", "distil", "keep", "student"}
    assert "encoder.layer.5.attention.head.2" in by_kind["keep"].text
    assert "encoder.layer.4 and encoder.layer.5" in by_kind["distil"].text
    assert "5 layers" in by_kind["student"].text and "at least 39 directions" in by_kind["student"].text
    for each in by_kind.values():
        assert each.evidence and all("n = " in line for line in each.evidence)


def test_a_student_is_as_deep_as_intervals_bear_out_and_other_signals_are_named():
    def student(found):
        return next((each for each in advice(as_table(found)) if each.kind == "student"), None)

    sure, vague = student(probed_within(0.005)), student(probed_within(0.005, task=0.1))
    assert "cannot be told" not in sure.text
    assert any(line.startswith("right answer: 0.9") for line in sure.evidence)
    assert "Of right answer that cannot be told" in vague.text
    assert not any("right answer" in line for line in vague.evidence)
    assert student(probed_within(0.1)) is None, "all that speaks for a depth are the middles of wide intervals"


def test_a_head_is_not_said_to_be_gone_where_nobody_looked():
    looked = [each for each in findings() if (each.part, each.model) != ("ablation", "compressed")]
    assert "keep" in kinds(findings()) and "keep" not in kinds(looked)


def leaping(at):
    """Retention of a signal that falls at layer 4, and what breaks in the original, which leaps ``at`` a layer."""
    for number in range(6):
        layer = f"encoder.layer.{number}"
        yield told("retention", "retained", 0.5 if number >= 4 else 1.0, "share", signal=TASK, layer=layer)
        yield told("patching", "broken", 0.6 if number >= at else 0.0, "share", layer=layer, other="layer")


def test_measures_that_leap_at_one_layer_name_it_and_others_are_said_to_disagree():
    [together] = advice(as_table(leaping(4)))
    assert together.text.startswith("Most is lost at encoder.layer.4") and len(together.evidence) == 2
    [apart] = advice(as_table(leaping(2)))
    assert "each measure leaps at another, encoder.layer.2 and encoder.layer.4" in apart.text


def test_what_is_sure_but_tiny_is_not_advised_on():
    tiny = [
        replace(each, value=0.99 if each.layer == depths(6)[-1] else 1.0, low=0.989 if each.layer == depths(6)[-1] else 1.0,
                high=0.991 if each.layer == depths(6)[-1] else 1.0)
        if each.part in ("retention", "cka") and not each.note
        else each
        for each in findings()
        if each.part != "patching"
    ]  # fmt: skip
    assert set(kinds(tiny)) <= {"student"}


def test_nothing_is_advised_where_no_interval_bears_it_out():
    wide = [replace(each, low=each.value - 5, high=each.value + 5) for each in findings()]
    assert advice(as_table(wide)) == []
    without = [replace(each, low=math.nan, high=math.nan) for each in findings()]
    assert advice(as_table(without)) == []
    html = page(signals_section(as_table(wide)))
    assert "Nothing: no figure below" in html


def test_two_models_that_are_alike_get_no_advice_on_losses():
    same = [
        replace(each, value=1.0, low=1.0, high=1.0) if each.part in ("retention", "cka") and not each.note else each
        for each in findings()
        if each.part != "patching"
    ]
    assert set(kinds(same)) <= {"student"}


def trigger(lost=0.2):
    """A slice that is told apart perfectly from the first layer on and survives, beside one of which ``lost`` is gone."""
    name, found = "attribute.trigger", []
    for depth in depths(6):
        value, half = (0.5, 0.01) if depth == "embedding" else (1.0, 0.0)
        for model in ("original", "compressed"):
            found.append(told("probe", "auc", value, "AUC", 872, half, signal=name, model=model, layer=depth))
            found.append(
                told("probe", "selectivity", value - 0.5, "AUC", 872, half, signal=name, model=model, layer=depth)
            )
    left = told("retention", "retained", 1.0, "share", 872, 0.0, signal=name, layer=depths(6)[-1], other="chosen")
    other = told(
        "retention", "retained", 1 - lost, "share", 872, 0.1, signal=NEGATION, layer=depths(6)[-1], other="chosen"
    )
    return [*found, left, other]


def test_a_rare_slice_that_outlasts_all_others_is_a_reason_to_look_and_no_more():
    [look] = [each for each in advice(as_table(trigger()), {"trigger": 0.02}) if each.kind == "look"]
    assert "a reason to look, not a finding" in look.text and "2.0% of rows" in look.evidence[0]
    assert "look" not in kinds(trigger(), trigger=0.2), "a common slice is none"
    assert "look" not in kinds(trigger()), "nor one of which nobody knows how rare it is"
    assert "look" not in kinds(trigger(lost=0.0), trigger=0.02), "nor where other slices survive as well"
    late = [
        replace(each, low=0.5) if (each.figure, each.layer) == ("auc", depths(6)[5]) else each for each in trigger()
    ]
    assert "look" not in kinds(late, trigger=0.02), "nor one that is not told apart at every later layer"


def test_where_nothing_was_measured_there_is_no_section():
    assert signals_section(None) is None and signals_section(as_table([])) is None
    assert Found(table=as_table([])).signals == ()


def test_signals_are_named_as_people_would():
    names = [row.name for row in signals_section(table()).retention]
    assert names == ["right answer", "the original's decision", "negation", "<b>x</b>", "decision quality"]
    assert {TASK, DECISION} <= {signal.name for signal in Found(table=table()).signals}
