"""The decision-quality signal: does a model hold, beyond what its answer shows, which of its decisions will be wrong?

A probe learns which decisions are wrong, or among the many classes of a vocabulary, where most are, on which the loss is larger than
confidence and the length of the state would have it; what it says of others is correlated with their loss, given what is known from outside. That statistic depends on what is held to be known. Given confidence
and the length alone a model whose labels are drawn from its own softmax, in which there is nothing hidden to find, scores as a
healthy one does: its loss follows the entropy of its answer. So entropy is given too, and in the strictest form what small
predictors make of the loss: one of the answer's confidence and entropy, by whatever curve, and one of the last layer's state.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from compress_explain.signals.probing.partial import partial_spearman, resampled_partial_spearman
from compress_explain.signals.probing.parts import Part
from compress_explain.signals.probing.probes import fit_probe
from compress_explain.signals.probing.resampling import Draws, Readings
from compress_explain.signals.stream.states import States

GIVEN_CONFIDENCE, GIVEN_ENTROPY, GIVEN_OUTPUT, OF_ERRORS = "rho", "rho_entropy", "rho_output", "rho_error"
FIGURES = (GIVEN_CONFIDENCE, GIVEN_ENTROPY, GIVEN_OUTPUT, OF_ERRORS)
FEW = 10  # decisions to learn from that are wrong, or that are right, below which nothing is learned
_HIDDEN, _STEPS, _DECAY = 64, 40, 1.0  # of the network
_TREES, _LEAVES, _RATE = 100, 8, 0.05  # of the curve


@dataclass(frozen=True, kw_only=True)
class Quality:
    """By figure the partial rank correlations at every depth, and the probe's ``scores`` of what is reported, part by part."""

    readings: dict[str, Readings] = field(repr=False)
    scores: tuple[Float[np.ndarray, "depths n"], ...] = field(repr=False)


def quality_of(
    states: States,
    decided: States,
    draws: Draws,
    strength: float,
    *,
    figures: Sequence[str] = FIGURES,
    seed: int = 0,
    shuffled: int | None = None,
) -> Quality:
    """What ``states`` say of the loss of what was ``decided``: a model's own, or of a control in the place of its states.

    With a seed to be ``shuffled`` by, probes learn from shuffled targets.
    """
    told = [
        _of_part(states, decided, part, counts, strength, figures, seed, shuffled)
        for part, counts in zip(draws.parts, draws.counts, strict=True)
    ]
    readings = {
        figure: Readings(
            values=np.array([[depth[figure][0] for depth in part] for part, _ in told]),
            draws=np.array([[depth[figure][2] for depth in part] for part, _ in told]),
            choosing=np.array([[depth[figure][1] for depth in part] for part, _ in told]),
            weights=draws.weights,
        )
        for figure in figures
    }
    return Quality(readings=readings, scores=tuple(scores for _, scores in told))


_Told = dict[str, tuple[float, float, np.ndarray]]


def _of_part(
    states: States,
    decided: States,
    part: Part,
    counts: np.ndarray,
    strength: float,
    figures: Sequence[str],
    seed: int,
    shuffled: int | None,
) -> tuple[list[_Told], Float[np.ndarray, "depths n"]]:
    wanted = {GIVEN_OUTPUT, OF_ERRORS} & set(figures)
    expected = _expected(decided, decided.loss, part.fit, seed) if wanted else []
    mistakes = decided.wrong.astype(float)
    expected_wrong = _expected(decided, mistakes, part.fit, seed) if OF_ERRORS in figures else []
    told, scores = [], []
    for depth in states.depths:
        norms = states.norms(depth)
        target = (
            surprising(decided.loss, [decided.confidence, norms], part.fit) if decided.many else decided.wrong[part.fit]
        )
        if shuffled is not None:
            target = np.random.default_rng(shuffled).permutation(target)
        if not FEW <= target.sum() <= len(target) - FEW:
            told.append({figure: (math.nan, math.nan, np.full(len(counts), math.nan)) for figure in figures})
            scores.append(np.zeros(len(part.report)))
            continue
        score = fit_probe(states.at(depth)[part.fit], target.astype(np.int64), strength).scores(states.at(depth))[:, 0]
        scores.append(score[part.report])
        given = {
            GIVEN_CONFIDENCE: [decided.confidence, norms],
            GIVEN_ENTROPY: [decided.confidence, norms, decided.entropy],
            GIVEN_OUTPUT: [decided.confidence, norms, decided.entropy, *expected],
        }
        columns = {name: [score, decided.loss, *known] for name, known in given.items()}
        columns[OF_ERRORS] = [score, mistakes, *given[GIVEN_ENTROPY], *expected_wrong]
        told.append({figure: _correlated(columns[figure], part, counts) for figure in figures})
    return told, np.array(scores)


def _correlated(columns: Sequence[np.ndarray], part: Part, counts: np.ndarray) -> tuple[float, float, np.ndarray]:
    value, choosing = (
        partial_spearman(columns[0][rows], columns[1][rows], [each[rows] for each in columns[2:]])
        if len(rows) > 2
        else math.nan
        for rows in (part.report, part.choose)
    )
    return value, choosing, resampled_partial_spearman([each[part.report] for each in columns], counts)


def surprising(loss: Float[np.ndarray, " n"], known: Sequence[Float[np.ndarray, " n"]], fit: np.ndarray) -> np.ndarray:
    """On which of the decisions to ``fit`` the loss is larger than a least-squares fit on what is known says."""
    table = np.column_stack([*(each[fit] for each in known), np.ones(len(fit))])
    left = loss[fit] - table @ np.linalg.lstsq(table, loss[fit], rcond=None)[0]
    above: np.ndarray = left > 0
    return above


def _expected(decided: States, outcome: np.ndarray, fit: np.ndarray, seed: int) -> list[Float[np.ndarray, " n"]]:
    """What ``outcome`` is to be expected of each decision: by the last layer's state, and by the answer's confidence and entropy.

    A network with one hidden layer of 64 learns the one, boosted trees of those two figures the other, of which also how far it
    lies from its median is given: a partial rank correlation takes away straight lines, and two of them bend. Both learn the rank
    of the outcome, on the decisions to ``fit``.
    """
    ranks = rankdata(outcome[fit]) / len(fit) - 0.5
    last = decided.at(decided.depths[-1])
    last = (last - last[fit].mean(0)) / np.maximum(last[fit].std(0), 1e-6)
    shown = np.column_stack([decided.confidence, decided.entropy])
    network = MLPRegressor(hidden_layer_sizes=(_HIDDEN,), alpha=_DECAY, max_iter=_STEPS, random_state=seed)
    curve = HistGradientBoostingRegressor(
        max_iter=_TREES, learning_rate=_RATE, max_leaf_nodes=_LEAVES, early_stopping=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(last[fit], ranks)
    by_answer: np.ndarray = curve.fit(shown[fit], ranks).predict(shown)
    return [network.predict(last), by_answer, np.abs(by_answer - np.median(by_answer))]
