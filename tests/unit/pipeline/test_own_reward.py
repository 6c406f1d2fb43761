"""A reward of one's own, or a reward model, that nobody would read is refused before anything is opened."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from preflab.errors import UserError
from preflab.eval.pipeline.bringing import Brought
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.training import check_read
from preflab.experiment.settings import RewardSettings
from preflab.method.configured import make_method
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
        ("a:f", MODELS, {"maximised": True}, "nobody reads --reward-model: .*model=WEIGHT .*--policy-reward model"),
        ("endpoint", MODELS, {"maximised": True}, "nobody reads --reward-model: .* a part of --reward, or leave it"),
        ("a:f", MODELS, {"maximised": False}, None),  # an evaluation shows both
        (None, MODELS, {"maximised": True}, None),
    ],
)
def test_what_nobody_reads_is_refused(reward, models, use, message):
    world = WorldConfig(dataset="owner/name", model="m", reward=reward)
    session = SimpleNamespace(world=world, rewards=RewardSettings(reward_model=tuple(m.source for m in models)))
    brought = Brought("none", models)
    if message is None:
        brought.check_reward(session, **use)
    else:
        with pytest.raises(UserError, match=message):
            brought.check_reward(session, **use)


@pytest.mark.parametrize(
    ("name", "reward", "models", "judged", "message"),
    [
        ("dpo", "a:f", (), True, None),  # it judges
        ("dpo", "a:f", MODELS, True, "nobody reads --reward-model"),  # the proxy is what policies would maximise
        ("dpo", "a:f,model", MODELS, True, None),
        ("dpo", None, MODELS, True, None),
        ("dpo", None, MODELS, False, "nothing here reads it"),
        ("ppo", None, MODELS, False, None),
        ("ppo", "a:f", (), False, None),
        ("dpo", "a:f", (), False, NOTHING),
        ("reward", None, MODELS, True, "nothing here reads it"),
        ("reward", "a:f", (), True, NOTHING),
    ],
)
def test_what_a_single_method_does_not_read_is_refused(name, reward, models, judged, message):
    world = WorldConfig(dataset="owner/name", model="m", reward=reward)
    session = SimpleNamespace(world=world, rewards=RewardSettings(reward_model=tuple(m.source for m in models)))
    context = nullcontext() if message is None else pytest.raises(UserError, match=message)
    with context:
        check_read(session, Brought("none", models), make_method(name), judged=judged)


def test_a_pool_of_one_is_refused():
    RewardSettings(reward_pool="worst", reward_ensemble=2)
    RewardSettings(reward_pool="worst", reward_model=("a", "b"))
    for one in ({}, {"reward_model": ("a",)}):
        with pytest.raises(ValueError, match="reward_pool worst is of several"):
            RewardSettings(reward_pool="worst", **one)


def test_settings_of_a_start_that_is_not_trained_are_not_passed_over_in_silence(caplog):
    session = Session({}, {"sft": {"learning_rate": 1e-4}})
    world = SimpleNamespace(demonstrations=[1])
    for begin, methods, said in (("none", ["dpo"], 1), ("none", ["sft"], 0), ("train", ["dpo"], 0)):
        caplog.clear()
        Brought(begin, ()).foundation(session, SimpleNamespace(world=world), methods)
        assert caplog.text.count("nothing reads the settings of sft") == said
    caplog.clear()
    Brought("none", ()).foundation(Session(), SimpleNamespace(world=world), ["dpo"])
    assert not caplog.text
