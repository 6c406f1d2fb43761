"""A reward of one's own, or a reward model, that nobody would read is refused before anything is opened."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from eval.pipeline.bringing import Brought
from preflab.errors import UserError
from preflab.experiment.settings import RewardSettings
from preflab.worlds import WorldConfig

MODELS = (SimpleNamespace(source="m"),)
NOTHING = "nobody reads --reward: nothing here maximises it"


@pytest.mark.parametrize(
    ("reward", "models", "use", "message"),
    [
        ("a:f", (), {"maximised": True}, None),
        ("a:f", (), {"maximised": False}, None),  # it judges
        ("a:f", (), {"maximised": False, "judged": False}, NOTHING),
        ("endpoint", (), {"maximised": True}, None),
        ("endpoint", (), {"maximised": False}, NOTHING),
        ("a:f,model=0.5", (), {"maximised": False}, NOTHING),
        ("a:f,model=0.5", MODELS, {"maximised": True}, None),
        ("a:f", MODELS, {"maximised": True}, "nobody reads --reward-model: .*model=WEIGHT"),
        ("a:f", MODELS, {"maximised": False}, None),  # an evaluation shows both
        (None, MODELS, {"maximised": True}, None),
    ],
)
def test_what_nobody_reads_is_refused(reward, models, use, message):
    world = WorldConfig(dataset="owner/name", model="m", reward=reward)
    session = SimpleNamespace(world=world, rewards=RewardSettings())
    brought = Brought("none", models)
    if message is None:
        brought.check_reward(session, **use)
    else:
        with pytest.raises(UserError, match=message):
            brought.check_reward(session, **use)
