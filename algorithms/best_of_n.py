"""Best-of-n: n samples, the one the reward model likes best is shown (arXiv 2009.01325, 2112.09332).

Nothing is trained: the stage's policy is the one it starts from, and each response shown costs n samples.
The KL in the table is an estimate that errs upwards, never past log n − (n−1)/n (see `preflab.sampling.best_of_n`).
The held-out accuracy is the reward model's: log π_n/π rises with the reward, and with nothing else.

Converges to nothing: it is a policy as it stands, π_n(y) = π(y) (Fⁿ − F⁻ⁿ) / (F − F⁻), with F and F⁻ the
chances of a reward at most and less than that of y. It is not the KL-regularised optimum, but hardly any
policy at its KL wins more often against π (arXiv 2406.00832).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import BestOf, DecoderMethod, Needs, option

if TYPE_CHECKING:
    from preflab.sampling.sampler import Sampler


@dataclass(frozen=True)
class BestOfNConfig:
    """Fields of best-of-n."""

    n: int = option(4, "samples drawn for each response shown", minimum=1, maximum=2**16)


class BestOfN(DecoderMethod):
    """y = argmax r(x, y_i) over y_1 … y_n ~ π; r is the frozen reward model."""

    Config = BestOfNConfig
    needs = Needs(responses="sampled", scores=(), rollout=("reward",))

    def __init__(self, config: BestOfNConfig) -> None:
        self.config = config

    def decode(self, sampler: Sampler) -> BestOf:
        """Return the sampler that shows the best of n."""
        return BestOf(sampler, self.config.n)
