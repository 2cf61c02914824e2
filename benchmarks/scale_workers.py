"""Pricing and an audit on the workers of a Ray cluster: faster, the same table, and no harm when one dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
from figures import Bar, Row, beside

from compress_explain.data.examples import Examples
from compress_explain.data.loading import load_examples
from compress_explain.data.slices import SliceRule
from compress_explain.editing.masks import Masks
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import Subject, load_subject
from compress_explain.pricing import Engine, Local, RayWorkers, price, read_menu
from compress_explain.pricing.audit import Sample, audit

AUDITED_ROWS = 400
PRICED_ROWS = 2048  # four shards
_GAIN = Bar(1.6)
Task = Callable[[Engine, Callable[[int], None]], pd.DataFrame]


def workers(models: Path, data: Path, rows: int | None) -> list[Row]:
    """One row a task x engine.

    Raises:
        AssertionError: an engine's table is not that of the local one, or no worker could be stopped.
    """
    subject = load_subject(str(models / "minilm-sst2"), "text-classification")
    dev = _rows(subject, data / "sst2" / "dev.csv", rows or AUDITED_ROWS)
    more = _rows(subject, data / "sst2" / "train_sentences.csv", rows or PRICED_ROWS)
    return [
        *_compared("audit of all heads", _audit(subject, dev), _GAIN),
        *_compared("price of heads and neurons", _price(subject, more), None),
    ]


def _rows(subject: Subject, path: Path, rows: int | None) -> Examples:
    rules = [SliceRule(name="label", column="label")]
    return load_examples(str(path), rules, subject, rows=rows, max_length=64)


def _masks(subject: Subject, examples: Examples) -> Masks:
    return Masks(subject.model, read_anatomy(subject.model, examples.tokens))


def _audit(subject: Subject, examples: Examples) -> Task:
    masks = _masks(subject, examples)
    prices = price(masks, examples, menu=read_menu(masks.anatomy, "heads"))
    return lambda engine, advance: audit(masks, examples, prices, Sample(), engine=engine, advance=advance).frame


def _price(subject: Subject, examples: Examples) -> Task:
    masks = _masks(subject, examples)
    return lambda engine, advance: price(masks, examples, engine=engine, advance=advance).to_frame()


def _compared(what: str, task: Task, bar: Bar | None) -> list[Row]:
    local, reference = _timed(task, Local(threads=1))
    rows = [{"what": what, "engine": "one local thread", "seconds": local, "times as fast": 1.0, **beside(1.0, None)}]
    for count in (1, 2):
        with _cluster(count):
            running, table = _timed(task, RayWorkers(workers=count))
        pd.testing.assert_frame_equal(table, reference, check_exact=True)
        name = f"{count} Ray worker{'s' * (count > 1)}, Ray running"
        rows.append(_row(what, name, running, local, bar if count == 2 else None))
    alone, table = _timed(task, RayWorkers(workers=2))
    pd.testing.assert_frame_equal(table, reference, check_exact=True)
    rows.append(_row(what, "2 Ray workers, start of Ray included", alone, local, bar))
    killer = _Killer()
    hurt, table = _timed(task, RayWorkers(workers=2), killer)
    pd.testing.assert_frame_equal(table, reference, check_exact=True)
    assert killer.killed, "the work was over before a worker could be stopped"
    return [*rows, _row(what, "2 Ray workers, one killed on the way", hurt, local, None)]


def _row(what: str, engine: str, seconds: float, local: float, bar: Bar | None) -> Row:
    gain = local / seconds
    return {"what": what, "engine": engine, "seconds": seconds, "times as fast": gain, **beside(gain, bar)}


def _timed(
    task: Task, engine: Engine, advance: Callable[[int], None] = lambda rows: None
) -> tuple[float, pd.DataFrame]:
    started = time.perf_counter()
    table = task(engine, advance)
    return time.perf_counter() - started, table


@contextmanager
def _cluster(count: int) -> Iterator[None]:
    """Inside it Ray runs already, with room for ``count`` workers."""
    import ray

    ray.init(address="local", num_cpus=count, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


class _Killer:
    """Called when a shard is done: the first time, it kills a worker that is at another one."""

    def __init__(self) -> None:
        self.killed: int | None = None

    def __call__(self, rows: int) -> None:
        if self.killed is None:
            busy = [pid for pid in _descendants(os.getpid()) if _command(pid).startswith("ray::_Worker.run")]
            if busy:
                self.killed = busy[0]
                os.kill(self.killed, signal.SIGKILL)


def _descendants(ancestor: int) -> list[int]:
    """The processes that ``ancestor`` started, and those that these started."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [ancestor]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""
