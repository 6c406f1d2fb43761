"""Equal methods, a reward model that favours one of them by chance: how often a test calls them different.

    python -m benchmarks.validity.replications [--write]

Two methods are drawn that are equally good over prompts, seeds and reward models. Every reward model gives an effect of
its own to the one that maximises it, or to both. Either all seeds share one reward model, or each seed has its own, and
methods are compared within replications or as if seed s of one had nothing to do with seed s of the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.pages import table, write
from benchmarks.validity.simulated import generator
from eval.statistics.variance import scale, spread

Array = NDArray[np.float64]

PAGE = Path(__file__).parents[2] / "docs" / "replications.md"
PROMPTS, DRAWS, TARGET, TOLERANCE = 200, 4000, 5.0, 1.5
DEVIATION = 1.4
"""Of rewards over prompts, as in the embedded world."""

SHARES = (0.4, 0.2, 0.4)
"""Of its variance: the prompt's, what a method makes of a prompt, the rest."""

OWN = 0.1
"""Standard deviation of what a method's own training gives to a seed: as large as what 200 prompts leave open."""

EFFECTS, SEEDS = (0.0, 0.05, 0.1, 0.2, 0.3), (2, 3, 4, 5)
HEADINGS = ("reward model's effect on", "its deviation", "seeds", "one for all seeds, %", "each seed's own, %",
            "each seed's own, paired, %")  # fmt: skip


def drawn(rng: np.random.Generator, seeds: int, effects: Sequence[float], *, shared: bool) -> list[Array]:
    """Return rewards ``[R, S, N]`` of two methods that are equally good on average.

    Args:
        rng: draws them.
        seeds: S.
        effects: deviation of what a reward model gives to each method.
        shared: whether all seeds have the same reward model.
    """
    prompt, taste, rest = (DEVIATION * np.sqrt(share) for share in SHARES)
    prompts = prompt * rng.normal(size=(DRAWS, 1, PROMPTS))
    model = np.repeat(rng.normal(size=(DRAWS, 1, 1)), seeds, 1) if shared else rng.normal(size=(DRAWS, seeds, 1))
    return [
        prompts
        + taste * rng.normal(size=(DRAWS, 1, PROMPTS))
        + rest * rng.normal(size=(DRAWS, seeds, PROMPTS))
        + OWN * rng.normal(size=(DRAWS, seeds, 1))
        + effect * model
        for effect in effects
    ]


def rejected(first: Array, second: Array, *, paired: bool) -> float:
    """Return how often of 100 an interval of the difference leaves 0 out."""
    per_prompt = first.mean(1) - second.mean(1)
    found = scale(spread(per_prompt, [first - second] if paired else [first, second]))
    return float(100 * (abs(per_prompt.mean(-1)) > found.critical(0.95) * found.error).mean())


def row(on: str, effect: float, seeds: int) -> list[str]:
    """Return how often equal methods are called different, by design."""
    effects = (0.0, effect) if on == "one" else (effect, effect)
    rng = generator("replications", on, effect, seeds)
    one = drawn(rng, seeds, effects, shared=True)
    own = drawn(rng, seeds, effects, shared=False)
    rates = [rejected(*one, paired=False), rejected(*own, paired=False), rejected(*own, paired=True)]
    return [on, f"{effect:g}", str(seeds), *(f"{x:.1f}" if near(x) else f"**{x:.1f}**" for x in rates)]


def near(rate: float) -> bool:
    """Return whether a rate is as near to 5 % as is asked for."""
    return abs(rate - TARGET) <= TOLERANCE


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate every design; print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    args = parser.parse_args(argv)
    rows = [row(on, effect, seeds) for on in ("one", "both") for effect in EFFECTS for seeds in SEEDS]
    found = table(HEADINGS, rows)
    print(found)
    if args.write:
        write(PAGE, "replications", found)


if __name__ == "__main__":
    main()
