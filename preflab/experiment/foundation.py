"""The stages that methods stand on: the policy they start from, and the reward models they maximise."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from preflab.disk.stages import Stage
from preflab.experiment.settings import RewardSettings
from preflab.method.configured import Method
from preflab.rewards.specification import MODEL

if TYPE_CHECKING:
    from preflab.experiment.experiment import Experiment
    from preflab.experiment.rewards import Rewards


class Foundation(NamedTuple):
    """What trains the stages that methods stand on, each built once and reused.

    Attributes:
        experiment: the open world and run.
        start: trains the policy that methods start from.
        reward: trains reward models.
        settings: how many of these there are, and whether policies maximise them.
    """

    experiment: Experiment
    start: Method
    reward: Method
    settings: RewardSettings

    def sft(self) -> Stage | None:
        """Fine-tune on the demonstrations; None where the world has none."""
        if not len(self.experiment.world.demonstrations):
            return None
        return self.experiment.train(self.start.label, self.start)

    def reward_models(self, sft: Stage | None) -> list[Stage]:
        """Train the reward models, one or an ensemble; the first one's stage bears no number."""
        names = ["reward", *(f"reward-{seed}" for seed in range(1, self.settings.reward_ensemble))]
        return [self.experiment.train(name, self.reward, seed=seed, sft=sft) for seed, name in enumerate(names)]

    def rewards(self, sft: Stage | None) -> Rewards | None:
        """Return what on-policy methods maximise, trained where it must be; None without pairs to train it on."""
        from preflab.experiment.rewards import Rewards, WeightedReward

        if self.settings.maximised(self.experiment.world_config) == "gold":
            own = self.experiment.own_reward()
            weight = self.experiment.world.reward.model if self.experiment.world.reward else 0.0
            return Rewards.weighted([*own, WeightedReward(MODEL, weight, self._models(sft))] if weight else own)
        return self._models(sft) if len(self.experiment.world.pairs) else None

    def _models(self, sft: Stage | None) -> Rewards:
        from preflab.experiment.rewards import Rewards

        return Rewards.ensemble(self.reward_models(sft), self.settings.reward_pool)

    def stage_name(self, method: Method, seed: int) -> str:
        """Return what a method's stage is called: stages that others stand on bear no seed, and are found again."""
        names = {self.start.name: self.start.label, self.reward.name: "reward"}
        return names.get(method.name, f"{method.label}-seed{seed}")
