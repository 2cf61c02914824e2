"""Whatever is changed in a ledger or in a file that it names is noticed, and named."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from compress_explain.errors import LedgerError
from compress_explain.record.ledger import GENESIS, Ledger, file_digest


@pytest.fixture
def ledger(tmp_path):
    """Four records, one of them with a file."""
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "prices.csv"
    table.write_text("component,price\nhead.0,0.5\n")
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("started", "start", {"seed": 7, "note": "ÄÖ → ok"})
    ledger.append("priced", "start", {"rows": 10}, (table,))
    ledger.append("applied", "1-heads-1", {"expected": {"kl": 0.25}})
    ledger.append("applied", "1-heads-2", {"expected": {"kl": 0.5}})
    return ledger


def rewrite(ledger, change):
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(change(lines)))


def test_what_was_written_is_read_back(ledger):
    again = Ledger(ledger.path)
    assert again.records == ledger.records
    assert again.head == ledger.head == ledger.records[-1].hash
    assert [record.seq for record in again] == [0, 1, 2, 3]
    assert again.records[0].previous == GENESIS
    assert again.records[0].body == {"seed": 7, "note": "ÄÖ → ok"}
    assert again.find("applied", "1-heads-2").body == {"expected": {"kl": 0.5}}
    assert again.find("applied", "2-neurons-1") is None
    assert [record.step for record in again.of_kind("applied")] == ["1-heads-1", "1-heads-2"]
    assert again.records[1].files == {"tables/prices.csv": file_digest(ledger.path.parent / "tables/prices.csv")}


def test_an_empty_ledger_has_the_genesis_head(tmp_path):
    assert Ledger(tmp_path / "ledger.jsonl").head == GENESIS


@pytest.mark.parametrize("record", [0, 1, 2, 3])
def test_every_changed_byte_is_noticed(ledger, record):
    """Each byte of a record in turn, flipped in its lowest and in its highest bit."""
    original = ledger.path.read_bytes()
    lines = original.splitlines(keepends=True)
    start = sum(len(line) for line in lines[:record])
    for place in range(start, start + len(lines[record]) - 1):
        for bit in (1, 128):
            changed = bytearray(original)
            changed[place] ^= bit
            ledger.path.write_bytes(changed)
            with pytest.raises(LedgerError, match="ledger.jsonl: (record|tables)"):
                Ledger(ledger.path)


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], 1),
        (lambda lines: [lines[0], lines[1], lines[3]], 2),
        (lambda lines: lines[1:], 0),
        (lambda lines: [*lines, lines[3]], 4),
        (lambda lines: [lines[0], b"\n", *lines[1:]], 1),
        (lambda lines: [lines[0], b"[]\n", *lines[1:]], 1),
        (lambda lines: [*lines[:2], lines[2].replace(b"0.25", b"NaN"), lines[3]], 2),
    ],
    ids=["swapped", "deleted", "beheaded", "repeated", "blank line", "not a record", "not a number"],
)
def test_moved_records_are_noticed_and_named(ledger, change, culprit):
    rewrite(ledger, change)
    with pytest.raises(LedgerError, match=f"record {culprit} "):
        Ledger(ledger.path)


def test_a_record_rehashed_by_a_forger_breaks_the_one_after_it(ledger):
    def canonical(facts):
        return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    facts = json.loads(ledger.path.read_text().splitlines()[1])
    facts["body"]["rows"] = 11
    del facts["hash"]
    facts["hash"] = hashlib.sha256(canonical(facts)).hexdigest()
    forged = canonical(facts) + b"\n"
    rewrite(ledger, lambda lines: [lines[0], forged, *lines[2:]])
    with pytest.raises(LedgerError, match="record 2 was changed, moved or removed"):
        Ledger(ledger.path)


def test_a_changed_or_missing_table_is_noticed_and_named(ledger):
    table = ledger.path.parent / "tables/prices.csv"
    table.write_text(table.read_text().replace("0.5", "0.4"))
    with pytest.raises(LedgerError, match=r"tables/prices\.csv differs from what record 1 says"):
        Ledger(ledger.path)
    table.unlink()
    with pytest.raises(LedgerError, match=r"record 1 names tables/prices\.csv, which is missing"):
        Ledger(ledger.path)


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_line_cut_off_by_a_crash_is_dropped_and_the_record_can_be_written_again(ledger, kept):
    whole = ledger.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[:3]) + lines[3][:kept])
    again = Ledger(ledger.path)
    assert [record.step for record in again] == ["start", "start", "1-heads-1"]
    assert ledger.path.read_bytes() == b"".join(lines[:3])
    again.append("applied", "1-heads-2", {"expected": {"kl": 0.75}})
    assert len(Ledger(ledger.path).records) == 4


def test_a_step_is_recorded_once(ledger):
    before = ledger.path.read_bytes()
    with pytest.raises(LedgerError, match="'applied' record for step '1-heads-1' is already there"):
        ledger.append("applied", "1-heads-1", {})
    assert ledger.path.read_bytes() == before


def test_what_is_not_a_number_is_never_recorded(ledger):
    before = ledger.path.read_bytes()
    with pytest.raises(ValueError):
        ledger.append("observed", "1-heads-1", {"kl": float("nan")})
    assert ledger.path.read_bytes() == before
    assert len(ledger.records) == 4


def test_a_record_is_on_disk_before_append_returns(ledger, monkeypatch):
    synced = []
    real = os.fsync

    def note(descriptor):
        real(descriptor)
        synced.append(ledger.path.read_bytes())

    monkeypatch.setattr(os, "fsync", note)
    ledger.append("judged", "validation", {"state": "pass"})
    assert synced, "append returned without a sync"
    last = json.loads(synced[-1].splitlines()[-1])
    assert (last["kind"], last["step"], last["body"]) == ("judged", "validation", {"state": "pass"})


def test_a_failed_sync_is_not_taken_for_a_record(ledger, monkeypatch):
    def fail(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        ledger.append("judged", "validation", {})
    assert ledger.find("judged", "validation") is None
