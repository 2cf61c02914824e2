"""A pipeline tried by mask on some rows: all its edits at once, with or without refitting what is left.

Nothing is put back, nothing is written, and what is tuned in a run is left as it is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from compress_explain.choosing.activations import Ranges, find_activations
from compress_explain.comparison.decided import Decided, decide_all
from compress_explain.comparison.predictions import logits_of
from compress_explain.compensation import Compensator
from compress_explain.data.examples import Examples
from compress_explain.editing.edits import Edit
from compress_explain.editing.masks import Masks
from compress_explain.inquiry import tokens_of
from compress_explain.model.anatomy import read_anatomy
from compress_explain.running.job import Job


@dataclass(frozen=True, kw_only=True)
class Try:
    """What is to be tried: these edits, on ``rows`` rows of validation (None: all), refitted on so many (None: not)."""

    edits: Sequence[Edit] = field(repr=False)
    ranges: Ranges | None
    rows: int | None
    refit_rows: int | None
    choices: np.ndarray | None = field(default=None, repr=False)  # of a vocabulary, those of the original

    def validation(self, job: Job) -> Examples:
        """The rows that it is tried on."""
        whole = job.splits.validation
        return whole if self.rows is None else whole.draw(self.rows, job.seed)


def tried(job: Job, attempt: Try) -> Decided:
    """What the model decides under the edits of ``attempt``; it is left as it was."""
    calibration, edits = job.splits.calibration, attempt.edits
    anatomy = read_anatomy(job.subject.model, tokens_of(job.subject, calibration))
    with Masks(job.subject.model, anatomy) as masks:
        masks.remove(edit.component for edit in edits if edit.action == "remove")
        if attempt.refit_rows is not None and job.compensation is not None and masks.components:
            some = calibration.draw(attempt.refit_rows, job.seed)
            Compensator(masks, some, job.compensation, job.batch_size).refit()
        reader = job.lexicon(masks).reader()
        if attempt.ranges is not None:
            some = reader(calibration.draw(job.priced_rows, job.seed))
            masks.activations = find_activations(masks, some, attempt.ranges, batch_size=job.batch_size)
        masks.quantize({edit.component: edit.into for edit in edits if edit.action == "quantize"})
        read = reader(attempt.validation(job))
        return decide_all(logits_of(job.subject.model), read, job.batch_size, choices=attempt.choices)
