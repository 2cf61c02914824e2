"""From the states of a text's tokens to its embedding, as a folder of sentence-transformers says or as it is asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from compress_explain.errors import InputError

Mode = Literal["mean", "cls"]
MODES: tuple[Mode, ...] = ("mean", "cls")
MODULES, POOLING = "modules.json", "1_Pooling/config.json"
_FLAGS: dict[Mode, str] = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
_KNOWN = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """The mean of a text's tokens, or its first one (``cls``); ``normalize`` gives embeddings a length of 1.

    What is compared and priced is the direction alone, whatever the length.
    """

    mode: Mode = "mean"
    normalize: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError("pooling", self.mode, "unknown choice", f"give one of: {', '.join(MODES)}")

    def of(
        self, states: Float[Tensor, "batch tokens width"], mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch width"]:
        """The embedding of each text, whose tokens are those that ``mask`` does not leave out; differentiable."""
        if self.mode == "cls":
            pooled = states[:, 0]
        else:
            weights = mask[..., None].to(states.dtype)
            pooled = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled


def read_pooling(source: str) -> Pooling | None:
    """What the folder of a sentence-transformer says; None where there is no such thing.

    Raises:
        InputError: it pools otherwise, or does more afterwards than give a length of 1.
    """
    folder = Path(source)
    if not (folder / POOLING).exists():
        return None
    given = _read(folder / POOLING)
    modules = _read(folder / MODULES) if (folder / MODULES).exists() else []
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    others = [kind for kind in kinds if kind not in _KNOWN]
    if others:
        problem = f"after the model it has a module {others[0]}, which would be no part of what is compressed"
        raise InputError("model", str(folder / MODULES), problem, f"give a model of {', '.join(_KNOWN)} alone")
    asked = [name for name, value in given.items() if name.startswith("pooling_mode_") and value]
    mode = given.get("pooling_mode") or next((mode for mode, flag in _FLAGS.items() if asked == [flag]), None)
    if mode not in MODES:
        problem = f"its texts are pooled by {', '.join(asked) or mode}"
        raise InputError("model", str(folder / POOLING), problem, f"give a model that pools by {' or '.join(MODES)}")
    return Pooling(mode=mode, normalize="Normalize" in kinds)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        problem = f"not JSON ({str(error).splitlines()[0]})"
        raise InputError("model", str(path), problem, "copy the whole folder again") from None
