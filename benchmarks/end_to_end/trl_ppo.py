"""PPO by TRL 1.12, the last with a PPOTrainer, one seed after the other; as short as it can honestly be.

    .venv-trl112/bin/python -m benchmarks.end_to_end.trl_ppo JOB

goes on from the folders of `benchmarks.end_to_end.trl_given`, and writes what it did and found to trl_ppo.json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks.end_to_end.judged import answers, gold_rewards, won
from benchmarks.end_to_end.work import BETA, KL_COEFFICIENT, LORA, MAX_RESPONSE_TOKENS, Job


def main() -> None:
    """Do the job."""
    job = Job.read(sys.argv[1])
    work, rows, found = job.work, Path(job.rows), []
    data = {path.stem: load_dataset("json", data_files=str(path), split="train") for path in rows.glob("*.jsonl")}
    tokenizer, asked = AutoTokenizer.from_pretrained(job.model, padding_side="left"), data["prompts"]["prompt"]
    prompts = (
        data["pairs"].map(lambda x: {"input_ids": tokenizer(x["prompt"])["input_ids"]}).select_columns("input_ids")
    )
    rollouts = work.ppo.steps * work.ppo.batch // (work.epochs * work.rollout)
    for seed in job.seeds:
        out = Path(job.out) / str(seed)
        policy = AutoModelForCausalLM.from_pretrained(out / "sft")
        reward, value = (AutoModelForSequenceClassification.from_pretrained(out / "reward") for _ in range(2))
        args = PPOConfig(
            output_dir=str(out),
            # A micro-batch is as large as a minibatch, and each is an optimiser step.
            per_device_train_batch_size=work.rollout,
            num_mini_batches=work.rollout // work.ppo.batch,
            num_ppo_epochs=work.epochs,
            total_episodes=rollouts * work.rollout,
            local_rollout_forward_batch_size=work.rollout,
            response_length=MAX_RESPONSE_TOKENS,
            temperature=1.0,
            kl_coef=KL_COEFFICIENT,
            stop_token="eos",
            learning_rate=work.ppo.rate,
            lr_scheduler_type="cosine",
            bf16=False,
            gradient_checkpointing=False,
            num_sample_generations=0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        )
        trainer = PPOTrainer(
            args=args,
            processing_class=tokenizer,
            model=policy,
            ref_model=None,
            reward_model=reward,
            value_model=value,
            train_dataset=prompts,
            eval_dataset=prompts,
            peft_config=LoraConfig(**LORA, task_type="CAUSAL_LM"),
        )
        began = time.perf_counter()
        trainer.train()
        seconds, trained = time.perf_counter() - began, trainer.policy_model
        trained.save_pretrained(out / "ppo")
        answered = answers(trained, tokenizer, asked, seed)
        # Given adapters, the trainer would take the policy itself as its reference.
        ranking = DPOTrainer(
            model=trained.merge_and_unload(),
            ref_model=AutoModelForCausalLM.from_pretrained(out / "sft"),
            args=DPOConfig(output_dir=str(out), beta=BETA, bf16=False, report_to="none", disable_tqdm=True),
            train_dataset=data["heldout"],
            eval_dataset=data["heldout"],
            processing_class=tokenizer,
        )
        accuracy = ranking.evaluate()["eval_rewards/accuracies"]
        gold = gold_rewards(asked, answered)
        baseline = json.loads((out / "baseline.json").read_text())
        steps = len(trainer.state.log_history) * args.num_ppo_epochs * args.num_mini_batches
        did = {"steps": steps, "rows": steps * work.ppo.batch, "seconds": seconds, "accuracy": accuracy}
        found.append({"ppo": {**did, "sampled": trainer.state.episode, **won(gold, baseline)}})
    (Path(job.out) / "trl_ppo.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
