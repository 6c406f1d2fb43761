"""SmolLM2-135M-Instruct in 4 bits, for DPO, PPO and RLOO."""

from __future__ import annotations

import json
import math

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from preflab.scoring.quantised import quantisation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_it_trains_policies_in_four_bits_and_they_open_in_peft(compare, smollm2):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install preflab[quantised])")
    found, folder = compare("--load-in", "4bit", "--gold-fraction", 0)
    assert list(found.methods) == ["start", "dpo", "ppo", "rloo"]
    for method in ("dpo", "ppo", "rloo"):
        (stage,) = (folder / "stages").glob(f"{method}-seed0-*")
        line = json.loads((stage / "metrics.jsonl").read_text().splitlines()[0])
        assert math.isfinite(line["loss"])
        model = AutoModelForCausalLM.from_pretrained(
            smollm2, quantization_config=quantisation("4bit", torch.float32), dtype=torch.float32
        )
        assert PeftModel.from_pretrained(model, stage / "policy").active_adapters == ["default"]
