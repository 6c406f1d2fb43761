"""What a run could not finish with is refused before the libraries are loaded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from preflab import UserError
from preflab.experiment.opening import check_engine, check_reward
from preflab.method.configured import make_method
from preflab.settings.training import LoraSettings, RolloutConfig
from preflab.worlds import WorldConfig


def test_an_engine_that_would_sample_another_base_is_refused():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install preflab[quantised])")
    ours = make_method("ppo")
    vllm = SimpleNamespace(name="ppo", config=RolloutConfig(sampler="vllm"))
    check_engine(LoraSettings(load_in="4bit"), [make_method("dpo"), ours])
    check_engine(LoraSettings(), [vllm])
    with pytest.raises(UserError, match="vLLM would sample the base as it lies there"):
        check_engine(LoraSettings(load_in="4bit"), [vllm])


def test_a_reward_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("def right(response):\n    return 1.0\n")
    world = {"model": "m", "dataset": "owner/name"}
    check_reward(WorldConfig(**world))
    check_reward(WorldConfig(**world, reward=f"{tmp_path / 'mine.py'}:right,model"))
    for reward, message in (
        (f"{tmp_path / 'other.py'}:right", "does not exist"),
        (f"{tmp_path / 'mine.py'}:rihgt", "has no 'rihgt'"),
        ("endpoint", "needs --reward-endpoint-url and --reward-endpoint-model"),
    ):
        with pytest.raises(UserError, match=message):
            check_reward(WorldConfig(**world, reward=reward))
