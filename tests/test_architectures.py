"""The table of architectures says what is tested, of every family."""

from __future__ import annotations

from compress_explain.families import families, refused
from tests.architectures import COLUMNS, PAGE, page, table, untested


def test_the_table_is_up_to_date():
    assert PAGE.read_text() == page(), "run python -m tests.architectures"


def test_every_family_is_tested_or_refused():
    assert untested() == set()
    lines = table().splitlines()
    assert all(any(f"`{name}`" in line for line in lines) for name in (*families(), *refused()))
    assert {line.count(" | ") for line in lines} == {1 + len(COLUMNS)}
