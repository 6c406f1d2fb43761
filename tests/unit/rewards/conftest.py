"""Rewards that a person brings along, in a file of theirs."""

from __future__ import annotations

import textwrap

import pytest

from preflab.data.asked import Asked
from preflab.rewards import RewardOptions, open_reward


@pytest.fixture
def place(tmp_path):
    """Write a file, and name a function of it."""

    def make(source, name="f"):
        path = tmp_path / "mine.py"
        path.write_text(textwrap.dedent(source))
        return f"{path}:{name}"

    return make


@pytest.fixture
def opened(place):
    """Open a reward that is a function, with what the data say of prompts."""

    def make(source, asked=None, **options):
        reward = open_reward(RewardOptions(reward=place(source), **options))
        assert reward is not None
        asked = {
            prompt: Asked(*found) if isinstance(found, tuple) else Asked(None, found)
            for prompt, found in (asked or {}).items()
        }
        return reward.reading(asked, list(asked))

    return make
