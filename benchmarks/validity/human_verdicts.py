"""A judge that errs, and a few human verdicts: how often intervals of a win rate hold what people would say.

    python -m benchmarks.validity.human_verdicts [--write]

People prefer the first of two methods at a known rate, and tie on a tenth of the prompts. A judge decides all prompts;
it never ties, and errs mostly for the first method. People judge a random few. Counted are the intervals by the judge
alone, by people alone (the t interval of their mean), and by both (`eval.statistics.prediction_powered`). With several
seeds both true rate and lean differ from seed to seed, and people judge as many answers of each.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.pages import table, write
from benchmarks.validity.simulated import generator
from preflab.eval.metrics.win_rate import WIN_RATE
from preflab.eval.statistics import interval, prediction_powered

Array = NDArray[np.float64]

PAGE = Path(__file__).parents[2] / "docs" / "human_verdicts.md"
DRAWS, TARGET, TOLERANCE = 2000, 95.0, 1.5
TIES = 0.1
LEAN = 0.6
"""Of a judge's errors: 0.8 of them are for the first method, 0.2 for the second."""

APART = 0.05, 0.3
"""Deviations over seeds: of the true rate, and of the lean."""

SHARED = 0.6
"""Of what people prefer: the deviation that seeds have in common on a prompt, of 1."""

RATES, RIGHT, ASKED, PROMPTS = (0.5, 0.7, 0.85), (0.67, 0.83, 0.98), (20, 50, 100), (200, 1000)
HEADINGS = (
    "win rate, %",
    "agreement, %",
    "prompts",
    "human verdicts",
    "judge alone, %",
    "people alone, %",
    "both, %",
    "half width, people",
    "half width, both",
    "judge counts",
)


class Cell(NamedTuple):
    """A design.

    Attributes:
        rate: how often people prefer the first method, ties as half.
        right: how often the judge says so too, or the contrary, where they do: as far as there is as much to err on.
        prompts: N, all of which it decides.
        asked: human verdicts, over all seeds.
        seeds: S.
    """

    rate: float
    right: float
    prompts: int
    asked: int
    seeds: int = 1


def drawn(rng: np.random.Generator, cell: Cell) -> tuple[Array, Array]:
    """Return what people would say of every answer, and what the judge says, ``[S, N]``."""
    from scipy.special import ndtr

    shape, several = (cell.seeds, cell.prompts), cell.seeds > 1
    rate = cell.rate + several * APART[0] * rng.normal(size=(cell.seeds, 1))
    lean = np.clip(LEAN + several * APART[1] * rng.normal(size=(cell.seeds, 1)), -1.0, 1.0)
    latent = SHARED * rng.normal(size=shape[1:]) + np.sqrt(1 - SHARED**2) * rng.normal(size=shape)
    place, wins = ndtr(latent), np.clip(rate - TIES / 2, 0.01, 1 - TIES - 0.01)
    human = np.where(place < wins, 1.0, np.where(place < wins + TIES, 0.5, 0.0))
    # So many of all decided verdicts are wrong, by the lean for the first or for the second method.
    wrong, decided = 1.0 - cell.right, 1.0 - TIES
    lost = wrong * decided * (1 - lean) / 2 / wins
    won = wrong * decided * (1 + lean) / 2 / (decided - wins)
    for_first = np.select([human == 1.0, human == 0.0], [1.0 - lost, won + 0.0 * place], (1 + lean) / 2)
    return human, (rng.random(shape) < for_first).astype(np.float64)


def asked_of(rng: np.random.Generator, human: Array, asked: int) -> Array:
    """Return the verdicts on a random part of each seed's answers, NaN elsewhere."""
    order = rng.random(human.shape).argsort(1)
    return np.where(order < asked // len(human), human, np.nan)


def row(cell: Cell) -> list[str]:
    """Return how often each interval holds the true rate, and how wide the two with people are."""
    rng = generator("human verdicts", *cell)
    held, widths, means = np.zeros((DRAWS, 3)), np.zeros((DRAWS, 2)), np.zeros((DRAWS, 2))
    for at in range(DRAWS):
        human, judged = drawn(rng, cell)
        some = asked_of(rng, human, cell.asked)
        both = prediction_powered(judged, some)
        people = [interval(rows[np.isfinite(rows)], rate=False) for rows in some] if cell.seeds == 1 else []
        found = [WIN_RATE.estimate(judged), *people, both.estimate]
        for place, one in zip((0, 1, 2) if people else (0, 2), found, strict=True):
            held[at, place] = one.low <= cell.rate <= one.high
            if place:
                widths[at, place - 1] = (one.high - one.low) / 2
        means[at] = (human == judged).mean(), both.weight
    rates, wide = 100 * held.mean(0), 100 * widths.mean(0)
    shown = [marked(rate) for rate in rates]
    halves = [f"{half:.1f}" for half in wide]
    if cell.seeds > 1:
        shown[1] = halves[0] = "–"
    agree, weight = means.mean(0)
    head = [f"{100 * cell.rate:g}", f"{100 * agree:.0f}", str(cell.prompts), str(cell.asked)]
    return [*head, *shown, *halves, f"{weight:.2f}"]


def marked(rate: float) -> str:
    """Return a percentage, in bold where it is not what it should be."""
    return f"{rate:.1f}" if abs(rate - TARGET) <= TOLERANCE else f"**{rate:.1f}**"


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate every design; print the tables, and write them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    args = parser.parse_args(argv)
    one = [Cell(rate, right, n, asked) for rate in RATES for right in RIGHT for n in PROMPTS for asked in ASKED]
    three = [Cell(rate, right, 400, asked, 3) for rate in RATES[:2] for right in RIGHT for asked in (30, 90, 300)]
    for name, cells in (("human-verdicts", one), ("human-verdicts-seeds", three)):
        found = table(HEADINGS, [row(cell) for cell in cells])
        print(found)
        if args.write:
            write(PAGE, name, found)


if __name__ == "__main__":
    main()
