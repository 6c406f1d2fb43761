"""Best-of-n: the decoder, and the policy that shows the best of n samples (arXiv 2112.09332, 2401.01879).

With F and F⁻ the chances that a sample of π scores at most, and less than, r(y), and p = F − F⁻ the chance
that it ties with y:

    π_n(y) = π(y) (Fⁿ − F⁻ⁿ) / p

A sample's place on the scale of F, ties spread evenly, is uniform, and the best of n has density n uⁿ⁻¹
there. KL(π_n‖π) is therefore log n − (n−1)/n, less what lies in the ties: an upper bound, reached where no
two samples tie. No torch at import time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from preflab.method.maths import masked_sum
from preflab.scoring.batching import rows_at_once

if TYPE_CHECKING:
    from torch import Tensor

    from preflab.method.contract import Batch, Role, Scores
    from preflab.model.roles import Roles
    from preflab.sampling.sampler import Sampler, Samples


def best_of_n_kl_bound(n: int) -> float:
    """Return log n − (n−1)/n, the most KL(π_n‖π) can be, in nats (arXiv 2112.09332; proof in 2401.01879)."""
    return math.log(n) - (n - 1) / n


def best_of_n_logps(logps: Tensor, rewards: Tensor, n: int) -> Tensor:
    """Return log π_n(y) exactly, ``[..., N]``, for an enumeration of all N responses.

    Which of several equal winners is shown changes nothing, as long as the choice does not look at the
    responses themselves: the first drawn, or any.

    Args:
        logps: ``[..., N]`` log π(y), −inf where there is no response.
        rewards: ``[..., N]`` r(y).
        n: samples.
    """

    def total(chosen: Tensor) -> Tensor:
        return logps.unsqueeze(-2).masked_fill(~chosen, float("-inf")).logsumexp(-1)

    others, own = rewards.unsqueeze(-2), rewards.unsqueeze(-1)
    at_most, tied = total(others <= own), total(others == own)
    # n log(F⁻/F): −inf for the worst response of all. Differences of F itself would cancel.
    fall = n * (-(tied - at_most).exp().clamp(max=1.0)).log1p()
    found = logps - tied + n * at_most + (-fall.expm1()).log()
    return found.masked_fill(logps == float("-inf"), float("-inf"))


def best_of_n_log_ratio(tie: Tensor, n: int) -> Tensor:
    """Return, for a winner y, a value whose mean over winners is KL(π_n‖π); shaped as `tie`, float64.

        log[(1 − (1−q)ⁿ) / q] + (n−1) (1−q)ⁿ log(1−q) / (1 − (1−q)ⁿ)

    q = p/F is the chance that a response which is no better than y ties with it. The value falls from the
    bound (q = 0) to 0 (q = 1). So π(y), which is at most q, in place of it errs upwards, never past the
    bound; and by little, where single responses are rare or the likely ones rank high.

    Args:
        tie: q.
        n: samples.
    """
    # Within rounding of the ends, and away from 0/0 and 0 · log 0 there.
    q = tie.double().clamp(1e-12, 1 - 1e-12)
    log_none = n * (-q).log1p()
    some = -log_none.expm1()
    return (some / q).log() + (n - 1) / n * log_none.exp() * log_none / some


class BestOf:
    """A `Decoder` that draws n samples for each one it returns.

    Args:
        sampler: draws them.
        n: how many.
        sequences_at_once: samples scored together, at most; fewer where they are long (see `preflab.scoring.batching`).
    """

    def __init__(self, sampler: Sampler, n: int, sequences_at_once: int = 128) -> None:
        self.sampler, self.n, self.sequences_at_once = sampler, n, sequences_at_once

    @property
    def other_engine(self) -> bool:
        """Whether another engine draws the n samples than scores them."""
        return self.sampler.other_engine

    def __call__(
        self, roles: Roles, role: Role, prompts: Sequence[Sequence[int]], *, k: int, temperature: float, seed: int
    ) -> Samples:
        """Return the best of n, `k` times for each prompt."""
        samples = self.sampler(roles, role, prompts, k=k * self.n, temperature=temperature, seed=seed)
        rewards = self._scores(roles, "reward", samples.batch).rewards
        best = rewards.reshape(-1, k, self.n).argmax(-1)
        index = best + best.new_ones(k).cumsum(0).sub(1) * self.n
        chosen = samples.batch.select(index).trimmed()
        logps = self._scores(roles, role, chosen).logps
        log_ratio = best_of_n_log_ratio(masked_sum(logps.double(), chosen.response_mask).exp(), self.n)
        return type(samples)(chosen, samples.ended.gather(1, index), log_ratio)

    def implicit_rewards(self, roles: Roles, batch: Batch) -> Tensor:
        """Return the reward, ``[B, K]``: log π_n/π rises with it."""
        rewards = self._scores(roles, "reward", batch).rewards
        return rewards

    def _scores(self, roles: Roles, role: Role, batch: Batch) -> Scores:
        from preflab.model.in_parts import score_in_parts

        longest = batch.prompt_ids.shape[1] + batch.response_ids.shape[2]
        size = rows_at_once(self.sequences_at_once, longest)
        return score_in_parts(roles, batch, (role,), max(1, size // batch.response_ids.shape[1]))
