"""Hold methods to the optimum they should reach, in a world small enough to know it exactly.

    preflab conformance                                        every registered method
    preflab conformance --algorithms dpo ppo --seeds 0 1 2
    preflab conformance --algorithms my_loss.py:MyLoss         a method of your own

Each method is trained through tokenizer, adapters, scoring and trainer; regret is the share of the possible
gain that it leaves, exactly. Beside it stands the floor: what the exact gradient leaves with the same adapters,
steps and schedule. Interrupted, the same command goes on where it stopped. Settings: eval/pipeline/configs/exact.yaml.
"""

from __future__ import annotations

from preflab.errors.answering import run_recipe
from preflab.eval.pipeline.conforming import CONFORM, conform
from preflab.eval.pipeline.session import Session

CONFIGS = CONFORM

OFTEN = {
    "what is held to its optimum": ("algorithms", "seeds", "checks"),
    "in which world": ("groups", "coverage", "tail", "lora_rank"),
    "and where": ("device", "threads", "output", "docs"),
}


def main() -> int:
    """Train each method, measure it, run the checks; one table, conformance.json and conformance.md."""
    preset = {"world": "exact", "output": "runs/conformance"}
    complaints = conform(Session.read(__doc__ or "", CONFIGS, preset=preset, often=OFTEN, stages=False))
    return int(bool(complaints))


if __name__ == "__main__":
    run_recipe(main)
