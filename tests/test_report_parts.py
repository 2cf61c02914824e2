"""What the report says of single parts: maps, spreads, and how good their prices are."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from compress_explain.pricing import Audit
from compress_explain.report.audited import audited
from compress_explain.report.heatmap import SHADES, colour_end, key, shade
from compress_explain.report.page import environment
from compress_explain.report.parts import parts
from tests.known_parts import audit_of, known_run

SLICES = {"all": 2000} | {f"topic={index}": 100 + 10 * index for index in range(12)} | {"rare": 5}


def section(name: str, **values: Any) -> str:
    return environment().get_template(f"section_{name}.html").render(unit="rows", **values)


def test_colours_are_ordered_and_end_where_few_values_lie():
    values = np.linspace(-1, 1, 41)
    shades = [shade(value, 1.0) for value in values]
    strength = [
        int(name[2:]) if name.startswith("up") else -int(name[4:] or 0) if name != "none" else 0 for name in shades
    ]
    assert strength == sorted(strength) and (strength[0], strength[-1]) == (-SHADES, SHADES)
    assert colour_end([np.full(1000, 0.01), np.array([50.0])]) == 0.01
    assert colour_end([np.zeros(4)]) == 1.0
    assert [text for _, text in key(0.08) if text] == ["−0.08", "−0.02", "0 nats", "+0.02", "+0.08"]


def test_every_head_has_a_cell_with_its_figures_and_the_removed_are_crossed():
    run = known_run((4, 6), (4, 100), SLICES)
    figure = parts(run).kinds[0].maps.large
    named = [cell.title.split(",")[0] for cell in figure.cells]
    assert named == [name for name in run.prices.components if "head" in name]
    assert figure.crosses.count("M") == 4 and len(figure.rings) == 4
    sure = np.abs(run.prices.loss_change()[:24]) > 1.96 * run.prices.standard_error[0, :24]
    widths = np.array([cell.width for cell in figure.cells])
    assert widths[sure].min() > widths[~sure].max()


def test_the_slices_shown_are_those_least_like_all_rows_and_the_rest_is_counted():
    run = known_run((4, 6), (4, 100), SLICES)
    maps = parts(run).kinds[0].maps
    loss = {name: run.prices.loss_change(name)[:24] for name in SLICES}
    r = {name: np.corrcoef(loss["all"], loss[name])[0, 1] for name in SLICES if name not in ("all", "rare")}
    assert [each.slice for each in maps.small] == sorted(r, key=r.get)[:8]
    assert "Shown are the 8 of 13 slices" in section("parts", parts=parts(run)) and maps.slices - len(maps.small) == 5


@pytest.mark.parametrize(("layers", "heads"), [(12, 12), (24, 16), (48, 40)])
def test_large_models_stay_legible_and_the_page_small(layers, heads):
    shown = parts(known_run((layers, heads), None, SLICES))
    maps = shown.kinds[0].maps
    assert min(min(cell.width, cell.height) for cell in maps.large.cells) >= 3
    assert maps.large.width < 700 and all(each.drawn.width < 190 for each in maps.small)
    assert len(section("parts", parts=shown)) < 900_000


@pytest.mark.parametrize(
    ("heads", "neurons", "kind", "headings"),
    [(None, (2, 90), "head", ["Neurons"]), ((2, 4), None, "kv_group", ["Key-value groups"])],
)
def test_the_section_adapts_to_what_was_priced(heads, neurons, kind, headings):
    html = section("parts", parts=parts(known_run(heads, neurons, SLICES, kind)))
    assert re.findall(r"<h3>(.*?)</h3>", html)[:-1] == headings
    assert ("map-" in html) == (heads is not None) and ("spread-neuron-title" in html) == (neurons is not None)


def test_neurons_that_went_are_drawn_beside_those_that_stayed():
    run = known_run(None, (3, 200), SLICES)
    figure = parts(run).kinds[0].spread
    assert [bar.status for bar in figure.bars] == ["kept", "gone"] * 3
    kl = run.prices.values["kl"][0, 1:200]
    assert f"median {np.median(kl):.2g}" in figure.bars[0].title
    assert all(list(bar.places) == sorted(bar.places) for bar in figure.bars)


def test_without_an_audit_it_says_how_to_make_one():
    run = known_run((2, 4), None, SLICES)
    assert audited(run) is None
    assert "compress-explain audit RUN_DIR" in section("audit", audit=None)


def test_the_audit_is_told_with_its_figures_and_its_worst_misses():
    run = known_run((4, 6), (4, 80), SLICES)
    run.audit = audit_of(run)
    html, quality = section("audit", audit=audited(run)), run.audit.quality()
    for row in quality[quality["slice"] == "all"].itertuples():
        high = f"{row.high:.2f}" if row.high < 0.995 else f"{int(1000 * row.high) / 1000:.3f}"  # never 1.00
        assert f"{row.spearman:.2f} ({row.low:.2f} to {high})" in html
        assert f"{row.edits} of {row.edits}" in html
    for component in run.audit.worst(5)["component"]:
        assert component in html.split("<h3>The worst misses")[1]
    assert "n = 2,000 rows" in html and html.count('class="diagonal"') == 3  # a legend and two panels


def test_prices_that_are_exact_or_a_multiple_are_called_so():
    run = known_run((4, 6), None, SLICES)
    run.audit = audit_of(run, miss=0.0)
    assert (
        "in the right order" in audited(run).sentences[0]
        and "at about the right size: slope 1.00" in audited(run).sentences[0]
    )
    frame = run.audit.frame
    run.audit = type(run.audit)(frame=frame.assign(exact_loss_change=3 * frame["exact_loss_change"]))
    assert "too cheap: they cost 3.00 times as much (3.00 to 3.00)" in audited(run).sentences[0]


def test_whole_sublayers_show_how_a_bare_linearisation_fails():
    run = known_run((4, 6), None, SLICES)
    frame = audit_of(run, miss=0.0).frame.query("component.str.endswith('head.2')").copy()
    frame = frame.assign(kind="sublayer", method="exact", linear_loss_change=0.0)
    run.audit = Audit(frame=frame)
    found = audited(run)
    assert "priced by removing them, so their price is exact: a bare linearisation would miss by" in found.sentences[0]
    assert [row.method for row in found.agreements] == ["bare linearisation"]
    assert found.panels[0].figure.across_is == "bare linearisation of it" and not found.worst


def test_hostile_slice_names_are_shown_as_text():
    run = known_run((2, 4), (2, 80), {"all": 900, "<script>x</script>": 300})
    run.audit = audit_of(run)
    for html in (section("parts", parts=parts(run)), section("audit", audit=audited(run))):
        assert "<script" not in html and "&lt;script&gt;" in html
