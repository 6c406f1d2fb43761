"""Exact values in a world whose responses can all be enumerated: expectations are sums, and the optimum is known.

With a(y) = r(y)/β, π* ∝ π_ref e^a and J(π) = E_π[r] − β KL(π‖π_ref), each prompt has

    J(π*) − J(π) = β KL(π‖π*),    as    log π* = log π_ref + r/β − log Z    and    J(π*) = β log Z,

so the share of the possible gain that a policy leaves,

    regret = (J* − J(π)) / (J* − J(π_ref)) = Σ_x KL(π‖π*) / Σ_x KL(π_ref‖π*),

needs nothing but log π*. It is defined so for any method that says where it converges to, whatever its
objective, and is 0 at that place and 1 at the reference.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.errors import UserError
from preflab.experiment.experiment import Experiment
from preflab.method.contract import Role, Scores
from preflab.method.maths import kl_regularised_optimum, masked_sum
from preflab.model.roles import Roles

MOST_RESPONSES = 100_000


class Position(NamedTuple):
    """Where a policy stands; every field ``[X]``, one value a prompt, float64.

    Attributes:
        reward: E_π[r].
        kl: KL(π‖π_ref), nats.
    """

    reward: Tensor
    kl: Tensor


def enumerate_responses(experiment: Experiment) -> list[EncodedGroup]:
    """Return every prompt with every possible response: those that end, shortest first, then those cut.

    Raises:
        UserError: if there are too many to enumerate.
    """
    end, limit = experiment.encoder.eos, experiment.max_response_tokens
    symbols = [token for token in range(len(experiment.tokenizer)) if token != end]
    count = sum(len(symbols) ** n for n in range(limit + 1))
    if not experiment.world.cut or count * len(experiment.prompts) > MOST_RESPONSES:
        raise UserError(f"the {experiment.world.name} world's responses cannot be enumerated; use --world exact")
    ended = [[*ids, end] for n in range(limit) for ids in itertools.product(symbols, repeat=n)]
    responses = ended + [list(ids) for ids in itertools.product(symbols, repeat=limit)]
    return [EncodedGroup(prompt, responses, row) for row, prompt in enumerate(experiment.prompts)]


class Exact:
    """Every response to every prompt of an experiment, with its true reward and its reference probability.

    Args:
        experiment: a world whose responses can be enumerated.
        temperature: divides the reference's logits.

    Attributes:
        groups: prompts and responses.
        batch: the same, ``[X, N, T]``.
        rewards: r, float64 ``[X, N]``.
        reference: log π_ref(y|x), float64 ``[X, N]``.
        scores: what `KnownOptimum.optimum` reads, float64.
    """

    def __init__(self, experiment: Experiment, temperature: float = 1.0) -> None:
        self.experiment = experiment
        self.groups = enumerate_responses(experiment)
        self.batch = collate(self.groups, experiment.tokenizer.pad_token_id)
        self.rewards = experiment.gold_reward()(self.batch).double()
        roles = experiment.open_roles(("policy",), sft=None, reward=None, temperature=temperature)
        tokens = self.token_logps(roles, "reference")
        self.reference = masked_sum(tokens, self.batch.response_mask)
        self.scores = Scores(reference_logps=tokens, rewards=self.rewards)

    @torch.no_grad()
    def token_logps(self, roles: Roles, role: Role) -> Tensor:
        """Return log π(y_t | x, y_<t) of every response, float64 ``[X, N, T]``."""
        # A model's first batch is scored several ways: let that be a small one.
        roles(self.batch.select(torch.zeros(len(self.groups), 2, dtype=torch.long)), (role,))
        scores: Scores = roles(self.batch.to(roles.device), (role,))
        logps = scores.logps if role == "policy" else scores.reference_logps
        return logps.double().cpu()

    def logps(self, folder: Path) -> Tensor:
        """Return log π(y|x) of a saved policy adapter, float64 ``[X, N]``."""
        return masked_sum(self.token_logps(self.opened(folder), "policy"), self.batch.response_mask)

    def opened(self, folder: Path) -> Roles:
        """Return roles whose policy is a saved adapter, beside the reference."""
        roles = self.experiment.open_roles(("policy",), sft=None, reward=None)
        roles.start("policy", folder)
        return roles

    def mixed_by_token(self, tokens: Tensor, share: float) -> Tensor:
        """Return log π_λ(y|x), ``[X, N]``, where each next token's log-probabilities are mixed and normalised.

            log π_λ(y_t | x, y_<t) = (1 − λ) log π_ref(y_t|·) + λ log π(y_t|·) − log Z(x, y_<t)    (arXiv 2402.02992)

        The sum Z is over all tokens that continue y_<t, which the responses that begin so have between them.

        Args:
            tokens: log π(y_t | x, y_<t) of every response, float64 ``[X, N, T]``.
            share: λ; 0 is the reference, 1 the policy.
        """
        assert self.scores.reference_logps is not None
        mixed = (1.0 - share) * self.scores.reference_logps + share * tokens
        # The same responses to every prompt.
        ids, mask, total = self.batch.response_ids[0], self.batch.response_mask[0], torch.zeros_like(self.rewards)
        for t in range(ids.shape[1]):
            rows = mask[:, t].nonzero().squeeze(1)
            steps, step_of = torch.unique(ids[rows, : t + 1], dim=0, return_inverse=True)
            before = steps.clone()
            before[:, t] = 0
            prefixes, prefix_of = torch.unique(before, dim=0, return_inverse=True)
            one = rows.new_zeros(len(steps)).scatter_(0, step_of, rows)  # a response that takes the step, whichever
            sums = mixed.new_zeros(len(mixed), len(prefixes)).index_add_(1, prefix_of, mixed[:, one, t].exp())
            total[:, rows] += mixed[:, rows, t] - sums.log()[:, prefix_of[step_of]]
        return total

    def mixed_by_response(self, logps: Tensor, share: float) -> Tensor:
        """Return log π_λ(y|x) of π_λ ∝ π_ref^(1 − λ) π^λ over whole responses, ``[X, N]``, for a share λ above 0.

        It is the KL-regularised optimum of the policy's own log-ratio at β = 1/λ; of an optimum π*_β, it is π*_{β/λ}.
        """
        possible = self.batch.response_mask.any(-1)
        return kl_regularised_optimum(self.reference, logps - self.reference, 1.0 / share, possible)

    @torch.no_grad()
    def predicted_rewards(self, folder: Path) -> Tensor:
        """Return r̂(x, y) of a saved reward model before its normalisation, float64 ``[X, N]``."""
        roles = self.experiment.open_roles(("reward",), sft=None, reward=None, trains=("reward",))
        roles.start("reward", folder)
        roles(self.batch.select(torch.zeros(len(self.groups), 2, dtype=torch.long)), ("reward",))
        rewards: Tensor = roles(self.batch.to(roles.device), ("reward",)).rewards
        head = roles.head("reward")
        return (rewards * head.std + head.mean).double().cpu()

    def position(self, logps: Tensor) -> Position:
        """Return where a policy ``[X, N]`` stands."""
        probabilities = logps.exp()
        return Position((probabilities * self.rewards).sum(1), kl(logps, self.reference))

    def kl_optimum(self, beta: float) -> Tensor:
        """Return log π* of E[r] − β KL(π‖π_ref), ``[X, N]``."""
        return kl_regularised_optimum(self.reference, self.rewards, beta, self.batch.response_mask.any(-1))

    def regret(self, logps: Tensor, optimum: Tensor) -> Tensor:
        """Return the normalised regret per prompt, ``[X]``, whose mean is the regret (see the module)."""
        return kl(logps, optimum) / kl(self.reference, optimum).mean()


def kl(logps: Tensor, others: Tensor) -> Tensor:
    """Return KL(π‖π'), ``[X]``, of log-probabilities ``[X, N]`` of every response."""
    probabilities = logps.exp()
    # 0 · log 0 is 0 where a policy rules a response out.
    return (probabilities * (logps - others)).masked_fill(probabilities == 0, 0.0).sum(1)


def explained(predicted: Tensor, rewards: Tensor, reference: Tensor) -> Tensor:
    """Return R² of ``r̂ [X, N]`` for r over the reference's responses, ``[X]``; a constant a prompt is free.

        1 − Var(r̂ − r) / Var(r),    y ~ π_ref(·|x)

    Args:
        predicted: r̂.
        rewards: r.
        reference: log π_ref.
    """
    weights = reference.exp()

    def variance(values: Tensor) -> Tensor:
        mean = (weights * values).sum(1, keepdim=True)
        return (weights * (values - mean) ** 2).sum(1)

    return 1 - variance(predicted - rewards) / variance(rewards)
