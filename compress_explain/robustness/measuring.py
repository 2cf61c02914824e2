"""Both models asked again about the same rows, disturbed and attacked: a table of what they answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from compress_explain.comparison.contest import Contest, Side
from compress_explain.comparison.decided import decide_all
from compress_explain.data.examples import Batch, Examples
from compress_explain.deployment.forms import TORCH
from compress_explain.errors import EditError
from compress_explain.pricing.slopes import frozen
from compress_explain.robustness.attacks import fgsm, pgd
from compress_explain.robustness.images import IMAGE_CHANGES
from compress_explain.robustness.spaces import PixelSpace, TokenSpace, deviation, special_tokens
from compress_explain.robustness.texts import TEXT_CHANGES
from compress_explain.vocabulary import read_by

CLEAN = "clean"
ATTACKS = ("fgsm", "pgd")
TEXTS, IMAGES = "text-classification", "image-classification"
TABLE = {
    "condition": "str", "strength": "float64", "row": "int64", "label": "int64",
    "original_right": "bool", "original_probability": "float64", "original_guess": "int64",
    "compressed_right": "bool", "compressed_probability": "float64", "compressed_guess": "int64",
    "deployed": "bool", "seed": "int64", "note": "str",
}  # fmt: skip
Logits = Float[np.ndarray, "n classes"]


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What is tried: ``changes`` as (name, strength), and ``attacks`` at every radius in ``epsilons``, on ``rows`` drawn rows."""

    changes: tuple[tuple[str, float], ...]
    attacks: tuple[str, ...]
    epsilons: tuple[float, ...]
    steps: int
    rows: int
    attacked_rows: int
    seed: int


def measure_robustness(contest: Contest, trials: Trials, advance: Callable[[int], None]) -> pd.DataFrame:
    """One line a row and condition, the columns of :data:`TABLE`; no line for a task without labels of whole rows.

    Natural changes are answered by what is deployed. An attack follows the gradient of each model in torch, and so each model meets
    inputs that were made against itself; see :class:`Attacked`. A condition that could not be made has one line of row -1, whose
    ``note`` says why.
    """
    if contest.original.examples.task not in (TEXTS, IMAGES):
        return empty()
    meeting = _Meeting(contest=contest, trials=trials)
    conditions = [*meeting.natural(), *meeting.attacks()]
    done, whole = 0, len(contest.pairs)
    lines = []
    for number, make in enumerate(conditions, start=1):
        lines.append(make())
        advance(whole * number // len(conditions) - done)
        done = whole * number // len(conditions)
    return pd.concat(lines, ignore_index=True).astype(TABLE)


def empty() -> pd.DataFrame:
    """The table without a line."""
    return pd.DataFrame({name: [] for name in TABLE}).astype(TABLE)


@dataclass(frozen=True, kw_only=True)
class _Meeting:
    contest: Contest
    trials: Trials

    @cached_property
    def rows(self) -> Int[np.ndarray, " rows"]:
        """The rows that are drawn, by number in the split."""
        return drawn(len(self.contest.original.examples), self.trials.rows, self.trials.seed)

    @cached_property
    def sides(self) -> list[Side]:
        return [replace(side, examples=side.examples.only(self.rows)) for side in self.contest.sides]

    def natural(self) -> list[Callable[[], pd.DataFrame]]:
        """The rows as they are, and under every change."""
        makers: list[Callable[[], pd.DataFrame]] = [self._clean]
        for name, strength in self.trials.changes:
            if name in (TEXT_CHANGES if self._reads_text else IMAGE_CHANGES):
                makers.append(lambda name=name, strength=strength: self._changed(name, strength))  # type: ignore[misc]
        return makers

    def attacks(self) -> list[Callable[[], pd.DataFrame]]:
        return [lambda name=name: self._attacked(name) for name in self.trials.attacks]  # type: ignore[misc]

    @property
    def _reads_text(self) -> bool:
        return self.contest.original.examples.task == TEXTS

    def _clean(self) -> pd.DataFrame:
        answers = [self._answer(side, side.examples) for side in self.sides]
        return self._lines(CLEAN, 0.0, self.rows, answers)

    def _changed(self, name: str, strength: float) -> pd.DataFrame:
        if self._reads_text:
            texts = TEXT_CHANGES[name].of(self.sides[0].examples.texts, self.rows.tolist(), strength, self.trials.seed)
            read = [read_by(replace(side.examples, texts=tuple(texts)), side.processor) for side in self.sides]
        else:
            read = [self._changed_images(side, name, strength) for side in self.sides]
        answers = [self._answer(side, examples) for side, examples in zip(self.sides, read, strict=True)]
        return self._lines(name, strength, self.rows, answers)

    def _changed_images(self, side: Side, name: str, strength: float) -> Examples:
        """Of one side; the draws are the same for both."""
        pixels, seed = side.examples.inputs["pixel_values"], self.trials.seed
        made = IMAGE_CHANGES[name].of(pixels, self.rows.tolist(), strength, deviation(side.examples), seed)
        return replace(side.examples, inputs={**side.examples.inputs, "pixel_values": made})

    def _answer(self, side: Side, examples: Examples) -> Logits:
        return decide_all(side.forward, examples, self.contest.batch_size).logits

    def _attacked(self, name: str) -> pd.DataFrame:
        """At radius 0 and every other; one line with the reason where a model cannot be attacked."""
        attacked = [Attacked(side=side, trials=self.trials, batch_size=self.contest.batch_size) for side in self.sides]
        places = drawn(len(self.rows), self.trials.attacked_rows, self.trials.seed)
        try:
            answers = [each.answers(name, places) for each in attacked]
        except EditError as error:
            return _note(name, str(error), self.trials.seed)
        radii = (0.0, *self.trials.epsilons)
        deployed = all(each.deployed for each in attacked)
        lines = [
            self._lines(name, radius, self.rows[places], list(both), places=places, deployed=deployed)
            for radius, both in zip(radii, zip(*answers, strict=True), strict=True)
        ]
        return pd.concat(lines, ignore_index=True)

    def _lines(
        self, name: str, strength: float, rows: Int[np.ndarray, " rows"], answers: list[Logits],
        places: Int[np.ndarray, " rows"] | None = None, *, deployed: bool = True,
    ) -> pd.DataFrame:  # fmt: skip
        labels = self.sides[0].examples.labels
        labels = labels if places is None else labels[places]
        columns: dict[str, object] = {"condition": name, "strength": strength, "row": rows, "label": labels}
        for side, logits in zip(("original", "compressed"), answers, strict=True):
            guesses = logits.argmax(1)
            columns |= {
                f"{side}_right": guesses == labels,
                f"{side}_probability": _probability(logits, labels),
                f"{side}_guess": guesses,
            }
        return pd.DataFrame({**columns, "deployed": deployed, "seed": self.trials.seed, "note": ""})


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """One model under attack in torch.

    Who answers: to shifted embeddings the model in torch, since a file of another runtime takes tokens and nothing
    between them; to shifted pixels, which are inputs like others, what is deployed.
    """

    side: Side = field(repr=False)
    trials: Trials
    batch_size: int

    @property
    def deployed(self) -> bool:
        """Whether what answers is what is deployed."""
        return self._of_pixels or self.side.form in (TORCH.name, TORCH.runtime)

    @property
    def _of_pixels(self) -> bool:
        return "pixel_values" in self.side.examples.inputs

    @cached_property
    def space(self) -> TokenSpace | PixelSpace:
        """
        Raises:
            EditError: there is no model in torch to follow the gradient of.
        """
        if self.side.module is None:
            raise EditError(
                f"of the {self.side.name} only a file ({self.side.form}) is at hand, and that gives no gradient"
            )
        if self._of_pixels:
            return PixelSpace.over(self.side.module, self.side.examples, self.side.order)
        special = special_tokens(self.side.processor)
        return TokenSpace.over(self.side.module, self.side.examples, special, self.side.order)

    def answers(self, attack: str, places: Int[np.ndarray, " rows"]) -> list[Logits]:
        """Logits of those rows, in their order: as they are, then at every radius."""
        if self.side.module is None:
            _ = self.space  # says why not
        found: list[Logits | None] = [None] * (1 + len(self.trials.epsilons))
        order = {int(place): number for number, place in enumerate(places)}
        assert self.side.module is not None
        with frozen(self.side.module):
            for batch in self.side.examples.batches(self.batch_size, places):
                numbers = [order[int(row)] for row in batch.rows]
                for index, logits in enumerate(self._of(attack, batch)):
                    kept = found[index]
                    if kept is None:
                        kept = found[index] = np.empty((len(places), logits.shape[1]), dtype=np.float32)
                    kept[numbers] = logits
        return [each for each in found if each is not None]

    def _of(self, attack: str, batch: Batch) -> Iterator[Logits]:
        labels = torch.from_numpy(self.side.examples.labels[batch.rows])
        yield self._answer(batch, self.space.still(batch))
        if attack == "fgsm":
            shifts = fgsm(self.space, batch, labels, self.trials.epsilons)
        else:
            shifts = [pgd(self.space, batch, labels, radius, self.trials.steps) for radius in self.trials.epsilons]
        for shift in shifts:
            yield self._answer(batch, shift)

    def _answer(self, batch: Batch, shift: torch.Tensor) -> Logits:
        if isinstance(self.space, PixelSpace):
            return self.side.forward({**batch.inputs, "pixel_values": self.space.moved(batch, shift)})
        with torch.no_grad():
            logits: np.ndarray = self.space.logits(batch, shift).numpy()
        return logits


def drawn(count: int, most: int, seed: int) -> Int[np.ndarray, " rows"]:
    """At most so many numbers below ``count``, in order."""
    if most >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _probability(logits: Logits, labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    wide = logits.astype(np.float64)
    shifted = np.exp(wide - wide.max(1, keepdims=True))
    return shifted[np.arange(len(labels)), labels] / shifted.sum(1)


def _note(condition: str, why: str, seed: int) -> pd.DataFrame:
    line: dict[str, object] = {
        name: {"str": "", "float64": float("nan"), "int64": -1, "bool": False}[kind] for name, kind in TABLE.items()
    }
    return pd.DataFrame([line | {"condition": condition, "strength": 0.0, "seed": seed, "note": why}])
