"""Methods trained in the exact world through the whole pipeline, and how near each comes to its optimum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preflab.disk.stages import Stage
from preflab.eval.conformance.data import Labels, training_groups, unseen
from preflab.eval.conformance.exact import Exact, Position, explained
from preflab.eval.conformance.floor import exact_gradient
from preflab.eval.statistics import interval
from preflab.experiment.experiment import Experiment
from preflab.method.configured import Method
from preflab.method.contract import decoder_of
from preflab.seeds import derive

LEARNT_R2 = 0.99
TARGETS: dict[str, float] = {"exact": 0.005, "sampled": 0.02}
"""The most regret a method with a known optimum may keep, by what it is told of the preferences."""

DECODED = 512  # samples of each prompt, where a method's policy is known by its samples alone


@dataclass(frozen=True)
class Figures:
    """What became of one method; means over prompts and seeds.

    Attributes:
        method: its name.
        labels: ``exact``: told the reward or the probability of each preference; ``sampled``: told labels drawn.
        optimum: what it is held to: ``KL-regularised``, ``own``, ``r + constant`` or ``unknown``.
        regret: share of the possible gain that it leaves; None where no optimum is known.
        floor: what the exact gradient leaves with the same adapters, steps and schedule.
        r2: of a reward model, for r up to a constant a prompt, over the reference's responses.
        kl: KL(π‖π_ref), nats.
        optimal_kl: the same of the optimum.
        gain: E[r] over that of the reference.
        gain_low: lower end of its 95 % interval over prompts and seeds.
        gain_high: upper end.
        unseen: mass on responses of which offline data hold next to none (see `eval.conformance.data.unseen`).
        steps: optimiser steps.
        seconds: of training.
    """

    method: str
    labels: str
    optimum: str
    regret: float | None = None
    floor: float | None = None
    r2: float | None = None
    kl: float | None = None
    optimal_kl: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    unseen: float | None = None
    steps: int = 0
    seconds: float = 0.0

    @property
    def target(self) -> str | None:
        """What is asked of the method, None where nothing was trained that could miss it."""
        if self.regret is not None:
            return f"regret ≤ {100 * TARGETS[self.labels]:g} %"
        return f"R² ≥ {LEARNT_R2}" if self.r2 is not None else "gain > 0"

    @property
    def met(self) -> bool:
        """Whether the method did what is asked of it."""
        if self.regret is not None:
            return self.regret <= TARGETS[self.labels]
        if self.r2 is not None:
            return self.r2 >= LEARNT_R2
        return self.gain_low is not None and self.gain_low > 0

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-ready values."""
        return {**asdict(self), "met": self.met}


class Suite:
    """Trains methods in one exact world and measures them.

    Args:
        experiment: the world, with adapters that reach the output head too.
        plain: the same with adapters that leave it alone, for methods whose own trainer knows no others.
        groups: rows of offline data; a sampled label tells little, and what pairs are drawn matters to some optima.
        coverage: share of their responses drawn evenly from all there are.
    """

    def __init__(
        self, experiment: Experiment, plain: Experiment, *, groups: int = 153600, coverage: float = 0.0
    ) -> None:
        self._worlds = {"adapted": Exact(experiment), "plain": Exact(plain)}
        self._groups, self._coverage = groups, coverage
        self._floors: dict[str, float] = {}

    def labels(self, method: Method) -> tuple[Labels, ...]:
        """Return what a method can be told: pairs come with probabilities or drawn labels, rewards are exact."""
        responses = method.needs.responses
        if responses == "sampled":
            return ("exact",)
        if responses != "pair" or method.algorithm.kind == "trainer":
            return ("sampled",)
        if method.needs.trains[0] == "reward":
            return ("exact",)
        return ("sampled",) if self.optimum(method) is None else ("exact", "sampled")

    def measure(self, method: Method, labels: Labels, seeds: Sequence[int] = (0,)) -> Figures:
        """Train a method with each seed and return its figures.

        Raises:
            UserError: if the method cannot be trained with these settings.
        """
        exact, needs = self._exact(method), method.needs
        stages = [self._train(method, labels, seed) for seed in seeds]
        cost: dict[str, Any] = {
            "steps": int(stages[0].record["steps"]),
            "seconds": float(np.mean([stage.record["seconds"] for stage in stages])),
        }
        if needs.trains[0] == "reward":
            predicted = [exact.predicted_rewards(stage.folder / "reward") for stage in stages]
            fits = [explained(found, exact.rewards, exact.reference) for found in predicted]
            return Figures(method.label, labels, "r + constant", r2=float(torch.stack(fits).mean()), **cost)
        if (decode := decoder_of(method.algorithm)) is not None:
            positions = [self._decoded(decode, exact, seed) for seed in seeds]
            return Figures(method.label, labels, "unknown", **self._gain(exact, positions), **cost)
        logps = [exact.logps(stage.folder / "policy") for stage in stages]
        known: dict[str, Any] = {"optimum": "unknown"}
        optimum = self.optimum(method)
        if optimum is not None:
            known = {
                "optimum": self._kind(exact, optimum),
                "regret": float(torch.stack([exact.regret(p, optimum) for p in logps]).mean()),
                "floor": self.floor(method, optimum),
                "optimal_kl": float(exact.position(optimum).kl.mean()),
            }
        shown = 2 * self._groups // len(exact.groups)
        known["unseen"] = float(torch.stack([unseen(exact, p, self._coverage, shown) for p in logps]).mean())
        return Figures(method.label, labels, **known, **self._gain(exact, [exact.position(p) for p in logps]), **cost)

    def floor(self, method: Method, optimum: Tensor) -> float:
        """Return the regret that the exact gradient leaves with a method's adapters, steps and schedule."""
        exact = self._exact(method)
        train = replace(method.train, per_device_train_batch_size=len(exact.groups), gradient_accumulation_steps=1)
        towards = exact_gradient(exact.groups, optimum, train)
        stage = exact.experiment.train("floor", towards, groups=exact.groups)
        if stage.key not in self._floors:
            self._floors[stage.key] = float(exact.regret(exact.logps(stage.folder / "policy"), optimum).mean())
        return self._floors[stage.key]

    def _exact(self, method: Method) -> Exact:
        return self._worlds["adapted" if method.algorithm.kind == "loss" else "plain"]

    def optimum(self, method: Method) -> Tensor | None:
        """Return log π* ``[X, N]`` of a method in this world, or None where it is not known."""
        exact = self._exact(method)
        return method.algorithm.optimum(exact.batch, exact.scores)

    @staticmethod
    def _kind(exact: Exact, optimum: Tensor) -> str:
        """Tell the KL-regularised optimum, whose log-ratio is r/β + constant, from others."""
        return "KL-regularised" if _proportional(optimum - exact.reference, exact.rewards) else "own"

    def _train(self, method: Method, labels: Labels, seed: int) -> Stage:
        exact, needs = self._exact(method), method.needs
        uses_reward = needs.uses("reward") and "reward" not in needs.trains
        groups = None
        if needs.responses != "sampled":
            noise = method.algorithm.label_noise
            groups = training_groups(
                exact, needs.responses, self._groups, labels=labels, noise=noise, seed=seed, coverage=self._coverage
            )
        name = f"{method.label}-{labels}-seed{seed}"
        reward = exact.experiment.gold_reward() if uses_reward else None
        return exact.experiment.train(name, method, seed=seed, reward=reward, groups=groups)

    def _decoded(self, decode: Callable[[Any], Any], exact: Exact, seed: int) -> Position:
        """Estimate where a policy stands that is known by its samples alone."""
        experiment: Experiment = exact.experiment
        rewards = experiment.gold_reward()
        roles = experiment.open_roles(("policy", "reward"), sft=None, reward=rewards)
        samples = decode(experiment.sampler())(
            roles, "policy", experiment.prompts, k=DECODED, temperature=1.0, seed=derive(seed, "decoded")
        )
        return Position(rewards(samples.batch).double().mean(1), samples.log_ratio.double().mean(1))

    @staticmethod
    def _gain(exact: Exact, positions: Sequence[Position]) -> dict[str, Any]:
        start = exact.position(exact.reference).reward
        gains = interval(torch.stack([p.reward - start for p in positions]).numpy(), rate=False)
        kl = float(torch.stack([p.kl for p in positions]).mean())
        return {"kl": kl, "gain": gains.mean, "gain_low": gains.low, "gain_high": gains.high}


def _proportional(ratio: Tensor, rewards: Tensor) -> bool:
    """Whether log-ratios ``[X, N]`` are one multiple of r but for a constant a prompt."""
    ratio, rewards = (x - x.mean(1, keepdim=True) for x in (ratio, rewards))
    slope = (ratio * rewards).sum() / (rewards**2).sum()
    return bool((ratio - slope * rewards).abs().max() < 1e-6 * ratio.abs().max())
