"""Best-of-n: n samples, the one the reward model likes best is shown (arXiv 2009.01325, 2112.09332).

Nothing is trained: the stage's policy is the one it starts from, and each response shown costs n samples.
The KL in the table is an estimate that errs upwards, never past log n − (n−1)/n (see `preflab.sampling.best_of_n`).
The held-out accuracy is the reward model's: log π_n/π rises with the reward, and with nothing else.

Converges to nothing: it is a policy as it stands, π_n(y) = π(y) (Fⁿ − F⁻ⁿ) / (F − F⁻), with F and F⁻ the
chances of a reward at most and less than that of y. It is not the KL-regularised optimum, but hardly any
policy at its KL wins more often against π (arXiv 2406.00832).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from preflab import Batch, BestOf, Loss, Needs, Scores, option

if TYPE_CHECKING:
    from preflab.sampling.sampler import Sampler
    from preflab.training.trainer import Task, TrainRecord


@dataclass(frozen=True)
class BestOfNConfig:
    """Fields of best-of-n."""

    n: int = option(4, "samples drawn for each response shown", minimum=1, maximum=2**16)


class BestOfN:
    """y = argmax r(x, y_i) over y_1 … y_n ~ π; r is the frozen reward model."""

    Config = BestOfNConfig
    needs: ClassVar[Needs] = Needs(responses="sampled", scores=(), rollout=("reward",))
    training: ClassVar[Mapping[str, Any]] = {}
    metrics: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: BestOfNConfig) -> None:
        self.config = config

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        """Best-of-n has no loss.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("best-of-n trains nothing and has no loss")

    def fit(self, task: Task) -> TrainRecord:
        """Leave the policy as it is."""
        from preflab.training.trainer import TrainRecord

        return TrainRecord(steps=0, seconds=0.0, tokens=0, sampled_tokens=0, peak_memory_bytes=0, final={})

    def decode(self, sampler: Sampler) -> BestOf:
        """Return the sampler that shows the best of n."""
        return BestOf(sampler, self.config.n)
