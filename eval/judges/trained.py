"""Judges that score: a planted reward, and reward models on data of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preflab.disk.digests import digest_of_files
from preflab.errors import UserError
from preflab.eval.judges.base import JudgeSpec

if TYPE_CHECKING:
    from preflab.method.contract import Batch
    from preflab.model.roles import Roles
    from preflab.worlds import GoldReward, World


PLANTED = "planted reward"
"""In place of a reward model's folder or key, where policies were given the world's own reward."""


class TextJudge:
    """A reward of texts as a judge: a world's own, or a reward model with a base of its own.

    Args:
        score: the reward.
    """

    def __init__(self, score: GoldReward) -> None:
        self.score = score

    def __call__(self, batch: Batch, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the rewards ``[B, K]`` of the texts."""
        asked = [prompt for prompt, row in zip(prompts, texts, strict=True) for _ in row]
        found = iter(self.score(asked, [text for row in texts for text in row]))
        return [[float(next(found)) for _ in row] for row in texts]


class HeldOutRewardModel:
    """A reward model trained on preferences that no method saw, or the mean of several.

    Args:
        roles: on whose base it is put, as adapters and heads beside theirs, which stay as they are.
        folders: of the judge's reward models; of several, the mean of their normalised scores is taken.
        batch_size: responses scored at a time.

    Raises:
        UserError: if one does not fit the base.
    """

    def __init__(self, roles: Roles, folders: Sequence[Path], batch_size: int = 32) -> None:
        if not folders:
            raise ValueError("a judge needs at least one reward model")
        self.device, self.batch_size = roles.device, batch_size
        self.score = roles.rewards_beside(folders)

    def __call__(self, batch: Batch, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the reward models' scores ``[B, K]``."""
        from preflab.model.in_parts import scored

        scores = scored(lambda part: self.score(part.to(self.device)), batch, self.batch_size)
        found: list[list[float]] = scores.tolist()
        return found


def planted(world: World) -> JudgeSpec | None:
    """Return a world's planted reward r* as a judge; None where it has none."""
    if world.gold is None:
        return None
    judge = TextJudge(world.gold)
    name = PLANTED if world.reward is None else world.reward.name
    return JudgeSpec(name, f"planted-{world.gold_key}", (PLANTED,), lambda roles: judge)


def weights_hash(folder: Path) -> str:
    """Return 12 hex digits of SHA-256 over a model folder's safetensors files.

    Raises:
        UserError: if there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no safetensors file")
    return digest_of_files(*files, digits=12)


def warn_if_trained_against(judge: Iterable[str | Path], rewards: Iterable[str | Path]) -> str | None:
    """Return a warning for the report if the judge is, or shares a member with, the reward that policies maximised.

    A policy finds the errors of the reward it is trained against; the same reward as judge rates these errors as
    quality (Gao et al. 2022, arXiv 2210.10760).

    Args:
        judge: stage keys and folders of the judge's reward models; a folder counts by its weights, so that a copy
            is recognised too.
        rewards: the same of what the policies were trained against.

    Raises:
        UserError: for a folder without weights.
    """
    shared = _identities(judge) & _identities(rewards)
    if not shared:
        return None
    return (
        "THE JUDGE IS THE REWARD THAT THE POLICIES WERE TRAINED AGAINST "
        f"({', '.join(sorted(shared))}). Its errors count as quality here: gold reward and win rates say how far each "
        "policy went towards this reward, not which policy is better. Judge by a reward model on preferences that no "
        "method saw, by an endpoint or by people."
    )


def _identities(sources: Iterable[str | Path]) -> set[str]:
    return {weights_hash(source) if isinstance(source, Path) else source for source in sources}
