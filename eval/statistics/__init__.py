"""Statistics of comparisons: intervals, tests, ranking and length control, on arrays alone.

Values come as tables ``[S, N]``: S training seeds x N prompts, every seed on the same prompts. How well the
intervals and tests keep their word is measured in ``docs/calibration.md``.
"""

from preflab.eval.statistics.agreement import Agreement, agreement, agreement_of_several
from preflab.eval.statistics.intervals import Estimate, interval, unanimous, wilson
from preflab.eval.statistics.length_control import LengthControlled, length_controlled_win_rate
from preflab.eval.statistics.prediction_powered import FEWEST_VERDICTS, Corrected, prediction_powered
from preflab.eval.statistics.ranking import Rank, bradley_terry
from preflab.eval.statistics.significance import Difference, compare, compare_wins, fewest_prompts, holm, verdict

__all__ = [
    "FEWEST_VERDICTS",
    "Agreement",
    "Corrected",
    "Difference",
    "Estimate",
    "LengthControlled",
    "Rank",
    "agreement",
    "agreement_of_several",
    "bradley_terry",
    "compare",
    "compare_wins",
    "fewest_prompts",
    "holm",
    "interval",
    "length_controlled_win_rate",
    "prediction_powered",
    "unanimous",
    "verdict",
    "wilson",
]
