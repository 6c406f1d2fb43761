"""The same by preflab: the command line of recipes/compare.py, and what it says that it did and found."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.end_to_end.work import BETA, KL_COEFFICIENT, LORA, MAX_PROMPT_TOKENS, MAX_RESPONSE_TOKENS, Job, Stage
from benchmarks.workloads import ROOT
from preflab.disk.files import read_object

LARGE = {"llama-60m"}
"""Shapes of which preflab trains one stage at a time; then the world's one thread is not what anybody would take."""


def command(job: Job) -> list[str]:
    """Return what does the job; preflab decides itself how many stages are trained side by side."""
    work = job.work
    options: dict[str, Any] = {
        "world": "reviews",
        "model": job.model,
        "output": job.out,
        "seeds": ",".join(map(str, job.seeds)),
        "max-prompt-tokens": MAX_PROMPT_TOKENS,
        "max-response-tokens": MAX_RESPONSE_TOKENS,
        "lora-rank": LORA["r"],
        "lora-alpha": LORA["lora_alpha"],
        "target-modules": LORA["target_modules"],
        "eval-prompts": work.prompts,
        "eval-pairs": work.pairs,
        # What the scripts of TRL do not do either.
        "interpolate": 1,
        "baseline-draws": 1,
        "oracle-samples": 0,
        "report": "false",
        **_stage("sft", work.sft),
        **_stage("reward", work.reward),
        **_stage("dpo", work.dpo),
        **_stage("ppo", work.ppo),
        "dpo.beta": BETA,
        "ppo.kl-coefficient": KL_COEFFICIENT,
        "ppo.rollout-prompts": work.rollout,
        "ppo.rollout-epochs": work.epochs,
    }
    if work.shape in LARGE:
        options["threads"] = os.cpu_count()
    if work.quick:
        options["quick"] = "true"
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, str(ROOT / "recipes" / "compare.py"), *flags]


def _stage(name: str, stage: Stage) -> dict[str, Any]:
    fields = {
        "max-steps": stage.steps,
        "train-batch-size": stage.batch,
        "per-device-train-batch-size": stage.batch,
        "learning-rate": stage.rate,
        "warmup-steps": 0,
    }
    return {f"{name}.{field}": value for field, value in fields.items()}


def found(job: Job) -> dict[str, dict[str, float]]:
    """Return what was done and found, the mean over seeds of each, by stage."""
    content = read_object(Path(job.out) / "comparison.json")
    methods = content["methods"]
    done = {name: _did(methods[name]) for name in ("sft", "dpo", "ppo")}
    for name, figures in done.items():
        figures["gold"] = methods[name]["gold_reward"]["mean"]
        if name != "sft":
            figures["wins"] = methods[name]["win_rate"]["mean"]
            figures["accuracy"] = methods[name]["heldout_accuracy"]["mean"]
    reward = content["reward_model"]
    done["reward"] = {**_did(reward), "accuracy": reward["heldout_accuracy"]["mean"]}
    return done


def _did(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return counts as TRL's trainers count: a pair's prompt twice."""
    train = figures["train"]
    pairs = train["pairs"] > 0
    return {
        "steps": train["steps"],
        "rows": train["prompts"],
        "seconds": train["seconds"],
        "sampled": train["sampled_tokens"],
        "tokens": train["tokens"] + (train["tokens"] - train["trained_tokens"] if pairs else 0),
    }
