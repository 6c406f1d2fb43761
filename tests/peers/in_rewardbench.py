"""Run in RewardBench's own environment: its command on a reward model, with nothing of it changed but a device's name.

Its pipeline sends what it reads to "cuda"; where there is none, that is taken for the CPU. An adapter is opened by a
`model_builder` of its own table of models, the way that RewardBench has for what its default cannot open.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from rewardbench import rewardbench as program
from rewardbench.models import REWARD_MODEL_CONFIG
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BatchEncoding


def open_adapter(name: str, **options: object) -> object:
    kept = {name: options[name] for name in ("torch_dtype",)}
    base = json.loads((Path(name) / "adapter_config.json").read_text())["base_model_name_or_path"]
    pad = AutoTokenizer.from_pretrained(name).pad_token_id
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=pad, **kept)
    return PeftModel.from_pretrained(model, name)


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text())
    if not torch.cuda.is_available():
        there = BatchEncoding.to
        BatchEncoding.to = lambda self, device, **more: there(self, "cpu", **more)
    if asked["adapter"]:
        REWARD_MODEL_CONFIG[asked["model"]] = {**REWARD_MODEL_CONFIG["default"], "model_builder": open_adapter}
    sys.argv = [
        "rewardbench",
        *("--model", asked["model"], "--dataset", asked["dataset"], "--load_json"),
        *(("--tokenizer", asked["tokenizer"]) if asked["tokenizer"] else ()),
        *("--not_quantized", "--torch_dtype", "float32", "--batch_size", str(asked["batch_size"])),
    ]
    program.main()


if __name__ == "__main__":
    main()
