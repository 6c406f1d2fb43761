"""What a stage of the very run trained that evaluates it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eval.records.records import Records
from eval.subjects.ground import Ground
from preflab.disk.stages import Stage

if TYPE_CHECKING:
    from preflab.experiment.rewards import Rewards
    from preflab.sampling.sampler import Decoder, Sampler


@dataclass(frozen=True)
class TrainedPolicy:
    """A policy that a stage of the run trained.

    Attributes:
        stage: holds its adapter.
        decode: what its method makes of the sampler, where it does not just sample the policy.
        share: of the way from the start to it at which it is evaluated; see `preflab.model.interpolation`.
    """

    stage: Stage
    decode: Callable[[Sampler], Decoder] | None = None
    kind: str = "trained policy"
    role: str = "policy"
    share: float = 1.0

    @property
    def key(self) -> str:
        """That of the stage, which decides everything of it but the share."""
        return self.stage.key if self.share == 1.0 else f"{self.stage.key} at {self.share!r}"

    def evaluate(self, ground: Ground, title: str, folder: Path | None = None) -> Records:
        """Score held-out pairs, and answer the prompts where asked to."""
        from eval.harness.evaluate import evaluate_policy
        from preflab.model.interpolation import interpolate

        roles = ground.roles()
        roles.start("policy", self.stage.folder / "policy")
        if self.share != 1.0:
            interpolate(roles, "policy", "reference", self.share)
        return evaluate_policy(
            ground.experiment,
            roles,
            ground.judge_on(roles),
            ground.config,
            seed=ground.seed,
            title=title,
            decode=self.decode,
            generate=ground.generate,
            folder=folder,
        )


@dataclass(frozen=True)
class TrainedReward:
    """A reward model that a stage of the run trained, or an ensemble of such."""

    source: Stage | Rewards
    kind: str = "trained reward"
    role: str = "reward"

    @property
    def key(self) -> str:
        """That of the stages, which decides everything of it."""
        return self.source.key

    def evaluate(self, ground: Ground, title: str, folder: Path | None = None) -> Records:
        """Score held-out pairs."""
        from eval.harness.evaluate import evaluate_reward_model

        roles = ground.experiment.open_roles(("reward",), sft=ground.sft, reward=self.source)
        return evaluate_reward_model(ground.experiment, roles, ground.config, title=title)
