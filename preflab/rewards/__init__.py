"""Rewards of one's own: Python functions, a model behind an endpoint, weighted sums of several."""

from preflab.data.asked import Asked
from preflab.rewards.columns import Wanted, wanted_columns

__all__ = ["Asked", "Wanted", "wanted_columns"]
