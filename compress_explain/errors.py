"""What can go wrong, and the exit code each kind of failure ends a process with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """Process exit codes: the contract with a release pipeline."""

    PASSED = 0
    GATE_FAILED = 1
    BAD_INPUT = 2
    INCONCLUSIVE = 3
    INTERNAL = 4
    INTERRUPTED = 130


class InputError(ValueError):
    """Bad input or configuration: one message that names culprit, value and remedy (exit code 2).

    >>> print(InputError("data.text", "sentence", "no such column", "choose one of: text, label"))
    data.text: 'sentence': no such column. Remedy: choose one of: text, label
    """

    def __init__(self, culprit: str, value: object, problem: str, remedy: str) -> None:
        self.culprit, self.value, self.problem, self.remedy = culprit, value, problem, remedy
        super().__init__(f"{culprit}: {value!r}: {problem}. Remedy: {remedy}")


class InputErrors(InputError):  # noqa: N818 (a plural, not another kind)
    """Several faults of one configuration, shown together so that they are mended together."""

    def __init__(self, errors: list[InputError]) -> None:
        self.errors = errors
        ValueError.__init__(self, "\n".join(str(error) for error in errors))


class RunInterrupted(RuntimeError):  # noqa: N818 (not an error of the run)
    """The run was stopped from outside and can be resumed (exit code 130)."""


class LedgerError(RuntimeError):
    """A ledger that does not verify: a record was changed, removed or reordered."""


class ArtifactError(RuntimeError):
    """A file to deploy that does not compute what its model computes, or cannot be made from it."""


class EditError(RuntimeError):
    """An edit that did not do what it says: nothing it claims may be believed."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy that points at the nearest known word and lists the others.

    >>> did_you_mean("acuracy", ["accuracy", "nll"])
    "did you mean 'accuracy'? Known: accuracy, nll"
    """
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(names) or 'none'}"
