"""The tables of docs/architectures.md, from what the tests run over. ``python -m tests.architectures`` writes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from compress_explain.families import families, refused
from compress_explain.model.anatomy import read_anatomy
from tests.every import ELSEWHERE, SMALL, artifacts
from tests.tiny import (
    CLASSIFIERS,
    EXPORTED,
    EXPORTED_LIKE,
    FAMILIES,
    GENERATORS,
    MODELS,
    NOT_EXPORTED,
    tiny_model,
    tiny_tokens,
)

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
TESTED = "tested"
_NAMES = {"head": "heads", "kv_group": "kv groups"}


def _heads(name: str) -> str:
    kinds = read_anatomy(tiny_model(name), tiny_tokens(name)).kinds
    return f"{TESTED}: {next(_NAMES[kind] for kind in kinds if kind in _NAMES)}"


def _linears(name: str) -> str:
    if name not in CLASSIFIERS:
        return "cut, not priced: no labels"
    shared = any(each.shared for each in read_anatomy(tiny_model(name), tiny_tokens(name)).linears.values())
    return (
        f"{TESTED}; those that read a table of positions are priced exactly, not to first order" if shared else TESTED
    )


def _everywhere(name: str) -> str:
    return TESTED if name in FAMILIES else ""


def _onnx(name: str) -> str:
    if name in EXPORTED_LIKE:
        return f"like {EXPORTED_LIKE[name]}"
    return TESTED if name in EXPORTED else f"no: {NOT_EXPORTED.get(name, 'it has no logits')}"


COLUMNS: dict[str, Callable[[str], str]] = {
    "heads or kv groups": _heads,
    "neurons": _everywhere,
    "linears": _linears,
    "price": lambda name: TESTED if name in CLASSIFIERS else "no: it has no labels to be priced on",
    "compensation": _everywhere,
    "save and load": _everywhere,
    "ONNX": _onnx,
    "generate": lambda name: TESTED if name in GENERATORS else "it generates no text",
}


def table() -> str:
    """One row a family and a form of it that is tested, then the families that are refused."""
    lines = [["family", "tested as", *COLUMNS], ["---"] * (2 + len(COLUMNS))]
    for name, tiny in sorted(MODELS.items(), key=lambda each: (each[1].config.model_type, each[0])):
        form = name.removeprefix(tiny.config.model_type).strip("-") or "usual"
        lines.append([f"`{tiny.config.model_type}`", form, *(cell(name) for cell in COLUMNS.values())])
    lines += [[f"`{name}`", "refused", reason, *[""] * (len(COLUMNS) - 1)] for name, reason in refused().items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def strategies_table() -> str:
    """One row a family and form, one column a strategy: what is tested of what it leaves."""
    names = (*SMALL, *ELSEWHERE)
    lines = [["family", *(f"`{name}`" for name in names)], ["---"] * (1 + len(names))]
    lines += [[f"`{name}`", *(artifacts(strategy, name) for strategy in names)] for name in sorted(MODELS)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def untested() -> set[str]:
    """Families without a tiny model."""
    return set(families()) - {tiny.config.model_type for tiny in MODELS.values()}


def page() -> str:
    """The page with its tables as they should be."""
    text = PAGE.read_text()
    for name, made in (("table", table()), ("strategies", strategies_table())):
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, _, rest = text.partition(begin)
        text = before + begin + made + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
