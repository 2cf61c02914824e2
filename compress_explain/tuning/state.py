"""A tuning under way, on disk: it can be stopped at any moment and goes on from the last portion that was finished."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from compress_explain.errors import InputError

Named = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """How tuning stands after ``rows`` rows.

    ``loss`` is the mean over the rows read since the last one, None before the first; ``kl`` (nats) and ``accuracy`` are on
    validation, ``seconds`` since the start.
    """

    rows: int
    steps: int
    loss: float | None
    kl: float
    accuracy: float
    seconds: float


@dataclass
class State:
    """The weights of now, their running averages and the best of these so far, what the optimizer remembers, and every checkup.

    ``digest`` is that of the rows that are learned from.
    """

    digest: str
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    best: Named
    averages: Named = field(init=False)
    checkups: list[Checkup] = field(default_factory=list)

    @property
    def best_checkup(self) -> Checkup:
        return min(self.checkups, key=lambda checkup: checkup.kl)

    @property
    def since_best(self) -> int:
        """Checkups since the best one."""
        return len(self.checkups) - 1 - self.checkups.index(self.best_checkup)

    def __post_init__(self) -> None:
        self.averages = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def average(self, steps: int, share: float) -> None:
        """After so many ``steps``, move the averages towards the weights of now; a ``share`` of them stays (less of the first).

        What single steps do by chance goes out of them (Polyak and Juditsky 1992).
        """
        stays = min(share, steps / (steps + 10))
        weights = [parameter.detach() for parameter in self.parameters.values()]
        torch._foreach_lerp_([self.averages[name] for name in self.parameters], weights, 1 - stays)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Compute with the averages instead of the weights of now."""
        now = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._put(self.averages)
        try:
            yield
        finally:
            self._put(now)

    def note(self, checkup: Checkup) -> None:
        """Add a checkup, and keep the averages if they are the best so far."""
        self.checkups.append(checkup)
        if self.best_checkup is checkup:
            self.best = {name: values.clone() for name, values in self.averages.items()}

    def save(self, path: Path) -> None:
        """Replace the file in one step."""
        tensors = {f"now:{name}": parameter.detach() for name, parameter in self.parameters.items()}
        for key, named in (("best", self.best), ("average", self.averages)):
            tensors |= {f"{key}:{name}": values for name, values in named.items()}
        for name, parameter in self.parameters.items():
            tensors |= {f"{key}:{name}": values for key, values in self.optimizer.state[parameter].items()}
        facts = json.dumps([asdict(checkup) for checkup in self.checkups])
        beside = path.with_suffix(".part")
        save_file(
            {name: values.contiguous() for name, values in tensors.items()},
            beside,
            metadata={"checkups": facts, "digest": self.digest},
        )
        with beside.open("rb") as stream:
            os.fsync(stream.fileno())
        beside.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a file.

        Raises:
            InputError: what it had learned from is not what is there to learn from now.
        """
        with safe_open(path, "pt") as file:
            if file.metadata()["digest"] != self.digest:
                remedy = "put the texts back as they were, or choose another folder with --out"
                raise InputError(
                    "strategies: distill.texts", path.name, "the texts changed since it was stopped", remedy
                )
            self.checkups = [Checkup(**facts) for facts in json.loads(file.metadata()["checkups"])]
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        self.best, self.averages = _under("best", stored), _under("average", stored)
        self._put(_under("now", stored))
        kept = {key: _under(key, stored) for key in ("step", "exp_avg", "exp_avg_sq")}
        for name, parameter in self.parameters.items():
            if name in kept["step"]:
                self.optimizer.state[parameter] = {key: values[name] for key, values in kept.items()}

    @torch.no_grad()
    def _put(self, weights: Named) -> None:
        for name, values in weights.items():
            self.parameters[name].copy_(values)


def _under(prefix: str, stored: Mapping[str, Tensor]) -> Named:
    return {name.removeprefix(f"{prefix}:"): values for name, values in stored.items() if name.startswith(f"{prefix}:")}
