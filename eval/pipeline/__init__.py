"""The order of work, as a recipe or a Python user calls it: a session of settings, then what is done with it.

    from preflab.eval.pipeline import COMPARE, Session, compare

    session = Session({"model": "M", "dataset": "D", "algorithms": ["dpo", "kto"]}, {"dpo": {"beta": 0.2}}, COMPARE)
    result = compare(session)

Nothing here imports torch before settings are checked.
"""

from preflab.eval.pipeline.comparing import COMPARE, compare
from preflab.eval.pipeline.evaluating import EVALUATE, evaluate
from preflab.eval.pipeline.results import Result
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.training import train

__all__ = ["COMPARE", "EVALUATE", "Result", "Session", "compare", "evaluate", "train"]
