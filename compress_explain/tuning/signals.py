"""What the original still says through a compressed model: how much of its token states can be read off, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from compress_explain.compensation.ridge import Moments
from compress_explain.model.watching import watching
from compress_explain.pricing.slopes import wide
from compress_explain.tuning.lessons import Lesson

_RIDGE = 1e-3  # of the mean square of a state: what keeps a few tokens from explaining themselves


@dataclass(frozen=True, kw_only=True)
class Signal:
    """How much of the original's states after a ``layer`` no linear map of the compressed model's gives, in [0, 1].

    ``lost`` is by how much that is more than after the layer before it; ``matched`` is whether tuning
    brings the states after this layer closer to the original's.
    """

    layer: str
    missing: float
    lost: float
    matched: bool


def transfer(
    teacher: PreTrainedModel, student: PreTrainedModel, layers: dict[str, str], lessons: Iterable[Lesson]
) -> dict[str, float]:
    """By layer, the share of the teacher's states that is missing; ``layers`` maps names to modules."""
    moments = {name: Moments(intercept=True) for name in layers}
    with torch.no_grad(), watching(teacher, layers) as wanted, watching(student, layers) as there:
        for lesson in lessons:
            teacher(**lesson.theirs)
            student(**lesson.ours)
            for name in layers:
                ours, theirs = lesson.states(there[name], wanted[name])
                moments[name].add(wide(ours), wide(theirs))
    return {name: _missing(each) for name, each in moments.items()}


def chosen(missing: dict[str, float], count: int) -> list[Signal]:
    """The last layer and the ``count - 1`` others in which most is lost are the ones to match."""
    names = list(missing)
    before = [0.0, *missing.values()]
    lost = {name: missing[name] - earlier for name, earlier in zip(names, before[:-1], strict=True)}
    order = sorted(names[:-1], key=lambda name: -lost[name])
    matched = {*order[: max(0, count - 1)], *names[-1:]} if count else set()
    return [Signal(layer=name, missing=missing[name], lost=lost[name], matched=name in matched) for name in names]


def missed(ours: Float[Tensor, "tokens width"], theirs: Float[Tensor, "tokens width"]) -> Float[Tensor, ""]:
    """The squared distance of token states from the original's, as a share of how these vary."""
    return (ours - theirs).square().sum() / (theirs - theirs.mean(0)).square().sum().clamp(min=1e-12)


def _missing(moments: Moments) -> float:
    """Of how the targets vary around their mean, the share that the best linear map leaves."""
    assert moments.gram is not None and moments.cross is not None, "moments of no tokens"
    start = torch.zeros_like(moments.cross)
    mean = float(moments.cross[-1].square().sum()) / moments.count  # the last input is the constant 1
    varies = max(moments.power - mean, 1e-30)
    return min(1.0, moments.missing(moments.fit(start, _RIDGE)) * moments.power / varies)
