"""Who carries out the shards of a work: this process, or the workers of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from compress_explain.errors import InputError
from compress_explain.pricing.sums import Sums
from compress_explain.pricing.work import Work
from compress_explain.progress import Advance


@runtime_checkable
class Engine(Protocol):
    """Carries out some shards of a work, in any order."""

    def parts(self, work: Work, shards: Sequence[int], advance: Advance) -> Iterator[tuple[int, Sums]]: ...


@dataclass(frozen=True, kw_only=True)
class Local:
    """One shard after the other in this process, on ``threads`` threads (as many as torch has, when None)."""

    threads: int | None = None

    def parts(self, work: Work, shards: Sequence[int], advance: Advance) -> Iterator[tuple[int, Sums]]:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            for shard in shards:
                yield shard, work.run(shard, advance)
        finally:
            torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class RayWorkers:
    """The workers of a Ray cluster: the one at ``address``, or one started here for the time of the work.

    A worker that dies is started again and its shard with it. ``threads`` each; the numbers are
    those of :class:`Local` with as many threads.
    """

    workers: int = 2
    threads: int = 1
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers < 1 or self.threads < 1:
            raise InputError("engine", f"{self.workers} x {self.threads}", "no workers or threads", "give at least 1")

    def parts(self, work: Work, shards: Sequence[int], advance: Advance) -> Iterator[tuple[int, Sums]]:
        with self.connected() as ray:
            yield from self._spread(ray, work, shards, advance)

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """Ray, connected to the cluster; one that was started for it is gone afterwards.

        Raises:
            InputError: Ray is not installed, or there is no cluster at the address.
        """
        ray = _ray()
        mine = not ray.is_initialized()
        if mine:
            self._connect(ray)
        try:
            yield ray
        finally:
            if mine:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        quiet = {"include_dashboard": False} if self.address is None else {}
        count = {"num_cpus": self.workers * self.threads} if self.address is None else {}
        try:
            ray.init(address=self.address or "local", log_to_driver=False, logging_level="ERROR", **quiet, **count)
        except (ConnectionError, ValueError, RuntimeError) as error:
            problem = str(error).splitlines()[0]
            raise InputError("ray address", self.address, problem, "give the address of a running cluster") from None

    def _spread(self, ray: Any, work: Work, shards: Sequence[int], advance: Advance) -> Iterator[tuple[int, Sums]]:
        from ray.util import ActorPool

        shared = ray.put(work)
        worker = ray.remote(num_cpus=self.threads, max_restarts=5, max_task_retries=5)(_Worker)
        count = min(self.workers, len(shards))
        pool = ActorPool([worker.remote([shared], self.threads) for _ in range(count)])
        for shard, sums, rows in pool.map_unordered(lambda actor, shard: actor.run.remote(shard), list(shards)):
            advance(rows)
            yield shard, sums


class _Worker:
    """One process with the model in memory; ``shared`` holds a reference to the work."""

    def __init__(self, shared: list[Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self.work: Work = _ray().get(shared[0])

    def run(self, shard: int) -> tuple[int, Sums, int]:
        done: list[int] = []
        sums = self.work.run(shard, done.append)
        return shard, sums, sum(done)

    def process(self) -> int:
        return os.getpid()


def carry_out(work: Work, engine: Engine, store: Path | None, advance: Advance) -> Iterator[Sums]:
    """The parts of a work in the order of their shards; those in ``store`` are not computed again."""
    kept = _Store(store / work.identity[:16]) if store is not None else None
    there = {shard for shard in range(work.shards) if kept is not None and kept.has(shard)}
    missing = [shard for shard in range(work.shards) if shard not in there]
    computed = engine.parts(work, missing, advance) if missing else iter(())
    waiting: dict[int, Sums] = {}
    for shard in range(work.shards):
        if shard in there:
            assert kept is not None
            yield kept.load(shard)
            continue
        while shard not in waiting:
            number, sums = next(computed)
            if kept is not None:
                kept.save(number, sums)
            waiting[number] = sums
        yield waiting.pop(shard)


@dataclass(frozen=True)
class _Store:
    """Finished shards of one work, a file each."""

    folder: Path

    def has(self, shard: int) -> bool:
        return self._path(shard).exists()

    def load(self, shard: int) -> Sums:
        return Sums.load(self._path(shard))

    def save(self, shard: int, sums: Sums) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        half = self._path(shard).with_suffix(".part")
        sums.save(half)
        half.replace(self._path(shard))

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.npz"


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise InputError(
            "engine", "ray", "the package ray is not installed", "pip install 'compress-explain[ray]', or use local"
        ) from None
    return ray
