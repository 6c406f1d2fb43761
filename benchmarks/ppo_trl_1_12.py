"""PPO by TRL 1.12, the last release with a PPOTrainer; run by the Python that ``make trl-1.12`` sets up.

    .venv-trl112/bin/python -m benchmarks.ppo_trl_1_12 '{"workload": "ppo", ...}'

prints the same JSON as ``benchmarks.bench`` does. Policy by LoRA, reference the bare base, value model and reward
model each a model of their own, as this trainer wants them; all of the value model learns.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from benchmarks.clock import Clock
from benchmarks.shapes import make_groups
from benchmarks.workloads import PRESETS, Job, Result
from preflab.settings.training import LoraSettings
from preflab.training.memory import PeakMemory


def arguments(job: Job, folder: str) -> PPOConfig:
    """Return the trainer's config; a micro-batch of the native side is one here."""
    values, rollout = job.what.values, job.batch * job.what.accumulation
    return PPOConfig(
        output_dir=folder,
        per_device_train_batch_size=job.batch,
        gradient_accumulation_steps=job.what.accumulation,
        num_mini_batches=1,
        num_ppo_epochs=values["rollout_epochs"],
        total_episodes=rollout * job.total,
        response_length=job.response,
        local_rollout_forward_batch_size=rollout,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        temperature=values["temperature"],
        kl_coef=values["kl_coefficient"],
        stop_token="eos",
        num_sample_generations=0,
        save_strategy="no",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        bf16=PRESETS[job.preset].bf16,
        gradient_checkpointing=False,
    )


class Lengths:
    """Counts the response tokens of each rollout where the trainer cuts them at the end token."""

    def __init__(self, limit: int) -> None:
        self.limit, self.lengths = limit, list[torch.Tensor]()
        self._cut = ppo_trainer.truncate_response
        ppo_trainer.truncate_response = self

    def __call__(self, stop: int, pad: int, responses: torch.Tensor) -> torch.Tensor:
        """Cut the responses as the trainer does."""
        cut: torch.Tensor = self._cut(stop, pad, responses)
        self.lengths.append((cut != pad).sum(1).cpu())
        return cut


def make_trainer(job: Job, folder: str) -> Any:
    """Return the trainer on the same base and prompts as the native side's."""
    lora, half = LoraSettings(), PRESETS[job.preset].bf16
    load = {"dtype": torch.bfloat16 if half else torch.float32}
    tokenizer = AutoTokenizer.from_pretrained(job.model, padding_side="left")
    classifiers = [
        AutoModelForSequenceClassification.from_pretrained(job.model, num_labels=1, **load) for _ in range(2)
    ]
    count = job.batch * job.what.accumulation
    groups = make_groups(count, job.prompt, job.response, vocabulary=len(tokenizer))
    prompts = Dataset.from_list([{"input_ids": group.prompt_ids} for group in groups])
    return PPOTrainer(
        args=arguments(job, folder),
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(job.model, **load),
        ref_model=None,
        reward_model=classifiers[0],
        value_model=classifiers[1],
        train_dataset=prompts,
        eval_dataset=prompts,
        peft_config=LoraConfig(
            r=lora.lora_rank, lora_alpha=lora.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )


def train(job: Job) -> Result:
    """Train, and say what it cost."""
    clock, lengths = Clock(), Lengths(job.response)
    with tempfile.TemporaryDirectory() as folder, clock.installed():
        trainer = make_trainer(job, folder)
        memory = PeakMemory(trainer.accelerator.device)
        trainer.train()
        peak = memory.peak()
    seconds, found = clock.seconds(job.warm_up), torch.stack(lengths.lengths).double()
    trained = (found.sum(1).mean() + job.prompt * found.shape[1]) * job.what.values["rollout_epochs"]
    history = [line for line in trainer.state.log_history if "objective/entropy" in line]
    length = found[0].mean().item()
    first = {"response_length": length, "entropy": history[0]["objective/entropy"] / length}
    losses = [line["loss/policy_avg"] + trainer.args.vf_coef * line["loss/value_avg"] for line in history]
    return Result(seconds, trained.item() / seconds, peak, losses, first)


def main() -> None:
    """Run the job given as JSON and print its result as JSON."""
    with contextlib.redirect_stdout(sys.stderr):
        result = train(Job(**json.loads(sys.argv[1])))
    print(json.dumps(result._asdict()))


if __name__ == "__main__":
    main()
