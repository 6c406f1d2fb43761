"""``--interpolate``: trained policies on their way back to the start, for comparison at equal KL."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from preflab.eval.subjects import Ground, Interpolated, TrainedPolicy, evaluate_subject
from preflab.settings.fields import option

if TYPE_CHECKING:
    from preflab.disk.stages import Stage
    from preflab.eval.comparison.contestant import Contestant
    from preflab.eval.pipeline.entries import Entry
    from preflab.eval.pipeline.session import Session

logger = logging.getLogger(__name__)

SHARE = "share"
"""What a policy on its way back is told by, as the setting of a sweep is."""


@dataclass(frozen=True)
class WayBackConfig:
    """Where trained policies are evaluated on their way back to the start."""

    interpolate: tuple[float, ...] = option(
        (0.25, 0.5, 0.75, 1.25),
        "shares of the way from the start to each trained policy at which it is evaluated too, for "
        "comparison at equal KL; 1 alone: nowhere else. A sweep gives such a curve by itself",
        minimum=0.01,
        maximum=4.0,
    )
    interpolate_by: Interpolated = option(
        "weights",
        "what is taken there: weights, that is, adapters scaled; or log-probabilities of start and policy, mixed at "
        "every token, which takes twice the sampling and adapters of any kind",
    )

    @property
    def shares(self) -> tuple[float, ...]:
        """Those beside the policy itself, in order, each once."""
        return tuple(sorted({share for share in self.interpolate if share != 1.0}))


def shares_of(session: Session, entry: Entry, swept: bool) -> tuple[float, ...]:
    """Return where a method's policies are evaluated on their way back: none that trains nothing, or is swept."""
    method = entry.method
    trains = method.needs.trains[0] == "policy" and method.algorithm.kind != "decoder"
    return session.config(WayBackConfig).shares if trains and not swept else ()


def way_back(
    grounds: Sequence[Ground],
    name: str,
    shares: Sequence[float],
    stages: Sequence[Stage],
    by: Interpolated = "weights",
) -> list[Contestant]:
    """Evaluate what every seed trained at these shares of its way, by the answers to all prompts.

    Args:
        grounds: what the methods of each seed share.
        name: of the method.
        shares: as `shares_of` returns them.
        stages: one a seed.
        by: what is taken there.
    """
    from preflab.eval.comparison.contestant import Contestant

    if grounds[0].judge is None or not shares:
        return []
    if by == "weights" and not scales(stages[0]):
        logger.warning(
            "%s: DoRA and adapters with biases cannot be scaled: nothing is said of it at equal KL; with "
            "--interpolate-by log-probabilities it is",
            name,
        )
        return []
    found = []
    for share in shares:
        records = [
            evaluate_subject(*on_the_way_back(ground, stage, share, by))
            for ground, stage in zip(grounds, stages, strict=True)
        ]
        found.append(Contestant(name, records, varied={SHARE: share}))
    return found


def scales(stage: Stage) -> bool:
    """Whether the adapter that a stage trained can be taken at a share: not so DoRA, and adapters with biases."""
    from preflab.model.adapter_config import read_config

    config = read_config(stage.folder / "policy")
    return not (config.get("use_dora") or config.get("lora_bias"))


def on_the_way_back(ground: Ground, stage: Stage, share: float, by: Interpolated) -> tuple[str, TrainedPolicy, Ground]:
    """Return what the evaluation at a share is called, what is evaluated, and where: by its answers alone."""
    asked = replace(ground.config, eval_pairs=2)
    return f"{stage.name}-at-{share:g}", TrainedPolicy(stage, share=share, by=by), ground._replace(config=asked)
