"""SFT, reward model, DPO and PPO with three seeds, evaluated: by preflab, and by scripts of TRL one after the other.

    make trl-1.12                                    # once: PPO's trainer, in an environment of its own
    python -m benchmarks.end_to_end [--works embedded,llama-5.6m] [--pairs 3] [--share 0.5] [--seeds 0,1,2] [--write]

Whole processes are timed, from the first import to the last file. Both sides read the same rows, from the same base,
with the same LoRA, batches, steps and token limits, in float32, and take the threads that they take by themselves.
preflab is recipes/compare.py, which trains stages side by side. TRL is SFTTrainer, RewardTrainer and DPOTrainer of
today in one process, and PPOTrainer of 1.12 in another (`trl_given`, `trl_ppo`). Native and TRL take turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.end_to_end import ours
from benchmarks.end_to_end.memory import Cost, measured
from benchmarks.end_to_end.work import WORKS, Job, Work, prepare
from benchmarks.pages import BENCHMARKS, table, update
from benchmarks.workloads import ROOT, TRL_1_12
from preflab.errors import UserError, near_misses
from preflab.errors.answering import run_recipe

HEADINGS = ("base", "steps: sft, reward, dpo, ppo", "seeds", "pairs", "TRL / native", "native s", "TRL s", "native MiB",
            "TRL MiB", "native / TRL memory", "largest process, MiB", "found, native / TRL")  # fmt: skip
STAGES = ("sft", "reward", "dpo", "ppo")
QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

Found = dict[str, dict[str, float]]


class Side(NamedTuple):
    """What one side took, did and found."""

    cost: Cost
    found: Found


def native(job: Job, workers: int | None) -> Side:
    """Do a job by preflab, so many stages side by side; None: as many as it chooses."""
    chosen = [] if workers is None else [f"--workers={workers}"]
    cost = run([*ours.command(job), *chosen], Path(job.out), "compare.py")
    return Side(cost, ours.found(job))


def by_trl(job: Job) -> Side:
    """Do a job by TRL: one process after the other."""
    costs, seeds = [], [Found() for _ in job.seeds]
    for python, module in ((sys.executable, "trl_given"), (str(TRL_1_12), "trl_ppo")):
        command = [python, "-W", "ignore", "-m", f"benchmarks.end_to_end.{module}", job.written()]
        costs.append(run(command, Path(job.out), module))
        for seed, stages in zip(seeds, json.loads((Path(job.out) / f"{module}.json").read_text()), strict=True):
            seed.update(stages)
    cost = Cost(sum(c.seconds for c in costs), max(c.memory for c in costs), max(c.resident for c in costs))
    return Side(cost, over_seeds(seeds))


def over_seeds(seeds: Sequence[Found]) -> Found:
    """Return means over seeds."""
    return {
        stage: {name: statistics.fmean(seed[stage][name] for seed in seeds) for name in figures}
        for stage, figures in seeds[0].items()
    }


def run(command: Sequence[str], folder: Path, name: str) -> Cost:
    """Measure a command that finds as many threads as it would in anybody's shell."""
    folder.mkdir(parents=True, exist_ok=True)
    env = {name: value for name, value in os.environ.items() if name not in THREADS}
    return measured(command, folder.with_name(f"{folder.name}-{name}.log"), cwd=ROOT, env={**env, **QUIET})


def pair(name: str, work: Work, seeds: tuple[int, ...], workers: int | None, folder: Path) -> tuple[Side, Side]:
    """Do a work by both sides, each from nothing but base and rows."""
    model, rows = prepare(work, folder)
    found: list[Side] = []
    for side, does in (("native", partial(native, workers=workers)), ("trl", by_trl)):
        found.append(does(Job(work, seeds, model, rows, str(folder / side))))
        print(f"{name}: {side} {found[-1].cost.seconds:.0f} s", file=sys.stderr, flush=True)
    check_same(found[0].found, found[1].found)
    return found[0], found[1]


def row(name: str, work: Work, seeds: tuple[int, ...], pairs: Sequence[tuple[Side, Side]]) -> list[str]:
    """Return a work's row of the table."""

    def ratio(field: str, upper: int) -> str:
        ratios = sorted(getattr(x[upper].cost, field) / getattr(x[1 - upper].cost, field) for x in pairs)
        return f"**{statistics.median(ratios):.2f}** [{ratios[0]:.2f}, {ratios[-1]:.2f}]"

    def both(field: str, scale: float = 1.0) -> list[str]:
        return [f"{statistics.median(getattr(x[i].cost, field) for x in pairs) / scale:,.0f}" for i in (0, 1)]

    steps = ", ".join(str(getattr(work, stage).steps) for stage in STAGES)
    return [
        name,
        steps,
        str(len(seeds)),
        str(len(pairs)),
        ratio("seconds", 1),
        *both("seconds"),
        *both("memory", 2**20),
        ratio("memory", 0),
        " / ".join(both("resident", 2**20)),
        said(*(side.found for side in pairs[0])),
    ]


def said(mine: Found, theirs: Found) -> str:
    """Say what both sides found in the first pair: no two draw the same, so that these agree roughly at best."""
    asked = [
        ("reward", "accuracy"),
        *((stage, "gold") for stage in ("sft", "dpo", "ppo")),
        ("dpo", "wins"),
        ("ppo", "wins"),
    ]
    return ", ".join(f"{what} of {stage} {mine[stage][what]:.2f} / {theirs[stage][what]:.2f}" for stage, what in asked)


def check_same(mine: Found, theirs: Found) -> None:
    """See that both sides took as many steps with as many rows, by their own records.

    Raises:
        RuntimeError: if they did not; then no time of theirs says anything.
    """
    for stage, what in itertools.product(STAGES, ("steps", "rows")):
        if mine[stage][what] != theirs[stage][what]:
            raise RuntimeError(f"{what} of {stage} are {mine[stage][what]} by preflab and {theirs[stage][what]} by TRL")


def stages(pairs: Sequence[tuple[Side, Side]]) -> list[list[str]]:
    """Return seconds of each stage's training, the mean over seeds and the median over pairs, of both sides."""

    def seconds(i: int, stage: str) -> str:
        return f"{statistics.median(pair[i].found[stage]['seconds'] for pair in pairs):.1f}"

    return [[stage, seconds(0, stage), seconds(1, stage)] for stage in STAGES]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the rows, and write them into the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", default="embedded,llama-5.6m", help=f"some of {', '.join(WORKS)}")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side")
    parser.add_argument("--share", type=float, default=0.5, help="share of every stage's steps")
    parser.add_argument("--seeds", default="0,1,2", help="for each of which everything is trained")
    parser.add_argument("--workers", type=int, help="stages that preflab trains side by side [default: its own choice]")
    parser.add_argument("--write", action="store_true", help="put the rows into docs/benchmarks.md")
    args = parser.parse_args(argv)
    names = args.works.split(",")
    for name in names:
        if name not in WORKS:
            raise UserError(f"unknown work {name!r}{near_misses(name, WORKS)}; see --help")
    if args.pairs < 1 or args.share <= 0:
        raise UserError("--pairs must be at least 1, and --share positive")
    if not TRL_1_12.exists():
        raise UserError("no environment with TRL 1.12, whose PPOTrainer is the last; make trl-1.12")
    seeds = tuple(map(int, args.seeds.split(",")))
    if args.write:
        update(BENCHMARKS, "end-to-end", HEADINGS, [], keys=3)  # ends here if the page has no place for it
    for name in names:
        work, found = WORKS[name].scaled(args.share), []
        for number in range(args.pairs):
            with tempfile.TemporaryDirectory() as folder:
                found.append(
                    pair(f"{name}, pair {number + 1} of {args.pairs}", work, seeds, args.workers, Path(folder))
                )
        label = name if args.workers is None else f"{name}, {args.workers} side by side"
        rows = [row(label, work, seeds, found)]
        print(table(HEADINGS, rows))
        print(table(("training of", "native s", "TRL s"), stages(found)), flush=True)
        if args.write:
            update(BENCHMARKS, "end-to-end", HEADINGS, rows, keys=3)


if __name__ == "__main__":
    run_recipe(main)
