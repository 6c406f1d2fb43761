"""Annotators of the same pairs: how often intervals of share and kappa hold what more pairs would show.

    python -m benchmarks.validity.annotators [--write]

Each pair has a better answer; an annotator says tie on a tenth of them, and otherwise is right with a known chance. Of
five annotators each judges a random half of the pairs, as where people come and go.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.pages import table, write
from benchmarks.validity.human_verdicts import DRAWS, PAGE, TIES, marked
from benchmarks.validity.simulated import generator
from preflab.eval.statistics import agreement_of_several

RIGHT, PAIRS, ANNOTATORS = (0.6, 0.75, 0.9), (20, 50, 200), (2, 5)
HEADINGS = ("agreement, %", "kappa", "pairs", "annotators", "share, %", "kappa, %", "half width, kappa")


class Cell(NamedTuple):
    """A design: how often an annotator who does not tie is right, pairs, and annotators."""

    right: float
    pairs: int
    annotators: int


def truth(right: float) -> tuple[float, float]:
    """Return how often two annotators say the same, and their kappa."""
    share = TIES**2 + (1 - TIES) ** 2 * (right**2 + (1 - right) ** 2)
    chance = TIES**2 + (1 - TIES) ** 2 / 2
    return share, (share - chance) / (1 - chance)


def row(cell: Cell) -> list[str]:
    """Return how often the intervals hold the truth, and how wide that of kappa is."""
    rng, shape = generator("annotators", *cell), (cell.pairs, cell.annotators)
    share, kappa = truth(cell.right)
    held, width = np.zeros(2), 0.0
    for _ in range(DRAWS):
        said = np.where(rng.random(shape) < TIES, 0.5, rng.random(shape) < cell.right)
        if cell.annotators > 2:
            said[rng.random(shape) < 0.5] = np.nan
        found = agreement_of_several(said)
        assert found.kappa is not None
        held += found.share.low <= share <= found.share.high, found.kappa.low <= kappa <= found.kappa.high
        width += (found.kappa.high - found.kappa.low) / 2
    head = [f"{100 * share:.0f}", f"{kappa:.2f}", str(cell.pairs), str(cell.annotators)]
    return [*head, *map(marked, 100 * held / DRAWS), f"{width / DRAWS:.2f}"]


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate every design; print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    args = parser.parse_args(argv)
    cells = [Cell(right, pairs, many) for right in RIGHT for pairs in PAIRS for many in ANNOTATORS]
    found = table(HEADINGS, [row(cell) for cell in cells])
    print(found)
    if args.write:
        write(PAGE, "annotators", found)


if __name__ == "__main__":
    main()
