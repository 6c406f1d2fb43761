"""The stages that methods stand on: the policy they start from, and the reward models they maximise."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from preflab.disk.stages import Stage
from preflab.errors import UserError
from preflab.experiment.settings import RewardSettings
from preflab.method.configured import Method
from preflab.rewards.specification import MODEL

if TYPE_CHECKING:
    from preflab.experiment.experiment import Experiment
    from preflab.experiment.given_rewards import GivenReward
    from preflab.experiment.rewards import Rewards

logger = logging.getLogger(__name__)

AUTO, NONE, TRAIN = "auto", "none", "train"
REWARD_MODEL = "reward model"
"""What the reward models that methods stand on are called in sentences."""

START = "start"
"""What the policy that methods start from is called where it was not trained here."""


DATA = "data"
"""What of a seed's replication names its sample of preferences."""


class Replication(NamedTuple):
    """What the methods of one seed stand on.

    Attributes:
        seed: the seed.
        experiment: the open world: of the seed's own sample of preferences, if each has one.
        sft: the policy that they start from; None where it is the model itself.
        rewards: what on-policy ones maximise; None where there is nothing.
    """

    seed: int
    experiment: Experiment
    sft: Stage | None
    rewards: Rewards | None


class Foundation(NamedTuple):
    """What gives the stages that methods stand on, each built once and reused.

    Attributes:
        experiment: the open world and run.
        start: trains the policy that methods start from.
        reward: trains reward models.
        settings: how many of these there are, and whether policies maximise them.
        begin: ``none`` (methods start from the model as it is), ``train``, ``auto`` (the first where the model has a
            chat template of its own, else the second) or the folder of an adapter.
        given: reward models in place of trained ones.
    """

    experiment: Experiment
    start: Method
    reward: Method
    settings: RewardSettings
    begin: str = AUTO
    given: tuple[GivenReward, ...] = ()

    def resolved(self) -> Foundation:
        """Return the same with ``auto`` decided, saying how.

        Raises:
            UserError: if a policy is to be trained that the world has no demonstrations for.
        """
        demonstrations = len(self.experiment.world.demonstrations)
        if self.begin == TRAIN and not demonstrations:
            raise UserError("--sft train: there are no demonstrations to train the start on; --sft none needs none")
        if self.begin != AUTO:
            return self
        if not demonstrations:
            return self._replace(begin=NONE)
        if not self.experiment.instructed:
            return self._replace(begin=TRAIN)
        logger.warning(
            "%s has a chat template: policies start from it as it is; --sft train fine-tunes it first",
            self.experiment.world.model,
        )
        return self._replace(begin=NONE)

    @property
    def trains_start(self) -> bool:
        """Whether the start is trained here; of one that is `resolved`."""
        return self.begin == TRAIN

    @property
    def start_label(self) -> str:
        """What the policy that methods start from is called; of one that is `resolved`."""
        return self.start.label if self.trains_start else START

    def replications(self, seeds: Sequence[int], redraw: Sequence[str]) -> list[Replication]:
        """Return what the methods of each seed stand on; what is not redrawn is that of seed 0, and one for all."""
        drawn, found = self.redrawn(redraw), []
        starts: dict[int, Stage | None] = {}
        rewards: dict[tuple[int, int], Rewards | None] = {}
        for seed in seeds:
            own = self.of_seed(seed, redraw)
            at, on = (seed if drawn.get(name) else 0 for name in (self.start_label, REWARD_MODEL))
            if at not in starts:
                starts[at] = self.start_of(seed, redraw)
            if (at, on) not in rewards:  # given ones are on the scale of the start's answers, and one for all
                rewards[at, on] = (own if drawn.get(REWARD_MODEL) else self).rewards(starts[at], on)
            found.append(Replication(seed, own.experiment, starts[at], rewards[at, on]))
        return found

    def start_of(self, seed: int, redraw: Sequence[str]) -> Stage | None:
        """Return where the methods of a seed start; None where that is the model itself."""
        anew = self.redrawn(redraw).get(self.start_label)
        return self.of_seed(seed, redraw).sft(seed) if anew else self.sft(0)

    def of_seed(self, seed: int, redraw: Sequence[str]) -> Foundation:
        """Return the same on the sample of preferences that a seed learns from: its own if `redraw` names data."""
        return self._replace(experiment=self.experiment.drawn_again(seed)) if DATA in redraw else self

    def say_what_is_shared(self, redraw: Sequence[str]) -> None:
        """Say so where something is to be drawn anew that is not trained here."""
        drawn = self.redrawn(redraw)
        if len(drawn) < len(set(redraw) - {"method", DATA}):
            made = ", ".join(drawn) or "nothing that methods stand on"
            logger.warning(
                "--redraw %s: %s is trained here; what is brought along is one for all", ",".join(redraw), made
            )

    def redrawn(self, redraw: Sequence[str]) -> dict[str, bool]:
        """Return whether each of the stages trained here, start and reward model, is drawn anew by every seed."""
        found = {self.start_label: "start" in redraw} if self.trains_start else {}
        return {**found, REWARD_MODEL: "reward" in redraw} if self.reads_models and not self.given else found

    def sft(self, seed: int = 0) -> Stage | None:
        """Return the adapter that methods start from, trained or given; None where it is the model itself."""
        if self.trains_start:
            return self.experiment.train(numbered(self.start.label, seed), self.start, seed=seed)
        return self.given_start()

    def given_start(self) -> Stage | None:
        """Return the given adapter that training starts from; None where there is none."""
        from preflab.experiment.adopted import adopted_start

        return None if self.begin in (NONE, TRAIN) else adopted_start(self.experiment, Path(self.begin))

    def reward_models(self, sft: Stage | None, seed: int = 0) -> list[Stage]:
        """Train the reward models of a seed, one or an ensemble; the first one's stage bears no number."""
        return [self.reward_model(sft, seed, number) for number in range(self.settings.reward_ensemble)]

    def reward_model(self, sft: Stage | None, seed: int, number: int) -> Stage:
        """Train one of the reward models of a seed."""
        from preflab.seeds import derive

        own = derive(seed, "reward", number) % 2**32 if seed else number  # the library takes no more
        return self.experiment.train(self.reward_names(seed)[number], self.reward, seed=own, sft=sft)

    def reward_names(self, seed: int = 0) -> list[str]:
        """Return what the stages of a seed's reward models are called."""
        first, many = numbered("reward", seed), self.settings.reward_ensemble
        return [first, *(f"{first}-{number}" for number in range(1, many))]

    @property
    def reads_models(self) -> bool:
        """Whether policies maximise reward models, alone or as a part of a sum."""
        world = self.experiment.world
        if self.settings.maximised(self.experiment.world_config) == "gold":
            return bool(world.reward and world.reward.model)
        return bool(self.given) or len(world.pairs) > 0

    def rewards(self, sft: Stage | None, seed: int = 0) -> Rewards | None:
        """Return what on-policy methods maximise, trained where it must be; None without pairs to train it on."""
        from preflab.experiment.rewards import Rewards, WeightedReward

        if self.settings.maximised(self.experiment.world_config) == "gold":
            own = self.experiment.own_reward()
            weight = self.experiment.world.reward.model if self.experiment.world.reward else 0.0
            return Rewards.weighted([*own, WeightedReward(MODEL, weight, self._models(sft, seed))] if weight else own)
        return self._models(sft, seed) if self.reads_models else None

    def _models(self, sft: Stage | None, seed: int) -> Rewards:
        from preflab.experiment.adopted import given_rewards
        from preflab.experiment.rewards import Rewards

        pool, size = self.settings.reward_pool, self.reward.train.micro_batch
        if self.given:
            return given_rewards(self.experiment, self.given, sft, pool=pool, batch_size=size)
        return Rewards.ensemble(self.reward_models(sft, seed), pool)

    def stage_name(self, method: Method, seed: int) -> str:
        """Return what a method's stage is called: stages that others stand on bear no seed, and are found again."""
        names = {self.start.name: self.start.label, self.reward.name: "reward"}
        return names.get(method.name, f"{method.label}-seed{seed}")


def numbered(name: str, seed: int) -> str:
    """Return what a stage is called that others stand on: that of seed 0, which all share by default, has no number."""
    return f"{name}-seed{seed}" if seed else name
