"""What a run could not finish with is refused before the libraries are loaded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from preflab import UserError
from preflab.experiment.opening import check_engine
from preflab.method.configured import make_method
from preflab.settings.training import LoraSettings, RolloutConfig


def test_an_engine_that_would_sample_another_base_is_refused():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install preflab[quantised])")
    ours = make_method("ppo")
    vllm = SimpleNamespace(name="ppo", config=RolloutConfig(sampler="vllm"))
    check_engine(LoraSettings(load_in="4bit"), [make_method("dpo"), ours])
    check_engine(LoraSettings(), [vllm])
    with pytest.raises(UserError, match="vLLM would sample the base as it lies there"):
        check_engine(LoraSettings(load_in="4bit"), [vllm])
