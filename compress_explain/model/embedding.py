"""The token embedding and everything else with one row a token: what a row saves, how rows are taken out.

A row has the number of the original's token: component ``embedding.token.<id>``. A smaller
vocabulary numbers its tokens afresh, in the order of the original, so whatever names a token by its
number is rewritten with the rows: the special tokens of the configuration, the padding rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.errors import EditError, InputError

TOKENS = "embedding.token"
TOKEN = "token"
_ID = "_token_id"
_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "forced_decoder_ids", "sequence_bias")


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """The rows of the token embedding, one component each, with those of an output head.

    ``parameters`` is what taking out one row saves. A row is looked up, not multiplied: it saves no
    FLOPs of a layer.
    """

    count: int
    parameters: int
    name: str = TOKENS
    kind: str = TOKEN
    flops: int = 0

    @cached_property
    def components(self) -> tuple[str, ...]:
        return tuple(f"{self.name}.{index}" for index in range(self.count))


def read_embedding(model: PreTrainedModel) -> Embedding | None:
    """The token embedding of ``model``; None when it reads no tokens."""
    table = _table(model)
    if not isinstance(table, nn.Embedding):
        return None
    rows = table.num_embeddings
    return Embedding(count=rows, parameters=sum(each.numel() // rows for each in _by_token(model).values()))


def token_tables(model: PreTrainedModel) -> tuple[str, ...]:
    """The names of all parameters with a row a token."""
    if not isinstance(_table(model), nn.Embedding):
        return ()
    rows = _by_token(model)
    return tuple(name for name, parameter in model.named_parameters() if id(parameter) in rows)


def _table(model: PreTrainedModel) -> nn.Module | None:
    try:
        return model.get_input_embeddings()
    except NotImplementedError:  # so says transformers of a model with two towers
        return None


def check_rows(model: PreTrainedModel) -> None:
    """Raises InputError when the model reads no tokens, or something else depends on their numbers."""
    table = _table(model)
    source = model.config.model_type
    if not isinstance(table, nn.Embedding):
        raise InputError(
            "strategies: vocabulary", source, "this model reads no tokens", "leave out the strategy vocabulary"
        )
    dependants = [
        *(name for name, module in model.named_modules() if _second_table(name, module, table)),
        *(name for name, _ in model.named_buffers() if name.endswith("final_logits_bias")),
        *(key for _, key in _lists(model)),
    ]
    if dependants:
        raise InputError(
            "strategies: vocabulary", source, f"{dependants[0]} also depends on the numbers of tokens",
            "leave out the strategy vocabulary for this model",
        )  # fmt: skip


def needed_rows(model: PreTrainedModel) -> set[int]:
    """Rows that the model itself names: special tokens, and all up to the padding where positions count from it."""
    rows = model.get_input_embeddings().num_embeddings  # type: ignore[union-attr]
    needed = {index for config in _configs(model) for _, value in _ids(config) for index in _listed(value)}
    padding = [
        module.padding_idx
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and "position" in name and module.padding_idx is not None
    ]
    needed |= {index for last in padding for index in range(last + 1)}
    return {index for index in needed if 0 <= index < rows}


def cut_rows(model: PreTrainedModel, removed: Bool[Tensor, " rows"]) -> None:
    """Take rows out of ``model`` in place and renumber what names a token.

    Raises:
        EditError: a special token of the configuration would go.
    """
    lost = sorted(index for index in needed_rows(model) if removed[index])
    if lost:
        raise EditError(f"{TOKENS}.{lost[0]} is named by the model's configuration and must stay")
    kept = (~removed).nonzero().flatten()
    new = {old: index for index, old in enumerate(kept.tolist())}
    cut = {key: _rows(parameter, kept) for key, parameter in _by_token(model).items()}
    tables = [module for module in model.modules() if id(getattr(module, "weight", None)) in cut]
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if id(parameter) in cut:
                setattr(module, name, cut[id(parameter)])
        _renumber(module, len(removed), new, whole=module in tables)
    for config in _configs(model):
        for key, value in _ids(config):
            setattr(
                config,
                key,
                [new.get(each, each) for each in value] if isinstance(value, list) else new.get(value, value),
            )
        if getattr(config, "vocab_size", None) == len(removed):
            config.vocab_size = len(kept)


def _rows(parameter: nn.Parameter, kept: Int[Tensor, " kept"]) -> nn.Parameter:
    rows = parameter.detach().index_select(0, kept.to(parameter.device)).contiguous()
    return nn.Parameter(rows, requires_grad=parameter.requires_grad)


def _renumber(module: nn.Module, rows: int, new: dict[int, int], *, whole: bool) -> None:
    """Attributes that repeat how many tokens there are, or which of them is the padding."""
    elsewhere = isinstance(module, nn.Embedding) and not whole  # positions, types: rows of their own
    padding = getattr(module, "padding_idx", None)
    if not elsewhere and isinstance(padding, int):
        module.padding_idx = new.get(padding, padding)  # type: ignore[assignment]
    counts = ("num_embeddings", "out_features", "vocab_size") if whole else ("vocab_size",)
    for name in counts:
        if getattr(module, name, None) == rows:
            setattr(module, name, len(new))


def _by_token(model: PreTrainedModel) -> dict[int, nn.Parameter]:
    """Every parameter with a row a token, once however many modules share it."""
    head = model.get_output_embeddings()
    found = [model.get_input_embeddings().weight]  # type: ignore[union-attr]
    found += [] if head is None else [head.weight, getattr(head, "bias", None)]  # type: ignore[list-item]
    return {id(parameter): parameter for parameter in found if isinstance(parameter, nn.Parameter)}


def _second_table(name: str, module: nn.Module, table: nn.Embedding) -> bool:
    if not isinstance(module, nn.Embedding) or module.weight is table.weight or "position" in name:
        return False
    return module.num_embeddings == table.num_embeddings


def _configs(model: PreTrainedModel) -> list[Any]:
    """Every configuration that the model or one of its parts keeps, once."""
    found = [getattr(module, "config", None) for module in model.modules()]
    found += [model.config.get_text_config(), getattr(model, "generation_config", None)]
    return list({id(config): config for config in found if hasattr(config, "to_dict")}.values())


def _ids(config: Any) -> Iterator[tuple[str, Any]]:
    """What of a configuration is the number of a token, or a list of them."""
    for key in dict.fromkeys([*config.to_dict(), *vars(config)]):
        value = getattr(config, key, None) if key.endswith(_ID) else None
        if _listed(value):
            yield key, value


def _listed(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, int) and not isinstance(each, bool)]


def _lists(model: PreTrainedModel) -> Iterator[tuple[Any, str]]:
    for config in _configs(model):
        for key in _LISTS:
            if getattr(config, key, None):
                yield config, key
