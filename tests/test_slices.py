"""Slices hold the rows that their rule says, and expressions can do nothing but compare columns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from compress_explain.comparison.gaps import accuracy_gaps
from compress_explain.comparison.gates import Gate, check_gates, judge
from compress_explain.comparison.harmed import certifiable_margin, harmed_slices
from compress_explain.comparison.predictions import Pairs
from compress_explain.data.features import as_features, known_columns
from compress_explain.data.markers import markers
from compress_explain.data.slices import MAX_VALUES, SliceRule
from compress_explain.data.sources import read_rows
from compress_explain.errors import InputError
from compress_explain.evaluators import Slices
from compress_explain.stats import paired_accuracy_interval

FRAME = pd.DataFrame(
    {
        "words": [3, 12, 25, 40, 7, 18],
        "label": [0, 1, 1, 0, 1, 0],
        "source": ["web", "paper", "web", "mail", "paper", "web"],
        "ratio": [0.5, 0.25, 1.0, 0.75, 0.1, 0.9],
        "checked": [True, False, True, True, False, False],
    }
)
TEXTS = ("Not good", "good", "nothing at all", "a NOT so good one", "fine", "knot")


def members(rule, frame=FRAME, texts=TEXTS, reference=None):
    return rule.members(frame, texts, rule.edges(frame if reference is None else reference))


def where(expression, frame=FRAME):
    return members(SliceRule(name="chosen", where=expression), frame)["chosen"].tolist()


def test_a_column_gives_one_slice_a_value():
    found = members(SliceRule(name="source", column="source"))
    assert list(found) == ["source=mail", "source=paper", "source=web"]
    assert found["source=web"].tolist() == [True, False, True, False, False, True]
    assert np.sum(list(found.values()), axis=0).tolist() == [1] * 6


def test_a_pattern_is_searched_ignoring_case():
    found = members(SliceRule(name="negation", matches=r"\bnot\b"))
    assert found["negation"].tolist() == [True, False, False, True, False, False]


def test_quantiles_are_cut_at_the_values_of_the_reference_split():
    rule = SliceRule(name="length", column="words", quantiles=4)
    reference = pd.DataFrame({"words": range(1, 101)})  # quartiles at 25.75, 50.5 and 75.25
    other = pd.DataFrame({"words": [25, 26, 50, 51, 75, 76, 1000, -5]})
    found = members(rule, other, reference=reference)
    assert list(found) == ["length=q1", "length=q2", "length=q3", "length=q4"]
    assert [int(np.argmax([flags[row] for flags in found.values()])) + 1 for row in range(8)] == [
        1,
        2,
        2,
        3,
        3,
        4,
        4,
        1,
    ]
    sizes = [flags.sum() for flags in members(rule, reference).values()]
    assert sizes == [25, 25, 25, 25]


def test_quantiles_of_a_constant_column_do_not_invent_empty_borders():
    rule = SliceRule(name="length", column="words", quantiles=4)
    found = members(rule, pd.DataFrame({"words": [5] * 8}))
    assert sum(flags.sum() for flags in found.values()) == 8


@pytest.mark.parametrize(
    "expression",
    [
        "words > 10",
        "words > 10 and label == 1",
        "words > 30 or label == 1 and source == 'paper'",
        "(words > 30 or label == 1) and source == 'paper'",
        "not words > 10 or label == 1",
        "not (words > 10 or label == 1)",
        "not label == 1 and words < 20",
        "source in ['web', 'mail']",
        "source not in ('web', 'mail')",
        "words in [3, 40]",
        "words in [3, 'many']",
        "checked in [True]",
        "5 < words <= 25",
        "words * ratio - 2 > 5",
        "words % 2 == 0",
        "words / 2 >= 6",
        "-words < -18",
        "words - 2 * label + 1 != 4",
        "checked",
        "not checked and ratio < 0.5",
        "words > 3 and True",
        "1 < 2 < words",
    ],
)
def test_expressions_mean_what_they_mean_in_python(expression):
    """The expected rows come from Python itself, one row at a time."""
    expected = [bool(eval(expression, {}, row)) for row in FRAME.to_dict("records")]
    assert where(expression) == expected


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "words.__class__",
        "words.values > 3",
        "open('x')",
        "print(words)",
        "words[0]",
        "[w for w in words]",
        "(lambda: words)()",
        "words if label else label",
        "words ** 99",
        "words is None",
        "(label := 3)",
        "f'{words}' == '3'",
        "{1: 2}",
        "words > 3 and __import__('os')",
        "*words",
        "words | label",
    ],
)
def test_nothing_but_comparing_columns_is_possible(expression):
    with pytest.raises(InputError, match="chosen"):
        where(expression)


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("words >", "cannot be read"),
        ("import os", "cannot be read"),
        ("words = 3", "cannot be read"),
        ("", "cannot be read"),
        ("wrds > 3", "did you mean 'words'"),
        ("words", "not true or false"),
        ("words + 1", "not true or false"),
        ("True", "not true or false"),
        ("not words", "not true or false"),
        ("words > 'many'", "cannot be computed"),
        ("source > 3", "cannot be computed"),
        ("source + 1 == 3", "cannot be computed"),
        ("-source == 3", "cannot be computed"),
        ("words in 3", "cannot be computed"),
        ("words in [label, 3]", "cannot be computed"),
        ("1 / 0 > words", "cannot be computed"),
        ("'web' in source", "cannot be computed"),
    ],
)
def test_a_bad_expression_says_what_is_wrong_with_it(expression, problem):
    with pytest.raises(InputError, match=problem):
        where(expression)


@pytest.mark.parametrize("text", ["words > 3\0", "(" * 500 + "words" + ")" * 500])
def test_an_unreadable_expression_is_bad_input_not_a_crash(text):
    with pytest.raises(InputError, match="cannot be read"):
        where(text)


def test_missing_values_are_not_quietly_left_out():
    frame = FRAME.assign(source=["web", None, "web", None, "mail", "web"])
    for rule in (
        SliceRule(name="source", column="source"),
        SliceRule(name="source", where="source == 'web'"),
    ):
        with pytest.raises(InputError, match="2 rows have no value"):
            members(rule, frame)
    with pytest.raises(InputError, match="1 rows have no value"):
        members(SliceRule(name="ratio", column="ratio", quantiles=2), FRAME.assign(ratio=[0.1, np.nan, 1, 1, 1, 1]))


def test_too_many_values_are_not_slices():
    many = pd.DataFrame({"identifier": range(MAX_VALUES + 1)})
    with pytest.raises(InputError, match=f"{MAX_VALUES + 1} different values are too many"):
        members(SliceRule(name="identifier", column="identifier"), many)
    assert len(members(SliceRule(name="identifier", column="identifier"), many[:MAX_VALUES])) == MAX_VALUES


def test_an_unknown_column_is_pointed_out():
    with pytest.raises(InputError, match="did you mean 'source'"):
        members(SliceRule(name="s", column="sorce"))


def test_quantiles_need_numbers():
    with pytest.raises(InputError, match="quantiles need numbers"):
        SliceRule(name="s", column="source", quantiles=4).edges(FRAME)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"column": "source", "where": "words > 3"},
        {"column": "source", "matches": "x"},
        {"where": "words > 3", "quantiles": 4},
        {"column": "words", "quantiles": 1},
        {"column": "words", "quantiles": 21},
        {"matches": "("},
        {"where": "words >"},
        {"name": "all", "column": "source"},
        {"name": "*", "column": "source"},
        {"name": "a/b", "column": "source"},
        {"name": "", "column": "source"},
    ],
)
def test_a_bad_rule_is_refused_when_it_is_made(options):
    with pytest.raises(InputError, match="slices"):
        SliceRule(**{"name": "chosen", **options})


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rules_mean_the_same_for_every_file_type(suffix, tmp_path):
    path = tmp_path / f"rows{suffix}"
    match suffix:
        case ".csv":
            FRAME.to_csv(path, index=False)
        case ".jsonl":
            FRAME.to_json(path, orient="records", lines=True)
        case _:
            FRAME.to_parquet(path)
    frame = read_rows("data.test", str(path))
    assert where("words > 10 and label == 1 or source in ['mail']", frame) == [False, True, True, True, False, False]
    assert where("not checked and ratio < 0.5", frame) == [False, True, False, False, True, False]
    for name in ("source", "label", "checked"):
        rule = SliceRule(name=name, column=name)
        ours, original = members(rule, frame), members(rule)
        assert {key: flags.tolist() for key, flags in ours.items()} == {
            key: flags.tolist() for key, flags in original.items()
        }
    rule = SliceRule(name="words", column="words", quantiles=3)
    assert [flags.tolist() for flags in members(rule, frame).values()] == [
        flags.tolist() for flags in members(rule).values()
    ]


# Sources


def test_the_text_na_is_a_text_and_an_empty_cell_is_none(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\nNA,0\nnull,1\n,1\n")
    frame = read_rows("data.test", str(path))
    assert frame["text"][:2].tolist() == ["NA", "null"]
    assert frame["text"].isna().tolist() == [False, False, True]


def test_a_limit_draws_rows_without_replacement_by_seed(tmp_path):
    path = tmp_path / "rows.csv"
    pd.DataFrame({"number": range(100)}).to_csv(path, index=False)
    first = read_rows("data.test", str(path), limit=20, seed=1)["number"].tolist()
    assert len(set(first)) == 20
    assert first == read_rows("data.test", str(path), limit=20, seed=1)["number"].tolist()
    assert first != read_rows("data.test", str(path), limit=20, seed=2)["number"].tolist()
    assert len(read_rows("data.test", str(path), limit=500)) == 100


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("none.csv", None, "no such file"),
        ("empty.csv", b"", "cannot be read as csv"),
        ("header.csv", b"text,label\n", "no rows"),
        ("binary.parquet", b"not parquet", "cannot be read as parquet"),
        ("half.jsonl", b'{"text": "a"}\n{"tex', "cannot be read as jsonl"),
        ("latin.csv", "text\ncaf\xe9\n".encode("latin-1"), "cannot be read as csv"),
        ("rows.xlsx", b"PK", "neither a known file type"),
    ],
)
def test_a_source_that_cannot_be_read_names_the_key_and_the_reason(name, content, problem, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"data\.test.*{problem}"):
        read_rows("data.test", str(path))


# Groups, harm, and what could be certified


def pairs_of(original_right, compressed_right, **slices):
    """Of two classes, class 0 always the label."""
    n = len(original_right)
    logits = [
        np.where(np.asarray(right)[:, None], [[1.0, 0.0]], [[0.0, 1.0]]) for right in (original_right, compressed_right)
    ]
    return Pairs(
        split="test", digest="d", labels=np.zeros(n, dtype=np.int64), original=logits[0], compressed=logits[1],
        slices={"all": np.ones(n, dtype=bool), **slices},
    )  # fmt: skip


def grouped(n=600, seed=0):
    rng = np.random.default_rng(seed)
    group = rng.choice(["a", "b", "c"], n)
    right = rng.random(n) < 0.9
    after = right & ~((group == "b") & (rng.random(n) < 0.3))
    return pairs_of(right, after, **{f"group={name}": group == name for name in "abc"}), group


def test_the_gap_is_that_of_the_best_group_to_the_worst():
    pairs, group = grouped()
    [gap] = accuracy_gaps(pairs, 0.90)
    for got, right in ((gap.original, pairs.original_right), (gap.compressed, pairs.compressed_right)):
        shares = [right[group == name].mean() for name in "abc"]
        assert got == pytest.approx(max(shares) - min(shares), abs=1e-12)
    assert (gap.slice, gap.metric, gap.direction, gap.n) == ("group=*", "accuracy_gap", "lower", 600)
    assert gap.low < gap.difference < gap.high and gap.low > 0
    assert accuracy_gaps(pairs, 0.90) == [gap]


def test_a_gap_that_nothing_changed_in_is_not_certain():
    pairs, _ = grouped(90)
    [gap] = accuracy_gaps(replace(pairs, compressed=pairs.original), 0.90)
    assert gap.difference == 0 and gap.low < -0.1 and gap.high > 0.1


def test_slices_that_share_rows_are_no_groups():
    flags = np.arange(40) < 20
    assert accuracy_gaps(pairs_of(flags, flags, **{"x=1": flags, "x=2": np.ones(40, dtype=bool)}), 0.90) == []


def test_gates_on_a_gap_name_its_column_and_are_judged():
    pairs, _ = grouped()
    slices = [name for name in pairs.slices if name != "all"]
    gates = [Gate(metric="accuracy_gap", slice=name, max_rise=0.02) for name in ("group=*", "*")]
    check_gates(gates, Slices().metrics, slices)
    verdicts = judge(gates, Slices().evaluate(pairs))
    assert [(verdict.slice, verdict.state) for verdict in verdicts] == [("group=*", "fail")] * 2
    everywhere = judge([Gate(metric="accuracy", slice="*", max_drop=1)], Slices().evaluate(pairs))
    assert [verdict.slice for verdict in everywhere] == slices
    for name in ("group=a", "all", "shape=*"):
        with pytest.raises(InputError, match="gates: slice"):
            check_gates([Gate(metric="accuracy_gap", slice=name, max=0.1)], Slices().metrics, slices)
    with pytest.raises(InputError, match="gates: slice"):
        check_gates([Gate(metric="accuracy", slice="group=*", max_drop=0.1)], Slices().metrics, slices)


def test_harmed_slices_are_those_of_mcnemar_and_holm():
    pairs, group = grouped()
    found = {each.slice: each for each in harmed_slices(pairs)}
    assert [name for name, each in found.items() if each.harmed] == ["group=b"]
    lost = int((pairs.original_right & ~pairs.compressed_right & (group == "b")).sum())
    assert found["group=b"].lost == lost
    assert found["group=b"].p == pytest.approx(binomtest(lost, lost, alternative="greater").pvalue)
    assert found["group=b"].corrected == pytest.approx(3 * found["group=b"].p)
    assert found["group=a"].p == 1


def test_a_gate_at_the_certifiable_margin_passes_as_often_as_it_says():
    rng = np.random.default_rng(0)
    margin = certifiable_margin(44, 44, 872)
    lost, won, _ = rng.multinomial(872, [0.0505, 0.0505, 0.899], 400).T
    passed = np.mean(
        [paired_accuracy_interval(int(a), int(b), 872, 0.90)[0] > -margin for a, b in zip(lost, won, strict=True)]
    )
    assert 0.74 <= passed <= 0.86
    n = 100  # with nothing seen to differ, the gate that passes is the one at the exact bound
    assert paired_accuracy_interval(0, 0, n, 0.90)[0] == pytest.approx(-certifiable_margin(0, 0, n))


# What is known of rows


def test_markers_are_found_in_any_case_and_only_as_words():
    found = markers(["It is NOT good", "knot", "I don't", "was n't", "However, 3!", "¿Qué?", "NASA", "Paris", ""])
    named = {name: np.flatnonzero(flags).tolist() for name, flags in found.items() if flags.dtype == bool}
    assert named["negation"] == [0, 2, 3]
    assert named["contrast"] == [4]
    assert named["digits"] == [4] and named["exclamation"] == [4] and named["question"] == [5]
    assert named["shouting"] == [0, 6]
    assert found["capitals"][6] == 1 and found["capitals"][8] == 0


def test_features_are_flags_numbers_and_words_of_few_kinds():
    frame = FRAME.assign(
        text=[f"t {row}" for row in range(6)], id=range(6), gap=[1.0, None, 1, 2, 3, 4], one="x", kinds=list("aabbcc"),
    )  # fmt: skip
    known = known_columns(frame, besides=("text", "label"))
    assert known == ["source", "ratio", "checked", "kinds"]
    assert {name: values.dtype.kind for name, values in as_features(frame, known).items()} == {
        "source": "U", "ratio": "f", "checked": "b", "kinds": "U",
    }  # fmt: skip
