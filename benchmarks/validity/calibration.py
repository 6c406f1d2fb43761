"""Do the tests and intervals of eval/statistics keep their word? Simulated comparisons, docs/calibration.md.

    python -m benchmarks.validity.calibration [--simulations 2000] [--output docs/calibration.md]

Every cell draws thousands of comparisons whose truth is known, and counts. Cells are simulated all at once, and
each from a generator seeded by its name, so that a cell's figure does not depend on which others are run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.validity.simulated import (
    FLIPS,
    LEVEL,
    MEANS,
    RESAMPLES,
    Array,
    Cell,
    count,
    flip_p,
    generator,
    percent,
    rejects,
    simulate,
)
from preflab.eval.statistics import bradley_terry, holm, length_controlled_win_rate
from preflab.eval.statistics.variance import Spread, detectable, spread

PAGE = Path(__file__).parents[2] / "docs" / "calibration.md"
TOLERANCE = 1.5
PROMPTS, SEEDS = (96, 256), (1, 2, 3, 5)
SPREADS = {"zero": 0.0, "like": 1.0, "above": 3.0}


def cells(kind: str) -> Iterator[tuple[str, Cell]]:
    """Yield the cells of a kind with the name of their seeds' spread."""
    for n in PROMPTS:
        for seeds in SEEDS:
            # One seed: the null is about the two trained models, and their difference is no part of it.
            spreads = {"none": 0.0} if seeds == 1 else SPREADS
            for name, size in spreads.items():
                yield name, Cell(kind, n, (seeds, seeds), (size, size))


class Tally:
    """Formats percentages, bold where they miss, and counts those that do not."""

    def __init__(self) -> None:
        self.inside, self.all = 0, 0

    def __call__(self, value: float | None, target: float) -> str:
        """Return the text of one percentage."""
        if value is None:
            return ""
        good = abs(value - target) <= TOLERANCE + 1e-9
        self.inside, self.all = self.inside + good, self.all + 1
        return f"{value:.1f}" if good else f"**{value:.1f}**"


def null_table(kind: str, simulations: int, tests: Tally, intervals: Tally) -> list[str]:
    counted = "test rejects | interval covers | bootstrap rejects | bootstrap covers"
    lines = [f"| prompts | seeds | seed spread | {counted} |", "|---:|---:|---|---:|---:|---:|---:|"]
    old = Tally()
    for name, cell in cells(kind):
        got = count(cell, simulations)
        figures = [tests(got.test, 5.0), intervals(got.interval, 95.0)]
        figures += [old(got.old_test, 5.0), old(got.old_interval, 95.0)]
        lines.append(f"| {cell.n} | {cell.seeds[0]} | {name} | " + " | ".join(figures) + " |")
    return lines


def unequal_table(simulations: int) -> list[str]:
    lines = [
        "| seeds, first | seeds, second | spread, first | spread, second | test rejects |",
        "|---:|---:|---|---|---:|",
    ]
    tally, kind = Tally(), "reward, normal"
    names = {size: name for name, size in SPREADS.items()}
    designs = [((s, s), (size, 0.0)) for s in (2, 3, 5) for size in (1.0, 3.0)]
    designs += [((s, 1), (size, 0.0)) for s in (2, 3, 5) for size in (0.0, 1.0, 3.0)]
    designs += [((2, 3), (1.0, 1.0)), ((2, 3), (3.0, 3.0)), ((2, 5), (1.0, 1.0)), ((3, 5), (3.0, 3.0))]
    for seeds, spreads in designs:
        (first, second), _ = simulate(generator(seeds, spreads), Cell(kind, 96, seeds, spreads), simulations)
        text = tally(percent(rejects(first, second)), 5.0)
        other = "(this model)" if seeds[1] == 1 else names[spreads[1]]
        lines.append(f"| {seeds[0]} | {seeds[1]} | {names[spreads[0]]} | {other} | {text} |")
    return lines


def family_table(simulations: int) -> list[str]:
    """All four methods are equal: Holm's first step decides whether there is any false rejection."""
    lines = ["| prompts | seeds | seed spread | any of 6 pairs rejected |", "|---:|---:|---|---:|"]
    pairs = [(i, j) for i in range(4) for j in range(i)]
    for n in PROMPTS:
        for seeds in SEEDS:
            for name, size in ({"none": 0.0} if seeds == 1 else SPREADS).items():
                cell = Cell("reward, normal", n, (seeds, seeds), (size, size))
                tables, _ = simulate(generator("family", *cell), cell, simulations, methods=4)
                if seeds == 1:
                    p = np.stack([flip_p((tables[i] - tables[j])[:, 0]) for i, j in pairs], axis=1)
                    wrong = np.array([holm(row).min() < 1.0 - LEVEL for row in p])
                else:
                    strict = 1.0 - (1.0 - LEVEL) / len(pairs)
                    wrong = np.any([rejects(tables[i], tables[j], strict) for i, j in pairs], axis=0)
                lines.append(f"| {n} | {seeds} | {name} | {percent(wrong):.1f} |")
    return lines


def power_table(simulations: int, trials: int = 600) -> list[str]:
    """Power at the mean of the detectable differences that `trials` comparisons under the null report."""
    lines = ["| prompts | seeds | seed spread | comparisons | detectable | seen |", "|---:|---:|---|---:|---:|---:|"]
    for seeds in SEEDS:
        for name, size in ({"none": 0.0} if seeds == 1 else SPREADS).items():
            for comparisons in (1, 6):
                cell = Cell("reward, normal", 96, (seeds, seeds), (size, size))
                rng, level = generator("power", comparisons, *cell), 1.0 - (1.0 - LEVEL) / comparisons
                (first, second), _ = simulate(rng, cell, trials)
                found = spread(first.mean(1) - second.mean(1), [first, second])
                each = [Spread(found.seeds[:, i], found.seeds_df, found.prompts[i], found.rest[i], found.prompts_df)
                        for i in range(trials)]  # fmt: skip
                size_seen = float(np.mean([detectable(one, level, draws=500) for one in each]))
                (first, second), _ = simulate(rng, cell, simulations)
                seen = percent(rejects(first + size_seen, second, level))
                lines.append(f"| 96 | {seeds} | {name} | {comparisons} | {size_seen:.2f} | {seen:.1f} |")
    return lines


def figure_table(simulations: int) -> list[str]:
    """Coverage of ratings and of length-controlled win rates."""
    lines = ["| figure | truth | prompts | seeds | interval covers |", "|---|---|---:|---:|---:|"]
    tally = Tally()
    for seeds in (1, 3):
        for strengths in ((0.0, 0.0, 0.0), (0.0, 0.5, 2.0)):
            hits = [hit for i in range(simulations) for hit in _ratings_cover(np.array(strengths), seeds, i)]
            text = tally(percent(np.array(hits)), 95.0)
            lines.append(f"| rating of 3 methods | log-odds {strengths} | 96 | {seeds} | {text} |")
        for effect in (0.0, 2.0):
            hits = [_length_covers(effect, seeds, i) for i in range(simulations)]
            text = tally(percent(np.array(hits)), 95.0)
            lines.append(f"| length-controlled win rate | 62 %, length effect {effect} | 96 | {seeds} | {text} |")
    return lines


def _ratings_cover(strengths: Array, seeds: int, run: int) -> list[bool]:
    rng, names = generator("ratings", tuple(strengths), seeds, run), "abc"
    games = {}
    for i in range(3):
        for j in range(i + 1, 3):
            chance = 1.0 / (1.0 + np.exp(strengths[j] - strengths[i]))
            games[names[i], names[j]] = (rng.random((seeds, seeds, 96)) < chance).astype(float)
    truth = 1000.0 + 400.0 / np.log(10.0) * (strengths - strengths.mean())
    return [r.rating.low <= truth[names.index(r.method)] <= r.rating.high for r in bradley_terry(names, games)]


def _length_covers(effect: float, seeds: int, run: int) -> bool:
    rng = generator("length", effect, seeds, run)
    longer = rng.normal(10.0, 30.0, size=(seeds, 96))
    # The model's own scale, so that its truth at equal length is known.
    logit = 0.5 + effect * np.tanh(longer / longer.std())
    wins = (rng.random(longer.shape) < 1.0 / (1.0 + np.exp(-logit))).astype(float)
    found = length_controlled_win_rate(wins, longer).win_rate
    return bool(found.low <= 1.0 / (1.0 + np.exp(-0.5)) <= found.high)


def page(simulations: int) -> str:
    """Run everything and return the page."""
    tests, intervals = Tally(), Tally()
    nulls = []
    for kind in MEANS:
        nulls += [f"### {kind[0].upper()}{kind[1:]}", "", *null_table(kind, simulations, tests, intervals), ""]
    few = max(simulations // 2, 1)
    return TEXT.format(
        simulations=f"{simulations:,}",
        few=f"{few:,}",
        error=2 * 100 * (0.05 * 0.95 / simulations) ** 0.5,
        tests=f"{tests.inside} of {tests.all}",
        intervals=f"{intervals.inside} of {intervals.all}",
        flips=f"{FLIPS:,}",
        resamples=RESAMPLES,
        nulls="\n".join(nulls).strip(),
        unequal="\n".join(unequal_table(simulations)),
        family="\n".join(family_table(simulations)),
        power="\n".join(power_table(simulations)),
        figures="\n".join(figure_table(few)),
    )


TEXT = """<!-- Made by python -m benchmarks.validity.calibration; change that, not this. -->

# Calibration

A 95 % interval should hold the truth in 95 of 100 repetitions, and a test at 5 % should call equal methods different
in 5 of 100. Whether those of `eval/statistics` do is counted here, over {simulations} simulated comparisons a cell
(the counting itself is good to ± {error:.1f} points, two standard errors):

```sh
python -m benchmarks.validity.calibration
```

In the first five tables **{tests}** tests and **{intervals}** intervals lie within 1.5 points of their target;
**bold** figures do not.

## What is simulated

A value is the sum of what the prompt does to every method (40 % of its variance), what this method makes of the
prompt (20 %), the rest (40 %), and the seed's own effect on all its values. Two methods are drawn that are equally
good *on average over prompts and seeds*, not on each prompt, and not in each trained model. Rewards are normal,
skewed (exponential, skewness 2) or heavy-tailed (Student's t with 3 degrees of freedom); win rates are shares of
latent values above 0, against a baseline.

- **seed spread**: the standard deviation of a seed's true mean, against the standard error that the prompts leave in
  one model's mean: zero, as large (*like*), or three times as large (*above*).
- **test rejects**: how often `compare` calls the equal methods different; target 5 %. Its interval leaves 0 out
  exactly then, so that 100 % less this is the coverage of the interval of a difference.
- **interval covers**: how often `interval`, for one method, holds its true mean; target 95 %.
- **bootstrap**: the same with the crossed percentile bootstrap ({resamples} resamples of prompts and seeds; Owen
  2007), of the table of differences and of one method's. It is not what preflab uses, and shown for comparison.

With **one seed** ("none") no spread between seeds can be seen, and none is claimed: the null is about *these two
trained models* on other prompts, and says nothing of what other seeds would give. The test is the sign-flip test
({flips} flips here, 9,999 in `compare`).

{nulls}

The bootstrap fails both ways. Where seeds do not differ it counts the noise of single values twice, rejecting too
seldom; where two or three seeds do differ, it takes their spread for the seeds' true spread, which is too small by
(S − 1)/S and known from S − 1 differences, rejecting far too often.

What remains: with **two seeds** an interval rests on a single difference between two numbers, and no function of that
difference and the prompts' spread has 95 % at every ratio of the two. The critical value here is chosen to stay within
94.3 % to 96.2 % at every ratio (`preflab.eval.statistics.variance.Scale`) for normal values and a known spread of
prompts; what is bold goes a few tenths of a point further.
An interval from two or three seeds is also wide, by the t quantile
of so few degrees of freedom: that is what so few seeds know. It may even be narrower than that of one seed's prompts
alone, where the seeds' means happen to lie close together; 95 % holds over repetitions, not for each such case.

Held-out pairs that share a prompt are not independent either: their intervals are over prompts, each with all its pairs
(`preflab.eval.statistics.intervals.clustered`). Of 60 prompts with five pairs each, of unequal difficulty, intervals
over pairs covered 80 %, those over prompts 95 % (`tests/unit/statistics/test_statistics.py` repeats it).

## What p is

- **One seed each, up to 13 prompts**: all sign flips, enumerated, ties counted by half (mid-p) and the values
  themselves whole. The interval holds the differences that the same flips do not reject; below 6 prompts, all.
- **One seed each, more prompts**: the same of 9,999 drawn flips, an estimate, 0.0001 at the least.
- **Several seeds**: approximate, by t quantiles of a two-way model (`eval.statistics.variance`).
- **Wins where all prompts are alike**: exact for wins alone, 2^(1 − N) as in the sign test, with Clopper and Pearson's
  interval; for ties alone 1, with what unseen games may be.

No p is 0, and an interval leaves 0 out exactly where p < 0.05, before correction. Where the means of two or three seeds
are one number, as shares of few games may be, the prompts' own spread stands in for a variance that comes out as 0
(`preflab.eval.statistics.intervals.known_scale`); the tables here are without that.

## Methods that are not alike

Rewards, normal, 96 prompts. One method's seeds differ and the other's do not, numbers of seeds differ, or one side
has a single model, for which the question is about that model. Target 5 %. Two seeds of an unsteady method against
a steady one are the hardest case, for any test: degrees of freedom lie between one and two, and nothing says where.

{unequal}

## Several methods

Four equal methods, six pairs, rewards, normal. How often Holm's correction lets any pair through: at most 5 % is
promised, and less is expected, as pairs share methods. With two seeds each it is not quite kept where seeds differ: the
correction asks for p-values below 0.8 %, and so far out two or three degrees of freedom describe two differences badly.
Rankings of several methods want three seeds.

{family}

## Detectable differences

Rewards with standard deviation 1, normal. Each null result reports the smallest difference that its design would have
seen with 80 % power. Here that figure is averaged over 600 comparisons, the methods are moved apart by it, and the
test at its corrected level is run again: it should see the difference in 80 %, and 3 points either way is asked.

{power}

## Ratings and length-controlled win rates

{few} simulations a cell; three methods give three ratings each. The intervals are those of the values to which a
small change of each game would move the figure; seeds here differ by chance alone.

{figures}
"""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=PAGE)
    args = parser.parse_args()
    args.output.write_text(page(args.simulations), encoding="utf-8")
    print(f"written: {args.output}")


if __name__ == "__main__":
    main()
