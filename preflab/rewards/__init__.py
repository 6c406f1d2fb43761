"""Rewards of one's own: Python functions, a model behind an endpoint, weighted sums of several.

No torch here, and nothing is called before a world is opened: a mistake in ``--reward`` is answered at once.
"""

from preflab.rewards.columns import Wanted, wanted_columns
from preflab.rewards.questions import Question
from preflab.rewards.settings import RewardOptions
from preflab.rewards.sums import OwnReward, open_reward

__all__ = ["OwnReward", "Question", "RewardOptions", "Wanted", "open_reward", "wanted_columns"]
