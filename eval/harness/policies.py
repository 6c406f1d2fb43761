"""What is evaluated as a policy: what it samples with, and what it says of responses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from preflab.eval.harness.divergence import Figures, figures_of, mixed_distributions, policy_figures
from preflab.eval.harness.rows import Tokens
from preflab.experiment.experiment import Experiment
from preflab.method.contract import Batch
from preflab.method.maths import masked_sum
from preflab.model.roles import Roles
from preflab.sampling.mixing import MixedSampler
from preflab.sampling.sampler import Sampler, TransformersSampler


@dataclass(frozen=True)
class Policy:
    """A policy, which may have weights of its own, beside the base that the reference stands on.

    Attributes:
        roles: has the role ``policy``.
        tokens: the rows in its tokens.
        comparable: whether its tokens are the reference's, so that log π/π_ref means something.
        exact: whether the two have one vocabulary, output for output, so that the exact KL does too.
    """

    roles: Roles
    tokens: Tokens
    comparable: bool = True
    exact: bool = True

    @property
    def pad_id(self) -> int:
        """What padding is filled with in its tokens."""
        found: int = self.tokens.tokenizer.pad_token_id
        return found

    def sampler(self, experiment: Experiment, batch_size: int) -> Sampler:
        """Return what draws its responses."""
        if (self.tokens.tokenizer, self.tokens.ends) == (experiment.tokenizer, experiment.ends):
            return experiment.sampler(batch_size=batch_size)
        limit = experiment.max_response_tokens
        return TransformersSampler(self.tokens.ends, self.pad_id, limit, batch_size=batch_size)

    def figures(self, reference: Roles, batch: Batch, temperature: float) -> Figures:
        """Return what it says of responses on its device; against the reference, where it is `exact`."""
        return policy_figures(self.roles, reference if self.exact else None, batch, temperature)

    def likelihoods(self, reference: Roles, batch: Batch) -> dict[str, Tensor]:
        """Return of each response, ``[B, K]``: ``logp``, log π(y|x), and ``score``, log π(y|x) − log π_ref(y|x).

        The score is DPO's implicit reward over β, for any policy; it is left out where tokens differ.
        """
        own, mask = self.roles, batch.response_mask.to(self.roles.device)
        if own is reference:
            scores = own(batch.to(own.device), ("policy", "reference"))
            logps, reference_logps = scores.logps, scores.reference_logps
        else:
            logps = own(batch.to(own.device), ("policy",)).logps
            if not self.comparable:
                return {"logp": masked_sum(logps.double(), mask)}
            reference_logps = reference(batch.to(reference.device), ("reference",)).reference_logps.to(own.device)
        ratios = masked_sum(logps.double() - reference_logps.double(), mask)
        return {"score": ratios, "logp": masked_sum(logps.double(), mask)}


@dataclass(frozen=True)
class MixedPolicy(Policy):
    """A share of the way from the reference to the policy of the same roles, log-probabilities mixed at every token.

    Attributes:
        share: λ, 0 the reference and 1 the policy; see `preflab.sampling.mixing`.
    """

    share: float = 1.0

    def sampler(self, experiment: Experiment, batch_size: int) -> Sampler:
        """Return what draws its responses."""
        limit = experiment.max_response_tokens
        return MixedSampler(self.share, self.tokens.ends, self.pad_id, limit, batch_size=batch_size)

    def figures(self, reference: Roles, batch: Batch, temperature: float) -> Figures:
        """Return what the mixture says of responses, against the reference."""
        own = mixed_distributions(self.roles, self.share, batch, temperature)
        return figures_of(own, reference, batch, temperature)

    @torch.no_grad()
    def likelihoods(self, reference: Roles, batch: Batch) -> dict[str, Tensor]:
        """Return ``logp`` and ``score`` of each response, ``[B, K]``, as any policy does."""
        found = self.figures(reference, batch.to(self.roles.device), self.roles.scorer.temperature)
        assert found.log_ratio is not None
        return {"score": found.log_ratio, "logp": found.logp}
