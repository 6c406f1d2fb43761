"""What a stage of the very run trained that evaluates it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from preflab.disk.stages import Stage
from preflab.eval.records.records import Records
from preflab.eval.subjects.ground import Ground

if TYPE_CHECKING:
    from preflab.experiment.rewards import Rewards
    from preflab.sampling.sampler import Decoder, Sampler

Interpolated = Literal["weights", "log-probabilities"]
"""What of two policies is interpolated."""


@dataclass(frozen=True)
class TrainedPolicy:
    """A policy that a stage of the run trained.

    Attributes:
        stage: holds its adapter.
        decode: what its method makes of the sampler, where it does not just sample the policy.
        share: of the way from the start to it at which it is evaluated.
        by: what is taken there: ``weights`` (`preflab.model.interpolation`), or ``log-probabilities`` of next tokens
            (`preflab.sampling.mixing`).
    """

    stage: Stage
    decode: Callable[[Sampler], Decoder] | None = None
    kind: str = "trained policy"
    role: str = "policy"
    share: float = 1.0
    by: Interpolated = "weights"

    @property
    def key(self) -> str:
        """That of the stage, which decides everything of it but the share and what is taken there."""
        if self.share == 1.0:
            return self.stage.key
        return f"{self.stage.key} at {self.share!r}" + (" of its log-probabilities" if self.by != "weights" else "")

    def evaluate(self, ground: Ground, title: str, folder: Path | None = None) -> Records:
        """Score held-out pairs, and answer the prompts where asked to."""
        from preflab.eval.harness.evaluate import evaluate_policy
        from preflab.eval.harness.policies import MixedPolicy
        from preflab.eval.harness.rows import Tokens
        from preflab.model.interpolation import interpolate

        roles, policy = ground.roles(), None
        roles.start("policy", self.stage.folder / "policy")
        if self.share != 1.0 and self.by == "weights":
            interpolate(roles, "policy", "reference", self.share)
        elif self.share != 1.0:
            policy = MixedPolicy(roles, Tokens.of(ground.experiment, ground.config), share=self.share)
        return evaluate_policy(
            ground.experiment,
            roles,
            ground.judge_on(roles),
            ground.config,
            seed=ground.seed,
            title=title,
            decode=self.decode,
            policy=policy,
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
        from preflab.eval.harness.evaluate import evaluate_reward_model

        roles = ground.experiment.open_roles(("reward",), sft=ground.sft, reward=self.source)
        return evaluate_reward_model(ground.experiment, roles, ground.config, title=title)
