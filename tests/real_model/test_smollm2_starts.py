"""SmolLM2-135M-Instruct as it is, and a reward model that TRL made of it, for DPO, PPO and RLOO."""

from __future__ import annotations

import json

import pytest
import torch
from arithmetic import sums
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from preflab.disk.stages import Run
from preflab.experiment.experiment import Experiment
from preflab.experiment.given_rewards import GivenReward
from preflab.settings.training import LoraSettings
from preflab.worlds import WorldConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def reward(smollm2, tmp_path_factory):
    """The folder of an adapter that TRL's trainer took a step on, with the tokenizer beside it."""
    from trl import RewardConfig, RewardTrainer

    folder = tmp_path_factory.mktemp("trl")
    torch.manual_seed(0)
    trainer = RewardTrainer(
        smollm2,
        RewardConfig(
            str(folder), max_steps=1, per_device_train_batch_size=2, report_to="none", use_cpu=True, bf16=False
        ),
        train_dataset=Dataset.from_list(sums()).remove_columns("answer"),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"], use_rslora=True, task_type="SEQ_CLS"),
    )
    trainer.train()
    trainer.save_model(str(folder / "reward"))
    return folder / "reward"


def test_its_scores_are_those_of_its_own_forward(smollm2, reward, tmp_path):
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums()))
    config = WorldConfig(model=smollm2, dataset=str(tmp_path / "sums.jsonl"))
    experiment = Experiment(Run(tmp_path / "run"), config, LoraSettings(dtype="float32"), tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(smollm2, num_labels=1, dtype=torch.float32)
    model, tokenizer = PeftModel.from_pretrained(model, reward).eval(), AutoTokenizer.from_pretrained(reward)
    rows, expected = sums()[:3], []
    for row in rows:
        text = tokenizer.apply_chat_template([*row["prompt"], *row["chosen"]], return_dict=True, return_tensors="pt")
        with torch.no_grad():
            expected.append(float(model(**text).logits[0, 0]))
    prompts = [
        experiment.tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        for row in rows
    ]
    found = GivenReward(str(reward)).texts(experiment)(prompts, [row["chosen"][0]["content"] for row in rows])
    assert found == pytest.approx(expected, abs=1e-5)


def test_it_trains_policies_from_the_model_as_it_is(compare, reward):
    found, folder = compare("--reward-model", reward, "--gold-fraction", 0)
    assert list(found.methods) == ["start", "dpo", "ppo", "rloo"]
    assert found.baseline == "start"
    names = {path.name.rpartition("-")[0] for path in (folder / "stages").iterdir()}
    assert not names & {"sft", "start", "judge"}
    (scale,) = (folder / "stages").glob("reward-*/normalisation.json")
    assert json.loads(scale.read_text())["std"] > 0
    assert found.methods["start"].figures["kl"].mean == 0.0
    assert found.methods["ppo"].figures["proxy_reward"] is not None
