"""Judges that score: a planted reward, and reward models on data of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preflab.errors import UserError

if TYPE_CHECKING:
    from preflab.interface import Batch
    from preflab.roles import Roles
    from preflab.worlds import GoldReward


class PlantedReward:
    """The world's own reward r*."""

    def __init__(self, gold: GoldReward) -> None:
        self.name, self.gold = "planted reward", gold

    def __call__(self, roles: Roles, batch: Batch, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return r* of the texts."""
        return [float(value) for value in self.gold(prompts, responses)]


class HeldOutRewardModel:
    """A reward model trained on preferences that no method saw, or the mean of several.

    Args:
        folder: the judge's adapter and head, on the same base as the roles it is called with; of several, the mean
            of their normalised scores is taken.
        batch_size: responses scored at a time.
    """

    def __init__(self, folder: Path | Sequence[Path], batch_size: int = 32) -> None:
        self.folders = [folder] if isinstance(folder, Path) else list(folder)
        self.batch_size = batch_size
        if not self.folders:
            raise ValueError("a judge needs at least one reward model")
        count = len(self.folders)
        self.name = "held-out reward model" if count == 1 else f"mean of {count} held-out reward models"

    def __call__(self, roles: Roles, batch: Batch, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return the judge's scores; takes the place of the roles' own reward model."""
        from eval.harness import reward_scores

        roles.start_rewards(self.folders)
        return reward_scores(roles, batch, self.batch_size)


def weights_hash(folder: Path) -> str:
    """Return 12 hex digits of SHA-256 over a model folder's safetensors files.

    Raises:
        UserError: if there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no safetensors file")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:12]


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
