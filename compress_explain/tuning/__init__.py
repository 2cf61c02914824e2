"""Tuning: what is left learns from the original, without labels."""

from compress_explain.tuning.lessons import Lessons, lessons_for
from compress_explain.tuning.recipe import Recipe
from compress_explain.tuning.tune import Tuned, Tuner

__all__ = ["Lessons", "Recipe", "Tuned", "Tuner", "lessons_for"]
