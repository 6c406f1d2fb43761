"""SFT, reward model and DPO by TRL as it is today, one seed after the other; as short as it can honestly be.

    python -m benchmarks.end_to_end.trl_given JOB

writes what it did and found to trl_given.json, and start, reward model and the start's gold rewards for PPO.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from benchmarks.end_to_end.judged import answers, gold_rewards, won
from benchmarks.end_to_end.work import BETA, LORA, Job, Stage


def arguments(stage: Stage, seed: int, folder: Path) -> dict[str, Any]:
    """Return the fields that the trainers' configs share."""
    return {
        "output_dir": str(folder),
        "max_steps": stage.steps,
        "per_device_train_batch_size": stage.batch,
        "per_device_eval_batch_size": stage.batch,
        "learning_rate": stage.rate,
        "lr_scheduler_type": "cosine",
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
    }


def done(trainer: Any, **found: Any) -> dict[str, Any]:
    """Return what a trainer says that it did, and what was found."""
    history = trainer.state.log_history
    tokens = next(line["num_tokens"] for line in reversed(history) if "num_tokens" in line)
    seconds = next(line["train_runtime"] for line in reversed(history) if "train_runtime" in line)
    rows = trainer.state.global_step * trainer.args.per_device_train_batch_size
    return {"steps": trainer.state.global_step, "rows": rows, "tokens": tokens, "seconds": seconds, **found}


def main() -> None:
    """Do the job."""
    job = Job.read(sys.argv[1])
    work, lora, rows = job.work, LoraConfig(**LORA, task_type="CAUSAL_LM"), Path(job.rows)
    data = {path.stem: load_dataset("json", data_files=str(path), split="train") for path in rows.glob("*.jsonl")}
    tokenizer, prompts, found = AutoTokenizer.from_pretrained(job.model), data["prompts"]["prompt"], []
    for seed in job.seeds:
        out = Path(job.out) / str(seed)
        sft = SFTTrainer(
            model=job.model,
            args=SFTConfig(**arguments(work.sft, seed, out)),
            train_dataset=data["demonstrations"],
            processing_class=tokenizer,
            peft_config=lora,
        )
        sft.train()
        start = str(out / "sft")
        policy = sft.model.merge_and_unload()
        policy.save_pretrained(start)
        tokenizer.save_pretrained(start)
        baseline = gold_rewards(prompts, answers(policy, tokenizer, prompts, seed))
        (out / "baseline.json").write_text(json.dumps(baseline))

        reward = RewardTrainer(
            model=start,
            args=RewardConfig(**arguments(work.reward, seed, out)),
            train_dataset=data["pairs"],
            eval_dataset=data["heldout"],
            processing_class=tokenizer,
            peft_config=LoraConfig(**LORA, task_type="SEQ_CLS"),
        )
        reward.train()
        ranked = done(reward, accuracy=reward.evaluate()["eval_accuracy"])
        reward.model.merge_and_unload().save_pretrained(out / "reward")

        dpo = DPOTrainer(
            model=start,
            args=DPOConfig(**arguments(work.dpo, seed, out), beta=BETA),
            train_dataset=data["pairs"],
            eval_dataset=data["heldout"],
            processing_class=tokenizer,
            peft_config=lora,
        )
        dpo.train()
        preferred = done(dpo, accuracy=dpo.evaluate()["eval_rewards/accuracies"])
        dpo.save_model(str(out / "dpo"))
        gold = gold_rewards(prompts, answers(dpo.model, tokenizer, prompts, seed))
        found.append(
            {"sft": done(sft, gold=fmean(baseline)), "reward": ranked, "dpo": {**preferred, **won(gold, baseline)}}
        )
    (Path(job.out) / "trl_given.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
