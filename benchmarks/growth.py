"""How the cost of a step grows: with response tokens, and with the responses to one prompt.

    python -m benchmarks.growth [--preset cpu] [--series length,k,samples] [--repeats 3] [--write]

Each point is the median of runs in processes of their own, which take turns. The line is the least-squares one; cost
that grows as it should lies on it: a constant, the prompt among it, and so much for each token or response.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.pages import BENCHMARKS, kept, table, update
from benchmarks.workloads import Job, choices, models, run_alone
from preflab.errors import UserError, near_misses
from preflab.errors.answering import run_recipe


class Series(NamedTuple):
    """One thing that grows.

    Attributes:
        title: what it is.
        workload: what is trained.
        unit: of the line's slope.
        values: how much of it.
        at: changes a job to have so much of it.
    """

    title: str
    workload: str
    unit: str
    values: tuple[int, ...]
    at: Callable[[Job, int], Job]


SERIES = {
    "length": Series(
        "response tokens (DPO)", "dpo", "token", (32, 64, 128, 192, 256, 384),
        lambda job, value: job._replace(lengths=f"{job.prompt}/{value}"),
    ),
    "k": Series(
        "responses to a prompt (Plackett-Luce)", "ranking", "response", (2, 3, 4, 6, 8),
        lambda job, value: job._replace(k=value),
    ),
    "samples": Series(
        "samples of a prompt (GRPO, sampling included)", "grpo", "sample", (2, 4, 6, 8, 12),
        lambda job, value: job._replace(values={"samples_per_prompt": value}),
    ),
}  # fmt: skip
HEADINGS = ("what grows", "seconds per step", "line", "largest distance from the line", "R²")


class Line(NamedTuple):
    """A least-squares line; `worst` is the largest distance from it as a share of the line's own value."""

    intercept: float
    slope: float
    worst: float
    r_squared: float


def fit(x: Sequence[float], y: Sequence[float]) -> Line:
    """Fit a line to two or more points."""
    slope, intercept = statistics.linear_regression(x, y)
    fitted = [intercept + slope * a for a in x]
    worst = max(abs(b - f) / abs(f) for b, f in zip(y, fitted, strict=True))
    mean = statistics.fmean(y)
    left, total = (sum((b - c) ** 2 for b, c in zip(y, other, strict=True)) for other in (fitted, [mean] * len(y)))
    return Line(intercept, slope, worst, 1 - left / total)


def measure(job: Job, series: Series, values: Sequence[int], repeats: int) -> list[float]:
    """Return seconds per step at each value.

    Raises:
        UserError: where a run fails.
    """
    found: list[list[float]] = [[] for _ in values]
    for _ in range(repeats):
        for seconds, value in zip(found, values, strict=True):
            result = run_alone(series.at(job, value))
            if isinstance(result, str):
                raise UserError(f"{series.workload} at {value}: {result}")
            seconds.append(result.seconds)
    return [statistics.median(seconds) for seconds in found]


def row(series: Series, values: Sequence[int], seconds: Sequence[float]) -> list[str]:
    """Return the row of a series."""
    line = fit(values, seconds)
    points = ", ".join(f"{value}: {second:.3g}" for value, second in zip(values, seconds, strict=True))
    text = f"{1e3 * line.intercept:.3g} ms + {1e3 * line.slope:.3g} ms per {series.unit}"
    return [series.title, points, text, f"{100 * line.worst:.1f} %", f"{line.r_squared:.4f}"]


def plot(page: Path, rows: Sequence[Sequence[str]]) -> None:
    """Draw points and lines of rows that `row` made, a panel each."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "growth"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(rows), figsize=(4 * len(rows), 3), squeeze=False)
    for axes, (title, points, *_) in zip(panels[0], rows, strict=True):
        values, seconds = zip(*(map(float, point.split(": ")) for point in points.split(", ")), strict=True)
        line, ends = fit(values, seconds), (0, max(values))
        axes.plot(ends, [line.intercept + line.slope * x for x in ends], color="0.6", linewidth=1)
        axes.plot(values, seconds, "o", markersize=4)
        axes.set(xlabel=title, ylabel="seconds per step", xlim=(0, None), ylim=(0, None))
    figure.tight_layout()
    figure.savefig(page, metadata={"Date": None})
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the rows as they come, and write page and plot if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", default=",".join(SERIES), help=f"some of {', '.join(SERIES)}")
    parser.add_argument("--points", type=int, help="at most so many points of a series")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each point")
    args = choices(parser, [], argv)
    name = f"growth-{args.preset}"
    if args.write:
        update(BENCHMARKS, name, HEADINGS, [], keys=1)  # ends here if the page has no place for it
    print(table(HEADINGS, []), end="", flush=True)
    for chosen in args.series.split(","):
        if chosen not in SERIES:
            raise UserError(f"unknown series {chosen!r}{near_misses(chosen, SERIES)}; see --help")
        series, lengths = SERIES[chosen], args.lengths[min(1, len(args.lengths) - 1)]
        values = series.values[: args.points]
        with models(args.preset, [series.workload], [lengths]) as folders:
            model = folders[series.workload, lengths]
            job = Job(series.workload, "native", args.preset, model, lengths, args.warm_up, args.steps)
            found = row(series, values, measure(job, series, values, args.repeats))
        print(f"| {' | '.join(found)} |", flush=True)
        if args.write:
            update(BENCHMARKS, name, HEADINGS, [found], keys=1)
            plot(BENCHMARKS.with_name(f"{name}.svg"), kept(BENCHMARKS, name, HEADINGS))


if __name__ == "__main__":
    run_recipe(main)
