"""What a person brings along, made stages of the run: the adapter that policies start from, reward models."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflab.disk.files import read_object, write_json
from preflab.disk.stages import Stage, content_hash
from preflab.errors import UserError
from preflab.experiment.identity import StandsOn, model_fingerprint
from preflab.experiment.rewards import PlantedRewards, Rewards
from preflab.model import adapter_shape
from preflab.model.adapter_config import CONFIG, NORMALISATION, WEIGHTS
from preflab.model.adapters import OtherAdapterError
from preflab.settings.training import Pool

if TYPE_CHECKING:
    from preflab.experiment.experiment import Experiment
    from preflab.experiment.given_rewards import GivenReward

logger = logging.getLogger(__name__)


def adopted_start(experiment: Experiment, folder: Path) -> Stage:
    """Make an adapter of the base, of any LoRA shape, the policy that training starts from.

    It lies in the run from then on: whoever evaluates the run finds what its policies started from.

    Raises:
        UserError: if it does not fit the base, or is more than LoRA.
    """

    def work(to: Path) -> dict[str, Any]:
        roles = experiment.open_roles(("policy",), sft=None, reward=None)
        try:
            roles.start("policy", folder)
        except OtherAdapterError as error:
            raise UserError(
                f"--sft: {error}; fold it into its base (PEFT's merge_and_unload), and give the result as --model"
            ) from None
        asked, found = adapter_shape.asked_for(experiment.lora), roles.shape("policy")
        if not adapter_shape.alike(asked, found):
            logger.warning(
                "policies go on training %s as it is, at %s; the settings' %s is of other adapters",
                folder,
                adapter_shape.described(found),
                adapter_shape.described(asked),
            )
        copied(folder, to / "policy")
        return {"given": str(folder), "shape": adapter_shape.described(found)}

    return experiment.run.stage("start", {**experiment.identity(), "given": model_fingerprint(str(folder))}, work)


def given_rewards(
    experiment: Experiment,
    given: Sequence[GivenReward],
    sft: Stage | None,
    *,
    pool: Pool,
    batch_size: int,
    name: str = "reward",
) -> Rewards:
    """Return reward models from elsewhere as what policies maximise: one, or an ensemble.

    What has no mean and deviation of its scores beside it gets those of the start's own samples, as a reward model
    that is trained here does: a coefficient of the KL then means the same.

    Args:
        experiment: the open world and run.
        given: the reward models. Where all are adapters on the base, the roles read them there.
        sft: where policies start; the bare base if None.
        pool: an ensemble's score.
        batch_size: bounds memory.
        name: of the first one's stage.

    Raises:
        UserError: if one cannot be opened.
    """
    names = [name, *(f"{name}-{number}" for number in range(1, len(given)))]
    if all(one.on_base(experiment) for one in given):
        stages = [_adopted(experiment, one, sft, name, batch_size) for name, one in zip(names, given, strict=True)]
        return Rewards.ensemble(stages, pool)
    found = [_scaled(experiment, one, sft, name, batch_size) for name, one in zip(names, given, strict=True)]
    key = content_hash([pool, *(reward.key for reward in found)])

    def score(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        rewards = zip(*(reward.gold(prompts, responses) for reward in found), strict=True)
        return [min(row) if pool == "worst" else sum(row) / len(row) for row in rewards]

    return Rewards(key, function=experiment.rewards_of_texts(score, key))


def _adopted(experiment: Experiment, given: GivenReward, sft: Stage | None, name: str, batch_size: int) -> Stage:
    """Make a reward adapter on the base a stage."""
    from preflab.experiment.reward_models import normalise

    def work(to: Path) -> dict[str, Any]:
        roles = experiment.open_roles(("policy",), sft=sft, reward=None)
        roles.start("reward", Path(given.source))
        roles.learn(())
        if not given.normalised:
            sampler, limit = experiment.sampler(batch_size=batch_size), experiment.max_response_tokens
            normalise(roles, _prompts(experiment), sampler, limit, seed=0, batch_size=batch_size)
            _say(given)
        copied(Path(given.source), to / "reward")
        scale = {name: float(getattr(roles.head("reward"), name)) for name in ("mean", "std")}
        write_json(to / "reward" / NORMALISATION, scale)
        return {"given": given.source}

    return experiment.run.stage(name, _inputs(experiment, given, sft), work)


def _scaled(
    experiment: Experiment, given: GivenReward, sft: Stage | None, name: str, batch_size: int
) -> PlantedRewards:
    """Return a reward model with texts of its own, on the scale of the start's samples."""
    from preflab.experiment.reward_models import SMALLEST, sampled_rewards

    texts = given.texts(experiment)
    if given.normalised:
        return experiment.rewards_of_texts(texts, given.key_in(experiment))

    def work(to: Path) -> dict[str, Any]:
        reward = experiment.rewards_of_texts(texts, given.key_in(experiment))
        roles = experiment.open_roles(("policy", "reward"), sft=sft, reward=reward)
        sampler, limit = experiment.sampler(batch_size=batch_size), experiment.max_response_tokens
        found = sampled_rewards(roles, _prompts(experiment), sampler, limit, seed=0, batch_size=batch_size)
        std = float(found.std().clamp(min=SMALLEST)) if len(found) > 1 else 1.0
        _say(given)
        write_json(to / NORMALISATION, {"mean": float(found.mean()), "std": std})
        return {"given": given.source}

    stage = experiment.run.stage(name, _inputs(experiment, given, sft), work)
    scale = read_object(stage.folder / NORMALISATION)

    def score(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [(reward - scale["mean"]) / scale["std"] for reward in texts(prompts, responses)]

    return experiment.rewards_of_texts(score, stage.key)


def copied(adapter: Path, to: Path) -> None:
    """Copy an adapter's files as they are: its weights are what tells it from others."""
    to.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(adapter / name, to / name)


def _prompts(experiment: Experiment) -> list[list[int]]:
    """Return prompts for the start's samples: those that methods sample from; where only held-out rows are, theirs."""
    return experiment.prompts or [group.prompt_ids for group in experiment.eval_prompts]


def _inputs(experiment: Experiment, given: GivenReward, sft: Stage | None) -> dict[str, Any]:
    return {**experiment.identity(), "given": given.key_in(experiment), **StandsOn.of(sft, None).start()}


def _say(given: GivenReward) -> None:
    logger.warning("reward model %s: its scores are put on the scale of those of the start's samples", given.source)
