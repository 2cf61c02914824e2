"""Who carries out what a rung holds: this process, one after the other, or the workers of a Ray cluster, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from compress_explain.pricing import Engine, Local, RayWorkers

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    engine: Engine, function: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item]
) -> Iterator[tuple[int, Result]]:
    """``function`` of ``shared`` and each of the items, with its place, as they are done.

    On a cluster nothing is shared but ``shared`` and the file system.
    """
    if isinstance(engine, RayWorkers):
        yield from _spread(engine, function, shared, items)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(getattr(engine, "threads", None) or before)
    try:
        for place, item in enumerate(items):
            yield place, function(shared, item)
    finally:
        torch.set_num_threads(before)


@contextmanager
def ready(engine: Engine) -> Iterator[None]:
    """Inside it a cluster that has to be started is started once."""
    if isinstance(engine, RayWorkers):
        with engine.connected():
            yield
    else:
        yield


def together(engine: Engine) -> int:
    """How many are carried out at once."""
    return engine.workers if isinstance(engine, RayWorkers) else 1


def _spread(
    engine: RayWorkers, function: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item]
) -> Iterator[tuple[int, Result]]:
    from ray.util import ActorPool

    with engine.connected() as ray:
        held = ray.put(shared)
        worker = ray.remote(num_cpus=engine.threads, max_restarts=5, max_task_retries=5)(_Hand)
        count = min(engine.workers, len(items))
        pool = ActorPool([worker.remote([held], engine.threads) for _ in range(count)])
        tasks = [(function, place, item) for place, item in enumerate(items)]
        yield from pool.map_unordered(lambda actor, task: actor.do.remote(*task), tasks)


class _Hand:
    """One process that holds what is shared; ``held`` is a reference to it."""

    def __init__(self, held: list[Any], threads: int) -> None:
        import ray

        torch.set_num_threads(threads)
        self.shared = ray.get(held[0])

    def do(self, function: Callable[[Any, Any], Any], place: int, item: Any) -> tuple[int, Any]:
        return place, function(self.shared, item)


HERE = Local()
