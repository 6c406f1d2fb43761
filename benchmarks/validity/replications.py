"""Equal methods, a reward model that favours one of them by chance: how often a test calls them different.

    python -m benchmarks.validity.replications [--write]

Two methods are drawn that are equally good over prompts, seeds and reward models. Every reward model gives an effect of
its own to the one that maximises it, or to both. Either all seeds share one reward model, or each seed has its own, and
methods are compared within replications or as if seed s of one had nothing to do with seed s of the other.

A second table is of tuning: the best of eight settings is picked, of one method or of both. Either by what they are
then tested on, or on other prompts and one replication of its own, as `--tune` does.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.pages import table, write
from benchmarks.validity.simulated import generator
from preflab.eval.statistics.variance import scale, spread

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
SETTINGS = 8
HEADINGS = ("reward model's effect on", "its deviation", "seeds", "one for all seeds, %", "each seed's own, %",
            "each seed's own, paired, %")  # fmt: skip
TUNED = ("settings' deviation", "reward model's", "seeds", "one tuned on the test, %", "both on the test, %",
         "both elsewhere, %")  # fmt: skip


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


def tuned_row(apart: float, effect: float, seeds: int) -> list[str]:
    """Return how often an interval misses the true difference of two tuned methods, by where they were tuned.

    Args:
        apart: standard deviation of the settings' true means.
        effect: of what a reward model gives to the second method, whichever its setting.
        seeds: S.
    """
    rng = generator("tuned", apart, effect, seeds)
    true = apart * rng.normal(size=(2, SETTINGS, DRAWS))
    effects = [*[0.0] * SETTINGS, *[effect] * SETTINGS]

    def measured(count: int) -> Array:
        tables = np.stack(drawn(rng, count, effects, shared=False)).reshape(2, SETTINGS, DRAWS, count, PROMPTS)
        return tables + true[..., None, None]

    tested, elsewhere = measured(seeds), measured(1).mean((3, 4))
    seen = tested.mean((3, 4))
    only = np.stack([seen[0].argmax(0), np.zeros(DRAWS, int)])
    missed = []
    for picked in (only, seen.argmax(1), elsewhere.argmax(1)):
        first, second = (tested[method, picked[method], np.arange(DRAWS)] for method in (0, 1))
        apart_by = true[0, picked[0], np.arange(DRAWS)] - true[1, picked[1], np.arange(DRAWS)]
        missed.append(rejected(first - apart_by[:, None, None], second, paired=True))
    texts = (f"{x:.1f}" if near(x) else f"**{x:.1f}**" for x in missed)
    return [f"{apart:g}", f"{effect:g}", str(seeds), *texts]


def near(rate: float) -> bool:
    """Return whether a rate is as near to 5 % as is asked for."""
    return abs(rate - TARGET) <= TOLERANCE


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate every design; print the tables, and write them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    args = parser.parse_args(argv)
    rows = [row(on, effect, seeds) for on in ("one", "both") for effect in EFFECTS for seeds in SEEDS]
    tuned = [tuned_row(apart, effect, seeds) for apart in (0.0, OWN) for effect in EFFECTS for seeds in SEEDS[1:]]
    for name, found in (("replications", table(HEADINGS, rows)), ("tuned", table(TUNED, tuned))):
        print(found)
        if args.write:
            write(PAGE, name, found)


if __name__ == "__main__":
    main()
