"""Several methods trained on the tiny model, by one process or by several: shared_run.py RUN GIVEN [SHARDED …]."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from preflab import ranks
from preflab.disk.stages import open_run
from preflab.experiment.experiment import Experiment
from preflab.experiment.opening import quiet_libraries
from preflab.method.configured import make_method
from preflab.settings.training import LoraSettings
from preflab.worlds import WorldConfig

TRAIN = {"per_device_train_batch_size": 8, "logging_steps": 2, "learning_rate": 1e-3, "max_steps": 8}
ROLLOUT = {"rollout_prompts": 16, "rollout_epochs": 2}
SAMPLED = {**TRAIN, **ROLLOUT, "save_steps": 4}
METHODS = {
    "reward": TRAIN,
    "dpo": {**TRAIN, "save_steps": 3},
    "kto": TRAIN,
    "ppo": {**SAMPLED, "kl_target": 0.1},
    "rloo": {**SAMPLED, "samples_per_prompt": 2},
    "online-dpo": SAMPLED,
}


def open_experiment(folder: Path, given: Path) -> Experiment:
    """Open the tiny world in a run folder, beside the other processes where there are any."""
    quiet_libraries()
    ranks.start()
    config = WorldConfig(
        model=str(given / "model"), dataset=str(given / "pairs.jsonl"), max_prompt_tokens=16, max_response_tokens=8
    )
    return Experiment(open_run(folder), config, LoraSettings(lora_rank=4, lora_alpha=8), folder.parent)


def train(experiment: Experiment, names: Iterable[str] = METHODS, **more: Any) -> None:
    """Train methods from one start; those that sample maximise the reward model."""
    sft = experiment.train("sft", make_method("sft", {**TRAIN, "max_steps": 2, **more}))
    reward = experiment.train("reward", make_method("reward", {**METHODS["reward"], **more}), sft=sft)
    for name in names:
        if name != "reward":
            experiment.train(name, make_method(name, {**METHODS[name], **more}), sft=sft, reward=reward)


if __name__ == "__main__":
    run, given, *sharded = sys.argv[1:]
    more = {"shard_base": True} if sharded else {}
    train(open_experiment(Path(run), Path(given)), sharded or METHODS, **more)
