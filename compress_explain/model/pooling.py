"""From the states of a text's tokens to its embedding, as a folder of sentence-transformers says or as it is asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.utils import cached_file

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
    """What a sentence-transformer says of itself, in a folder or on the hub; None where there is no such thing.

    Raises:
        InputError: it pools otherwise, or does more afterwards than give a length of 1.
    """
    config, listed = (_file(source, name) for name in (POOLING, MODULES))
    if config is None:
        return None
    given = _read(config)
    modules = [] if listed is None else _read(listed)
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    others = [kind for kind in kinds if kind not in _KNOWN]
    if others:
        problem = f"after the model it has a module {others[0]}, which would be no part of what is compressed"
        raise InputError("model", str(listed), problem, f"give a model of {', '.join(_KNOWN)} alone")
    asked = [name for name, value in given.items() if name.startswith("pooling_mode_") and value]
    mode = given.get("pooling_mode") or next((mode for mode, flag in _FLAGS.items() if asked == [flag]), None)
    if mode not in MODES:
        problem = f"its texts are pooled by {', '.join(asked) or mode}"
        raise InputError("model", str(config), problem, f"give a model that pools by {' or '.join(MODES)}")
    return Pooling(mode=mode, normalize="Normalize" in kinds)


def _file(source: str, name: str) -> Path | None:
    """A file of a model folder or hub id; None where it is not, or cannot be had."""
    found = cached_file(
        source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return None if found is None else Path(found)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        problem = f"not JSON ({str(error).splitlines()[0]})"
        raise InputError("model", str(path), problem, "copy the whole folder again") from None
