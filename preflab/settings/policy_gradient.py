"""Fields of the policy gradients: what all of them have, those by token, those with a critic."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Literal

from preflab.settings.fields import option
from preflab.settings.training import RolloutConfig, TrainConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PolicyGradientConfig(RolloutConfig):
    """What every policy-gradient method has: the price of KL, missing end tokens, the clip of the ratio."""

    kl_coefficient: float = option(0.05, "β: price of a nat of KL to the reference", minimum=0.0, tuned=(0.2, 5.0))
    kl_estimator: Literal["k1", "k2", "k3"] = option("k1", "estimator of the KL of an action, from its log-ratio")
    kl_in: Literal["reward", "loss"] = option("reward", "where β · KL is charged")
    kl_target: float | None = option(None, "adapt β so that KL (k1, nats per response) comes near this", minimum=1e-6)
    kl_horizon: float = option(10_000.0, "responses over which an error of the KL moves β by its own size", minimum=1.0)
    missing_end_penalty: float | None = option(
        None, "subtracted from the score of a response cut at the length limit", minimum=0.0
    )
    missing_end_score: float | None = option(None, "the score of a response cut at the length limit")
    clip_range: float | None = option(None, "ε: the ratio's gain ends at 1 ± ε; none: no clip", minimum=1e-6)
    clip_range_high: float | None = option(None, "ε above 1, if it is another one", minimum=1e-6)
    importance_cap: float = option(
        2.0, "where another engine samples: the most that an action's weight π_old/π_engine can be", minimum=1.0
    )

    def __post_init__(self) -> None:
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError(
                "kl_estimator k1 with kl_in: loss has no effect: the gradient of log π is zero on average; "
                "set kl_estimator to k2 or k3, or kl_in to reward"
            )
        if self.kl_target is not None and self.kl_coefficient == 0:
            raise ValueError("kl_target multiplies kl_coefficient, which is 0 and so stays 0; start from another one")
        if self.missing_end_penalty is not None and self.missing_end_score is not None:
            raise ValueError("missing_end_penalty and missing_end_score say different things; set one of them")
        if self.clip_range is None and self.clip_range_high is not None:
            raise ValueError("clip_range_high needs a clip_range")

    @property
    def clip(self) -> tuple[float | None, float | None]:
        """How far below and above 1 the ratio still gains; None: any distance."""
        return self.clip_range, self.clip_range if self.clip_range_high is None else self.clip_range_high

    @property
    def unit(self) -> Literal["response", "token"]:
        """What the loss is averaged over."""
        return "response"


@dataclass(frozen=True)
class TokenPolicyGradientConfig(PolicyGradientConfig):
    """How the losses of tokens are weighed, beside the fields of every policy-gradient method."""

    loss_normalisation: Literal["token", "response", "constant"] = option(
        "token",
        "token: mean over all tokens of an optimiser batch; response: mean over those of a response, then over "
        "responses; constant: sum over those of a response, by loss_constant",
    )
    loss_constant: float = option(
        1.0, "what the sum is divided by with loss_normalisation: constant, such as the length limit", minimum=1e-6
    )

    @property
    def unit(self) -> Literal["response", "token"]:
        """What the loss is averaged over."""
        return "token" if self.loss_normalisation == "token" else "response"


@dataclass(frozen=True)
class ActorCriticConfig(TokenPolicyGradientConfig):
    """Fields of methods with a value function, beside those of every token-wise policy-gradient method."""

    gamma: float = option(1.0, "discount γ", minimum=0.0, maximum=1.0)
    gae_lambda: float = option(0.95, "λ of generalised advantage estimation", minimum=0.0, maximum=1.0)
    value_coefficient: float = option(
        0.1, "c: weight of the value loss; under Adam it moves a value on the policy's trunk alone", minimum=0.0
    )
    value_learning_rate: float | None = option(
        None,
        "peak learning rate of a value with an adapter of its own, whose gradients are then clipped apart; none: "
        "learning_rate, and one norm with the policy's",
        minimum=0.0,
        maximum=1e3,
        keyed="changed",
    )
    value_trunk: Literal["own", "policy"] = option(
        "own", "own: an adapter for the value; policy: a head on the policy's, which learns from both losses"
    )
    value_warmup_rollouts: int = option(0, "rollouts on which only the value learns", minimum=0)
    whiten_advantages: bool = option(True, "give advantages zero mean and unit variance over the rollout")
    whiten_rewards: bool = option(False, "give token rewards unit variance over the rollout (mean kept)")
    bootstrap_truncated: bool = option(
        False, "a response cut at the length limit gets the value of its last state in place of a score"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bootstrap_truncated and (self.missing_end_penalty, self.missing_end_score) != (None, None):
            raise ValueError("bootstrap_truncated replaces the score that missing_end_* would change; set one of them")
        if self.value_learning_rate is not None and self.value_trunk == "policy":
            raise ValueError(
                "value_learning_rate is that of a value with an adapter of its own; with value_trunk: policy set "
                "value_coefficient"
            )

    def check(self, train: TrainConfig) -> None:
        """Check as every rollout's config does, and say what has no effect."""
        super().check(train)
        usual = type(self).__dataclass_fields__["value_coefficient"].default
        if self.value_trunk == "own" and self.value_coefficient not in (0, usual) and train.optim != "sgd":
            _say_idle_coefficient(self.value_coefficient)


@functools.cache
def _say_idle_coefficient(coefficient: float) -> None:
    logger.warning(
        "value_coefficient %s hardly moves a value with an adapter of its own: the optimiser divides each gradient by "
        "its size, so that it counts in the clip of gradients alone; set value_learning_rate",
        coefficient,
    )
