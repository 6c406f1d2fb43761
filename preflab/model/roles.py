"""One frozen base, four roles: policy, reference, reward and value as LoRA adapters and scalar heads.

The base is loaded once. Every role is an adapter of its own name on it; reward and value read a
scalar head besides. The reference is the bare base, or, where training starts from an SFT adapter, a
frozen clone of *that* adapter: switching all adapters off would then give the wrong reference.
`preflab.model.role_adapters` keeps the adapters; here they score.

Three variations: the value may be a head on the policy's own adapter (`join_value`), the reward may be an
ensemble of reward models (`start_rewards`), and it may be a plain function (`reward_function`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preflab.method.contract import Batch, Mean, Role, Scores
from preflab.method.records import FIELDS
from preflab.model.halves import in_halves
from preflab.model.role_adapters import RoleAdapters
from preflab.model.work import NO_ADAPTER, Weights, Work, scored
from preflab.scoring.fused import late_layers
from preflab.scoring.logps import Scorer, spread
from preflab.settings.training import LoraSettings, Pool


class Roles(RoleAdapters):
    """The four roles on one base; one `forward` returns all that a loss needs.

    Args:
        model: frozen causal language model, as `load_base` returns it.
        settings: the adapters' shape.
        roles: roles that get an adapter of their own now; `start` adds others.
        seed: decides the fresh adapters and heads.
        temperature: divides the logits in every log-probability.

    Attributes:
        reward_function: where set, gives the rewards ``[B, K]`` of a batch in place of a reward model.
        reward_metrics: what a reward function says, for the log, of the batch that it scored last.
        work: the FLOPs of every pass made so far.
        autocast: run every pass in bfloat16, those of rollouts and references included, so that all round alike.
    """

    reward_function: Callable[[Batch], Tensor] | None = None
    reward_metrics: Callable[[], Mapping[str, Mean]] = dict
    autocast: bool = False

    def __init__(
        self,
        model: Any,
        settings: LoraSettings,
        roles: Sequence[Role] = ("policy",),
        *,
        seed: int = 0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(model, settings, seed=seed)
        self._members, self._pooled = ["reward"], POOLS["mean"]
        self.scorer = Scorer(self.model, temperature)
        self.work = Work(self.model)
        for role in roles:
            self.add(role)
        self.learn(())

    @property
    def gives_rewards(self) -> bool:
        """Whether responses can be scored by the role ``reward``."""
        return self.reward_function is not None or "reward" in self.heads

    @contextmanager
    def at_temperature(self, temperature: float) -> Iterator[None]:
        """Divide the logits by another temperature in every log-probability."""
        before, self.scorer.temperature = self.scorer.temperature, temperature
        try:
            yield
        finally:
            self.scorer.temperature = before

    @contextmanager
    def active(self, role: str, *, trained: bool = False) -> Iterator[None]:
        """Run the base with the adapter of a role as `RoleAdapters.active` does, by a path that knows its shape."""
        with super().active(role, trained=trained):
            before, self.scorer.by_hand = self.scorer.by_hand, self._is_plain(role, trained)
            try:
                yield
            finally:
                self.scorer.by_hand = before

    def _is_plain(self, role: str, trained: bool) -> bool:
        if not self.has(self._trunks.get(role, role)):
            return True
        shape = self.shape(role)
        return not (shape.use_dora or shape.lora_bias or (trained and self.settings.lora_dropout))

    def _try_paths(self, batch: Batch, role: str) -> None:
        """Let the scorer try its paths where it has not: with dropout no two passes would agree."""
        with self.active(role), torch.no_grad():
            self.scorer.path(batch)

    def passes(self, roles: Sequence[Role]) -> list[tuple[Role, ...]]:
        """Group roles by the adapter they read: each group takes one pass through the base."""
        groups: dict[str, list[Role]] = {}
        for role in roles:
            groups.setdefault(self._trunks.get(role, role), []).append(role)
        return [tuple(group) for group in groups.values()]

    def forward(self, batch: Batch, roles: Sequence[Role]) -> Scores:
        """Score a batch under some roles; gradients flow only to roles that learn.

        Reference scores that the batch has at hand (computed once, cached) are used as they are.
        """
        found: dict[str, Tensor] = {}
        for group in self.passes(roles):
            if group == ("reference",) and batch.reference_logps is not None:
                found["reference_logps"] = batch.reference_logps
                continue
            learns = torch.is_grad_enabled() and not self._learning.isdisjoint(group)
            if learns and self.settings.lora_dropout:
                self._try_paths(batch, group[0])
            with self.active(group[0], trained=learns), torch.set_grad_enabled(learns), self._precision():
                # What a person's function does when memory is out is not done twice.
                whole = learns or ("reward" in group and self.reward_function is not None)
                found |= self._score(batch, group) if whole else in_halves(self._score, batch, group)
            if "reward" not in group:
                self._account(batch, group[:1], learns, head=not AT_HEAD.isdisjoint(group))
            elif self.reward_function is None:
                self._account(batch, self._members, learns, last=True)
        return Scores(**found)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast or torch.is_autocast_enabled())

    def _account(
        self, batch: Batch, adapters: Sequence[str], learns: bool, *, last: bool = False, head: bool = False
    ) -> None:
        """Add a pass with each of some adapters to `work`."""
        for name in adapters:
            with self.active(name, trained=learns):
                passed = scored(batch, self.scorer.path(batch), last=last, head=head)
            self.work.add(passed, self.adapter_size(name), learns=learns, recomputes=learns and self._recomputes)

    def adapter_size(self, role: str) -> Weights:
        """Return the number of weights that a role's pass has beside the base's; none for the bare base."""
        trunk = self._trunks.get(role, role)
        if trunk not in self._sizes and self.has(trunk):
            late = {id(p) for layer in late_layers(self.model.base_model) for p in layer.parameters()}
            own = self.parameters_of(trunk)
            self._sizes[trunk] = Weights(sum(p.numel() for p in own), sum(p.numel() for p in own if id(p) in late))
        return self._sizes.get(trunk, NO_ADAPTER)

    def _score(self, batch: Batch, group: Sequence[Role]) -> dict[str, Tensor]:
        """Return what the roles of one pass say; ``states`` serve every role but the reward."""
        if "reward" in group:
            return {"rewards": self._rewards(batch)}
        states = self.scorer.states(batch) if "value" in group else None
        found: dict[str, Tensor] = {}
        for role in group:
            if role == "value":
                found["values"] = spread(self.head(role)(states), batch.response_mask)
            else:
                found[FIELDS[role]] = self.scorer.logps(batch, states)
        return found

    def _rewards(self, batch: Batch) -> Tensor:
        """Return the reward function's, the reward model's or the ensemble's scores, ``[B, K]``."""
        if self.reward_function is not None:
            return self.reward_function(batch)
        return self._scored_by(self._members, self._pooled, batch)

    def _scored_by(self, members: Sequence[str], pooled: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
        scores: list[Tensor] = []
        for member in members:
            with self.active(member):
                scores.append(self.head(member)(self.scorer.end_states(batch)))
        return scores[0] if len(scores) == 1 else pooled(torch.stack(scores))

    def raw_rewards(self, batch: Batch) -> Tensor:
        """Return the role ``reward``'s scores before they were normalised, ``[B, K]``: their differences are log-odds.

        An ensemble's pooled score is taken back by its members' means. A reward function's scores are as they are.
        """
        rewards: Tensor = self(batch, ("reward",)).rewards
        if self.reward_function is not None:
            return rewards
        heads = [self.head(member) for member in self._members]
        mean, std = (torch.stack([getattr(head, name) for head in heads]).mean() for name in ("mean", "std"))
        return mean + std * rewards

    def start_rewards(self, folders: Sequence[Path], pool: Pool = "mean") -> None:
        """Load the reward model, or an ensemble of them whose normalised scores are pooled.

        The worst case of an ensemble is a defence against over-optimisation (arXiv 2310.02743).

        Raises:
            UserError: as `start` does.
        """
        self.reward_function, self.reward_metrics = None, dict
        self._members = ["reward", *(f"reward_{number}" for number in range(2, len(folders) + 1))]
        self._pooled = POOLS[pool]
        for member, folder in zip(self._members, folders, strict=True):
            self.start(member, folder)

    def rewards_beside(self, folders: Sequence[Path], pool: Pool = "mean") -> Callable[[Batch], Tensor]:
        """Load reward models beside the role ``reward``, which stays as it is, and never learn them.

        Returns:
            What gives their pooled, normalised scores ``[B, K]`` of a batch.

        Raises:
            UserError: as `start` does.
        """
        # Adapters are never taken off, so that their number makes a name that no other has.
        taken = len(self.peft.peft_config)
        members = [f"reward_beside_{taken + number}" for number in range(len(folders))]
        for member, folder in zip(members, folders, strict=True):
            self.start(member, folder)
            for parameter in self.parameters_of(member):
                parameter.requires_grad_(False)

        @torch.no_grad()
        def score(batch: Batch) -> Tensor:
            with self._precision():
                found = self._scored_by(members, POOLS[pool], batch)
            self._account(batch, members, False, last=True)
            return found

        return score


AT_HEAD = {"policy", "reference"}
POOLS: dict[Pool, Callable[[Tensor], Tensor]] = {"mean": lambda x: x.mean(0), "worst": lambda x: x.amin(0)}
