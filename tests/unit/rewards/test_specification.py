"""``--reward`` taken apart, and options that nothing would read."""

from __future__ import annotations

import pytest

from preflab.errors import UserError
from preflab.rewards import RewardOptions
from preflab.rewards.specification import parse_reward
from preflab.settings.fields import build


def test_parts_weights_and_names():
    assert parse_reward(None) == ()
    assert parse_reward("a/b.py:f") == (("a/b.py:f", 1.0, "f"),)
    found = parse_reward("x.py:f=0.7, y.py:f=-2 ,endpoint=.5,model,m.n:g")
    assert found == (
        ("x.py:f", 0.7, "x.py:f"),  # two functions of one name go by their places
        ("y.py:f", -2.0, "y.py:f"),
        ("endpoint", 0.5, "endpoint"),
        ("model", 1.0, "model"),
        ("m.n:g", 1.0, "g"),
    )
    assert [part.is_function for part in found] == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file.py", r"'file.py' must be package.module:function, file.py:function, 'endpoint' or 'model'"),
        ("", "'' must be"),
        ("a:f,,b:g", "'' must be"),
        ("a:f=", "the weight of 'a:f' is ''"),
        ("a:f=0", "the weight of 'a:f' is '0'; it must be a number other than 0"),
        ("a:f=nan", "the weight of 'a:f' is 'nan'"),
        ("a:f=0.5,a:f=0.5", "names 'a:f' twice"),
        ("endpoint=1,endpoint=2", "names 'endpoint' twice"),
    ],
)
def test_what_is_no_reward_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse_reward(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reward_timeout": 1.0}, "reward_timeout is for rewards that are functions, and no reward is given"),
        ({"reward": "endpoint", "reward_workers": 2}, "reward_workers is for rewards that are functions"),
        ({"reward": "a:f", "reward_endpoint_model": "m"}, "reward_endpoint_model is for the reward 'endpoint'"),
        ({"reward": "a:f", "reward_on_timeout": "0"}, "give that too"),
        ({"reward": "a:f", "reward_timeout": 1.0, "reward_on_timeout": "never"}, "it must be a number, or error"),
        ({"reward": "a:f", "reward_timeout": 1.0, "reward_on_timeout": "inf"}, "it must be a number, or error"),
        ({"reward": "model=0.3"}, "'model' alone is what policies maximise anyway"),
        ({"reward": "endpoint", "reward_endpoint_url": "ftp://x"}, "reward_endpoint_url must start with http"),
    ],
)
def test_options_that_nothing_reads_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        build(RewardOptions, values, "config")


def test_which_rewards_are_the_truth():
    assert RewardOptions(reward="a:f=2,b:g").reward_is_code
    for other in (None, "endpoint", "a:f,endpoint", "a:f,model"):
        assert not RewardOptions(reward=other).reward_is_code
    assert RewardOptions(reward="a:f", reward_timeout=2.0, reward_on_timeout="-1").late_score == -1.0
    endpoint = RewardOptions(reward="endpoint", reward_endpoint_model="m").endpoint()
    assert (endpoint.model, endpoint.flag("max_tokens")) == ("m", "--reward-endpoint-max-tokens")
