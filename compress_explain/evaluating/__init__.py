"""Two models beside each other, whoever made them: open, compare, judge, judge again, and compare comparisons."""

from compress_explain.evaluating.carrying_out import evaluate
from compress_explain.evaluating.comparing import Comparison, compare
from compress_explain.evaluating.evaluated import Evaluated
from compress_explain.evaluating.evaluation import Evaluation
from compress_explain.evaluating.judging import Judged, judge_again
from compress_explain.evaluating.opening import Opened, open_model

__all__ = [
    "Comparison",
    "Evaluated",
    "Evaluation",
    "Judged",
    "Opened",
    "compare",
    "evaluate",
    "judge_again",
    "open_model",
]
