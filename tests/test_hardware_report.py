"""The section on speed, size and energy says what was measured, in words that fit the figures."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from compress_explain.deployment.targets import TargetRow
from compress_explain.evaluators import ColdStart, Energy, Latency
from compress_explain.hardware.paired_times import Estimate
from compress_explain.hardware.repeated import counted_score
from compress_explain.report.hardware import hardware_section
from compress_explain.report.page import environment
from tests.test_interleaved import table


def section(compressed, again=0.01, targets=()):
    calls = table(compressed, again).assign(threads=1, form="onnx int8")
    scores = [*Latency().scores(calls), counted_score("bytes_on_disk", 90e6, 30e6, unit="bytes")]
    tables = {"latency": calls, "energy": pd.DataFrame([{"method": "none", "why": "no <RAPL> counters"}])}
    return hardware_section({(each.metric, each.slice): asdict(each) for each in scores}, tables, targets)


def page(hardware):
    return environment().get_template("section_hardware.html").render(hardware=hardware)


def test_the_first_sentence_is_the_verdict():
    faster = section(0.005)
    assert faster.sentences[0].startswith("The compressed model is faster: 9.99 ms a call became 4.99 ms")
    assert "n = 80 calls of each, 40 blocks" in faster.sentences[0]
    assert section(0.02).sentences[0].startswith("The compressed model is slower")
    assert "as fast as the original, to within 5%" in section(0.01).sentences[0]
    assert "the machine was too noisy" in section(0.005, again=0.011).sentences[0]


def test_the_page_shows_every_size_every_figure_and_what_is_missing():
    estimate = Estimate(value=2.0, low=1.9, high=2.1)
    elsewhere = TargetRow(
        machine="<pi>", processor="Cortex", cores=4, sha256="0", batch=1, tokens=128, threads=1, artifact=estimate,
        original=estimate, speedup=estimate, verdict="faster", doubt="", n=80,
    )  # fmt: skip
    html = page(section(0.005, targets=(elsewhere,)))
    assert html.count("rows of 9 tokens") >= 1 and "1 row of 9 tokens" in html
    assert "On disk, MB" in html and "−60 (counted)" in html
    assert "Energy was not measured: no &lt;RAPL&gt; counters." in html and "&lt;pi&gt;" in html
    assert "<script" not in html


def test_where_nothing_was_measured_there_is_no_section():
    assert hardware_section({}, {}) is None
    assert Energy().metrics == ("energy",) and ColdStart().metrics[0] == "cold_start"
