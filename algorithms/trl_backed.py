"""TRL's own trainers under our interface: same data, order, adapters, budget and evaluation."""

from __future__ import annotations

from typing import Any

from preflab import UserError
from preflab.algorithms.dpo import DPO
from preflab.algorithms.grpo import GRPO
from preflab.algorithms.kto import KTO
from preflab.algorithms.reward import Reward
from preflab.algorithms.rloo import RLOO
from preflab.algorithms.sft import SFT
from preflab.training.trl import Backing, Renamed, TRLBacked


class TRLSFT(TRLBacked):
    """SFT by TRL's SFTTrainer (loss type ``nll``, on the response alone)."""

    native = SFT
    backing = Backing(
        trainer="SFTTrainer",
        config="SFTConfig",
        row=lambda group: {
            "input_ids": group.prompt_ids + group.response_ids[0],
            "labels": [-100] * len(group.prompt_ids) + group.response_ids[0],
        },
        fields=lambda config, task: {
            "max_length": None,
            "loss_type": "nll",
            "packing": False,
            "padding_free": False,
            "shuffle_dataset": False,
            "router_aux_loss_coef": 0.0,
        },
        metrics=lambda config: {"loss": Renamed("nll")},
    )


class TRLDPO(TRLBacked):
    """DPO by TRL's DPOTrainer (loss types ``sigmoid`` and ``sigmoid_norm``)."""

    native = DPO
    backing = Backing(
        trainer="DPOTrainer",
        config="DPOConfig",
        row=lambda group: {
            "prompt_ids": group.prompt_ids,
            "chosen_ids": group.response_ids[0],
            "rejected_ids": group.response_ids[1],
        },
        fields=lambda config, task: {
            "max_length": None,
            "disable_dropout": True,
            "beta": config.beta,
            "loss_type": ["sigmoid_norm" if config.length_normalised else "sigmoid"],
            "loss_weights": None,
            "label_smoothing": 0.0,
            "ld_alpha": None,
            "f_divergence_type": "reverse_kl",
            "use_weighting": False,
            "sync_ref_model": False,
            "precompute_ref_log_probs": False,
            "router_aux_loss_coef": 0.0,
        },
        only={"label_smoothing": 0.0},  # TRL has the field, for losses that are other methods here
        metrics=lambda config: {
            "rewards/accuracies": Renamed("accuracy"),
            "rewards/margins": Renamed("margin", 1 / config.beta),
            "logps/chosen": Renamed("chosen_logps"),
            "logps/rejected": Renamed("rejected_logps"),
        },
    )


class TRLKTO(TRLBacked):
    """KTO by TRL's KTOTrainer (loss type ``kto``), which estimates z0 from each micro-batch by itself."""

    native = KTO
    backing = Backing(
        trainer="KTOTrainer",
        config="KTOConfig",
        row=lambda group: {
            "prompt_ids": group.prompt_ids,
            "completion_ids": group.response_ids[0],
            "KL_completion_ids": group.response_ids[1],
            "label": bool(group.feedback["desirable"]),
        },
        fields=lambda config, task: {
            "max_length": None,
            "disable_dropout": True,
            "beta": config.beta,
            "desirable_weight": config.desirable_weight,
            "undesirable_weight": config.undesirable_weight,
            "loss_type": "kto",
            "sync_ref_model": False,
            "precompute_ref_log_probs": False,
            "router_aux_loss_coef": 0.0,
        },
        metrics=lambda config: {
            "rewards/chosen": Renamed("desirable_logratio", 1 / config.beta),
            "rewards/rejected": Renamed("undesirable_logratio", 1 / config.beta),
            "kl": Renamed("z0"),
        },
    )


class TRLReward(TRLBacked):
    """Reward modelling by TRL's RewardTrainer, with the data's margins where they have them."""

    native = Reward
    backing = Backing(
        trainer="RewardTrainer",
        config="RewardConfig",
        row=lambda group: {
            "chosen_ids": group.prompt_ids + group.response_ids[0],
            "rejected_ids": group.prompt_ids + group.response_ids[1],
            **{name: value for name, value in group.feedback.items() if name == "margin"},
        },
        scalar=True,
        fields=lambda config, task: {
            "max_length": None,
            "disable_dropout": True,
            "center_rewards_coefficient": config.centre_coefficient or None,
        },
        only={"label_smoothing": 0.0},
    )


NO_CLIP = 1e9  # no ratio comes near
ROLLOUT_METRICS = {
    "completions/mean_length": Renamed("response_length"),
    "kl": Renamed("kl_per_token"),  # ours is per response
}
ONLY = {
    "kl_target": None,
    "missing_end_penalty": None,
    "missing_end_score": None,
    "stop_kl": None,
    "reference_mixup": 0.0,
    "sampler": "transformers",
}


def _policy_gradient_fields(config: Any) -> dict[str, Any]:
    """Return what the configs of TRL's two policy-gradient trainers share."""
    return {
        "beta": config.kl_coefficient,
        "epsilon": NO_CLIP if config.clip_range is None else config.clip_range,
        "epsilon_high": config.clip_range_high,
        "router_aux_loss_coef": 0.0,
    }


class TRLRLOO(TRLBacked):
    """RLOO by TRL's RLOOTrainer, which cuts each rollout into minibatches of samples, not of prompts."""

    native = RLOO
    backing = Backing(
        trainer="RLOOTrainer",
        config="RLOOConfig",
        row=lambda group: {"prompt": group.prompt_ids},
        fields=lambda config, task: {
            **_policy_gradient_fields(config),
            "normalize_advantages": config.whiten_advantages,
            "reward_clip_range": None,
        },
        only={**ONLY, "kl_in": "reward", "kl_estimator": "k1"},
        metrics=lambda config: {**ROLLOUT_METRICS, "loss": Renamed("policy_loss")},
    )


def _grpo_fields(config: Any, task: Any) -> dict[str, Any]:
    """Return the fields of TRL's GRPO.

    Raises:
        UserError: for a constant that is not TRL's.
    """
    if config.loss_normalisation == "constant" and config.loss_constant != task.max_response_tokens:
        raise UserError(
            f"GRPOTrainer of TRL divides by the length limit; set loss_constant to {task.max_response_tokens}"
        )
    return {
        **_policy_gradient_fields(config),
        "scale_rewards": config.scale_rewards,
        "loss_type": {"response": "grpo", "token": "dapo", "constant": "dr_grpo"}[config.loss_normalisation],
        "importance_sampling_level": "token",
        "multi_objective_aggregation": "sum_then_normalize",
        "delta": None,
        "top_entropy_quantile": 1.0,
        "entropy_coef": 0.0,
        "use_adaptive_entropy": False,
        "off_policy_mask_threshold": None,
        "use_bias_correction_kl": False,
    }


class TRLGRPO(TRLBacked):
    """GRPO by TRL's GRPOTrainer, which cuts each rollout into minibatches of samples, not of prompts.

    Its token mean (loss type ``dapo``) is over the tokens of the whole rollout, shared out evenly to its steps.
    """

    native = GRPO
    backing = Backing(
        trainer="GRPOTrainer",
        config="GRPOConfig",
        row=lambda group: {"prompt": group.prompt_ids},
        fields=_grpo_fields,
        only={**ONLY, "kl_in": "loss", "kl_estimator": "k3"},
        metrics=lambda config: ROLLOUT_METRICS,
    )
