"""What a run is kept in and made of, as options: its folder and seeds, and what policies maximise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from preflab.errors import UserError
from preflab.errors.terminal import shown
from preflab.rewards.specification import MODEL
from preflab.settings.fields import option
from preflab.settings.training import Pool
from preflab.settings.values import LARGEST_SEED
from preflab.worlds import WorldConfig

MOST_SEEDS = 1000
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?", re.ASCII)


@dataclass(frozen=True)
class RunConfig:
    """Where a run is kept, and what is trained."""

    output: str = option("runs/default", "folder of the run; finished stages in it are reused")
    cache: str = option("~/.cache/preflab", "folder where embedded base models are kept between runs")
    seeds: tuple[int, ...] = option(
        (0,),
        "training seeds of each method, such as 0,1,2",
        minimum=0,
        maximum=LARGEST_SEED,
        brief="training seeds of each method",
    )
    sft: str = option(
        "auto",
        "where policies start, which is the reference too: none (the model as it is), train (fine-tuned first, on the "
        "chosen responses), or a PEFT adapter of any LoRA shape, which they go on training; auto: none where the model "
        "has a chat template of its own, else train; to evaluate, what the named stages started from",
        brief="where policies start: auto, none, train, or a PEFT adapter",
    )
    sft_method: str = option(
        "", "method that trains the policy which the others start from, on demonstrations", methods=True
    )
    device: str = option(
        "auto",
        "where models compute: cpu, cuda, cuda:1 (a GPU by its number) or mps; auto: cuda where there is any, else cpu",
        brief="where models compute: auto, cpu, cuda, cuda:1, mps",
    )
    track: tuple[str, ...] = option(
        (),
        "trackers that get what every stage logs, each as a run of its own, and the final figures: wandb, tensorboard, "
        "trackio, mlflow; default: none, and nothing is sent anywhere",
    )
    threads: int | None = option(None, "CPU threads; default: torch's own choice", minimum=1, maximum=1024)

    def __post_init__(self) -> None:
        if not DEVICE.fullmatch(self.device):
            raise ValueError(f"device is {shown(self.device)}; choose one of auto, cpu, cuda, cuda:0 (or another), mps")
        if not self.seeds:
            raise ValueError("seeds is empty; name at least one, such as 0")
        if len(self.seeds) > MOST_SEEDS:
            raise ValueError(f"seeds names {len(self.seeds)}; {MOST_SEEDS} are the most that a comparison takes")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {','.join(map(str, self.seeds))} names one twice, which adds no information")
        # A shell expands "~", YAML does not.
        for name in ("output", "cache"):
            object.__setattr__(self, name, str(Path(getattr(self, name)).expanduser()))


@dataclass(frozen=True)
class RewardSettings:
    """What the methods that maximise a reward are given."""

    reward_method: str = option(
        "reward", "method that trains the reward model, such as reward or reward-pl", methods=True
    )
    reward_ensemble: int = option(
        1, "reward models, trained with seeds 0, 1, …, whose scores are pooled", minimum=1, maximum=1000
    )
    reward_pool: Pool = option("mean", "an ensemble's score: mean of the members, or the worst case")
    reward_model: tuple[str, ...] = option(
        (),
        "reward models of your own in place of a trained one, several pooled as an ensemble: classifiers with one "
        "label, PEFT adapters of such, or stages of a run; each with its own tokenizer and chat template",
        brief="reward models of your own, in place of a trained one",
    )
    policy_reward: Literal["auto", "model", "gold"] = option(
        "auto",
        "what policies maximise: model (the reward model), or gold (the world's planted reward, or reward itself); "
        "auto: gold where reward stands beside dataset or has 'model' among its parts, else model",
    )

    def __post_init__(self) -> None:
        if self.reward_model and self.reward_ensemble > 1:
            raise ValueError(
                "reward_ensemble is of reward models that are trained, and reward_model names some that are; name as "
                "many as the ensemble is to have"
            )
        if self.reward_pool != "mean" and max(self.reward_ensemble, len(self.reward_model)) == 1:
            raise ValueError(
                f"reward_pool {self.reward_pool} is of several reward models, and there is one; give reward_ensemble, "
                "or name more as reward_model"
            )

    def maximised(self, world: WorldConfig) -> Literal["model", "gold"]:
        """Return what ``policy_reward`` stands for in a world.

        Raises:
            UserError: if the world has no such reward, or it would never be read.
        """
        own, model = world.reward is not None, any(part.source == MODEL for part in world.reward_parts)
        if self.policy_reward == "auto":
            return "gold" if model or (own and world.kind == "real") else "model"
        if self.policy_reward == "gold" and world.kind == "real" and not own:
            raise UserError("policy_reward gold needs a world with a planted reward, or --reward; real data have none")
        if self.policy_reward == "model" and (model or (own and world.kind == "real" and not world.reward_is_code)):
            raise UserError(
                f"with policy_reward model, nobody reads --reward {world.reward}: policies maximise the reward model, "
                "and only functions of texts judge; leave one of the two out"
            )
        return self.policy_reward
