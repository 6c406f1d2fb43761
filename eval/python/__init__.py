"""What Python code and notebooks call: `preflab.compare`, `train`, `evaluate`, `score` and `compare_scores`.

Each does what a recipe of its name does, with settings by the names that they have as options, and gives a result that
prints, and shows itself in a notebook. No torch is imported before settings are checked.
"""

from preflab.eval.python.calls import compare, evaluate, train
from preflab.eval.python.checking import CheckResult, check
from preflab.eval.python.results import ComparisonResult, TrainingResult
from preflab.eval.python.scored import ScoreComparison, ScoreResult
from preflab.eval.python.scoring import compare_scores, score

__all__ = [
    "CheckResult",
    "ComparisonResult",
    "ScoreComparison",
    "ScoreResult",
    "TrainingResult",
    "check",
    "compare",
    "compare_scores",
    "evaluate",
    "score",
    "train",
]
