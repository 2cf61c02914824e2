"""Slices: named sets of rows or of predicted tokens, and the rules that declare them."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from pydantic import ValidationError

from compress_explain.documents import Section, explain, read_yaml, together
from compress_explain.errors import InputError, did_you_mean

MAX_VALUES = 50  # a column with more distinct values is not a set of slices
TOKEN_MEASURES = ("position", "frequency")


@dataclass(frozen=True, kw_only=True)
class SliceRule:
    """One declaration; exactly one of ``column``, ``where``, ``matches``, ``token`` and ``clusters`` says what it selects.

    ``column``: one slice a value (``label=negative``), or with ``quantiles`` equal shares of a
    numeric column (``ink=q1``). ``where``: an expression over columns. ``matches``: a regular
    expression searched in ``text``, ignoring case. ``token``, with ``quantiles``, for language
    models only: bands of the tokens to be predicted, by their ``position`` in the row or by their
    ``frequency`` among all of them (``frequency=q1 1-12``), see :mod:`compress_explain.data.tokens`. ``clusters``: that many groups of rows that the original model embeds
    alike (``topics=c1``), see :mod:`compress_explain.data.clusters`.
    """

    name: str
    column: str | None = None
    quantiles: int | None = None
    where: str | None = None
    matches: str | None = None
    token: str | None = None
    clusters: int | None = None

    def __post_init__(self) -> None:
        where = f"slices: {self.name}"
        if sum(part is not None for part in (self.column, self.where, self.matches, self.token, self.clusters)) != 1:
            problem = "exactly one of column, where, matches, token, clusters is needed"
            raise InputError(where, self, problem, "keep one of them")
        if self.clusters is not None and not 2 <= self.clusters <= MAX_VALUES:
            raise InputError(where, self.clusters, f"clusters lie in 2..{MAX_VALUES}", "try clusters: 8")
        if self.token is not None and self.token not in TOKEN_MEASURES:
            raise InputError(where, self.token, "unknown measure of a token", did_you_mean(self.token, TOKEN_MEASURES))
        if self.token is not None and self.quantiles is None:
            raise InputError(where, self.token, "a token's measure needs quantiles", "add quantiles: 3")
        measured = self.column is not None or self.token is not None
        if self.quantiles is not None and not (measured and 2 <= self.quantiles <= 20):
            raise InputError(
                where, self.quantiles, "quantiles go with a column or token and lie in 2..20", "try quantiles: 4"
            )
        if self.name in ("all", "*") or not re.fullmatch(r"[\w .=<>&-]+", self.name):
            raise InputError(where, self.name, "not usable as the name of a slice", "use letters, digits, _ and -")
        if self.where is not None:
            _parse(where, self.where)
        if self.matches is not None:
            _compile(where, self.matches)

    def mentions(self, column: str) -> bool:
        """Whether it looks at a column of that name."""
        return self.column == column or re.search(rf"\b{re.escape(column)}\b", self.where or "") is not None

    def edges(self, frame: pd.DataFrame) -> np.ndarray | None:
        """The quantile edges on the reference split, so that every split is cut at the same values."""
        if self.quantiles is None or self.column is None:
            return None
        values = _column(f"slices: {self.name}", frame, self.column)
        if not pd.api.types.is_numeric_dtype(values):
            raise InputError(f"slices: {self.name}", self.column, "quantiles need numbers", "drop quantiles")
        return np.unique(np.quantile(values, np.linspace(0, 1, self.quantiles + 1)[1:-1]))

    def members(
        self, frame: pd.DataFrame, texts: tuple[str, ...], edges: np.ndarray | None
    ) -> dict[str, Bool[np.ndarray, " rows"]]:
        """Membership of every row of ``frame`` in the slices that this rule declares.

        Raises:
            InputError: an unknown column, a missing value in it, too many values, or an expression
            that is not true or false for each row.
            ValueError: the rule selects tokens, or clusters, which are found in embeddings.
        """
        where = f"slices: {self.name}"
        if self.matches is not None:
            pattern = _compile(where, self.matches)
            return {self.name: np.array([bool(pattern.search(text)) for text in texts])}
        if self.where is not None:
            result = np.asarray(_compute(where, self.where, frame))
            if result.dtype != bool or result.shape != (len(frame),):
                raise InputError(where, self.where, "not true or false for each row", "compare a column with a value")
            return {self.name: result}
        if self.column is None:
            raise ValueError(f"{where}: a rule over tokens or clusters finds no rows in columns")
        values = _column(where, frame, self.column)
        if edges is not None:
            number = np.searchsorted(edges, values, side="left")
            return {f"{self.name}=q{q + 1}": number == q for q in range(len(edges) + 1)}
        kinds = sorted(values.unique(), key=str)
        if len(kinds) > MAX_VALUES:
            raise InputError(
                where, self.column, f"{len(kinds)} different values are too many slices", "use quantiles or where"
            )
        return {f"{self.name}={kind}": (values == kind).to_numpy() for kind in kinds}


class SliceSection(Section):
    """The keys of one rule in a YAML document."""

    column: str | None = None
    quantiles: int | None = None
    where: str | None = None
    matches: str | None = None
    token: str | None = None
    clusters: int | None = None

    def rule(self, name: str) -> SliceRule:
        """Raises InputError when the keys contradict each other."""
        return SliceRule(name=name, **self.model_dump())


class _SliceFile(Section):
    slices: dict[str, SliceSection]


def load_rules(path: Path) -> tuple[SliceRule, ...]:
    """The rules of a YAML file, with the keys that ``slices`` takes in a configuration.

    The file maps names to rules, or holds such a mapping under ``slices`` (so a run's configuration
    will do), or is a list of rules that each have a ``name``.

    Raises:
        InputError: the file cannot be read, holds no rules, or any of them is wrong.
    """
    document = read_yaml("slices", path, f"check the path (from {Path.cwd()})")
    if isinstance(document, dict) and "slices" in document:
        document = document["slices"]
    named = _by_name(path, document) if isinstance(document, list) else document
    if not isinstance(named, dict) or not named:
        raise InputError("slices", str(path), "holds no slice rules", "write e.g. long: {where: words > 20}")
    try:
        sections = _SliceFile.model_validate({"slices": {str(name): keys for name, keys in named.items()}}).slices
    except ValidationError as error:
        raise explain(error, lambda _: SliceSection.model_fields) from None
    return _rules(sections)


def _by_name(path: Path, entries: list[Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for position, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        if name is None or str(name) in named:
            problem = f"rule {position} has no name" if name is None else f"{name} is the name of two rules"
            raise InputError("slices", str(path), problem, "write e.g. - {name: long, where: words > 20}")
        named[str(name)] = {key: value for key, value in entry.items() if key != "name"}
    return named


def _rules(sections: dict[str, SliceSection]) -> tuple[SliceRule, ...]:
    """Every rule, or every fault."""
    rules, faults = [], []
    for name, section in sections.items():
        try:
            rules.append(section.rule(name))
        except InputError as error:
            faults.append(error)
    if faults:
        raise together(faults)
    return tuple(rules)


def _column(where: str, frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame.columns:
        raise InputError(where, name, "no such column", did_you_mean(name, map(str, frame.columns)))
    if frame[name].isna().any():
        rows = int(frame[name].isna().sum())
        raise InputError(
            where,
            name,
            f"{rows} rows have no value in this column",
            "fill them in, for example with the word 'missing'",
        )
    return frame[name]


def _compile(where: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise InputError(where, pattern, f"not a regular expression ({error})", "escape special characters") from None


# Expressions: comparisons, and/or/not, in, + - * /, columns and constants. Parsed, never executed.


def _is_in(values: Any, options: Any) -> Any:
    if not isinstance(options, list) or any(np.ndim(option) for option in options):
        raise TypeError("in needs a list of constants")
    return pd.Series(values).isin(options).to_numpy()  # unlike NumPy's it does not turn 1 into "1" beside a word


_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: _is_in,
    ast.NotIn: lambda values, options: ~_is_in(values, options),
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}


def _parse(where: str, expression: str) -> ast.expr:
    try:
        return ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        raise InputError(
            where, expression, f"cannot be read ({error.msg})", 'write e.g. "words > 20 and label == 0"'
        ) from None


def _compute(where: str, expression: str, frame: pd.DataFrame) -> Any:
    try:
        return _evaluate(_parse(where, expression), frame, where)
    except (TypeError, ArithmeticError) as error:  # a word compared with a number, 1 / 0
        problem = f"cannot be computed ({error})"
        raise InputError(where, expression, problem, "compare numbers with numbers and words with words") from None


def _evaluate(node: ast.expr, frame: pd.DataFrame, where: str) -> Any:
    match node:
        case ast.BoolOp(op=op, values=parts):
            values = [_evaluate(part, frame, where) for part in parts]
            combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
            return reduce(combine, values)
        case ast.UnaryOp(op=ast.Not(), operand=part):
            return ~np.asarray(_evaluate(part, frame, where))
        case ast.UnaryOp(op=ast.USub(), operand=part):
            return -_evaluate(part, frame, where)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](_evaluate(left, frame, where), _evaluate(right, frame, where))
        case ast.Compare(left=left, ops=ops, comparators=rights) if all(type(op) in _COMPARE for op in ops):
            values = [_evaluate(part, frame, where) for part in (left, *rights)]
            pairs = zip(ops, values[:-1], values[1:], strict=True)
            return reduce(np.logical_and, [np.asarray(_COMPARE[type(op)](a, b)) for op, a, b in pairs])
        case ast.Name(id=name):
            return _column(where, frame, name).to_numpy()
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_evaluate(part, frame, where) for part in parts]
        case ast.Constant(value=value):
            return value
        case _:
            raise InputError(
                where,
                ast.unparse(node),
                "not allowed in an expression",
                "use columns, constants, comparisons, and, or, not, in, + - * / %",
            )
