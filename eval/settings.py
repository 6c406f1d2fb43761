"""Settings of the evaluation. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from preflab.settings.fields import option
from preflab.settings.training import MOST_AT_ONCE
from preflab.settings.values import LARGEST_SEED

LengthUnit = Literal["tokens", "characters"]

FEWEST_SAMPLES = 4  # of each prompt, by which the error of the oracle line can be told


@dataclass(frozen=True)
class EvalConfig:
    """How every method is judged: the same prompts, pairs and temperature for all."""

    eval_prompts: int = option(256, "held-out prompts that each policy answers once", minimum=2)
    eval_pairs: int = option(1000, "held-out preference pairs", minimum=2)
    eval_temperature: float = option(1.0, "temperature of the sampled responses", minimum=1e-3, maximum=1e3)
    eval_batch_size: int = option(32, "prompts or pairs scored at a time", minimum=1, maximum=MOST_AT_ONCE)
    eval_seed: int = option(0, "seed of the sampled responses", minimum=0, maximum=LARGEST_SEED)
    baseline_draws: int = option(
        4, "answers of the baseline to each prompt, which win rates are means over", minimum=1, maximum=10_000
    )
    length_unit: LengthUnit = option(
        "tokens", "what length-controlled win rates count lengths in; AlpacaEval's count characters"
    )
    oracle_samples: int = option(
        32,
        "the reference's samples of each prompt, from which the oracle line is drawn; 0: no line",
        minimum=0,
        maximum=100_000,
    )

    def __post_init__(self) -> None:
        if 0 < self.oracle_samples < FEWEST_SAMPLES:
            raise ValueError(
                f"oracle_samples is {self.oracle_samples}; the line needs at least {FEWEST_SAMPLES} samples of each "
                "prompt, and 0 leaves it out"
            )
