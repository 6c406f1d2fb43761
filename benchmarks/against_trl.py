"""Native methods against TRL's trainers: same model, LoRA, rows, order, batch, precision and lengths.

    python -m benchmarks.against_trl [--preset cpu] [--workloads dpo,ppo] [--lengths 64/64,128/64] [--pairs 5] [--write]

Native and TRL take turns (A B A B …), each run in a process of its own; a ratio is the median over the pairs of runs,
with the smallest and the largest. That both compute the same is seen beside it: the largest relative difference of
their losses over all steps, or, where responses are sampled and no two runs draw the same, what the first rollouts of
the same policy were like. PPO's rival is TRL 1.12, the last with a PPOTrainer, in an environment that ``make
trl-1.12`` sets up; the others' is the TRL installed beside preflab.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from benchmarks.pages import BENCHMARKS, table, update
from benchmarks.workloads import SIDES, WORKLOADS, Job, Result, choices, models, run_alone
from preflab.errors import UserError
from preflab.errors.answering import run_recipe

HEADINGS = ("workload", "prompt/response", "TRL / native", "native s", "TRL s", "native tok/s", "TRL tok/s",
            "native MiB", "TRL MiB", "native / TRL memory", "agreement")  # fmt: skip

Pair = tuple[Result, Result]


def row(job: Job, pairs: int) -> list[str]:
    """Measure one workload at one pair of lengths; return its row."""
    found: list[Pair] = []
    for _ in range(pairs):
        runs = [run_alone(job._replace(side=side)) for side in SIDES]
        failed = [f"{side}: {run}" for side, run in zip(SIDES, runs, strict=True) if isinstance(run, str)]
        if failed:
            return [job.workload, job.lengths, *["–"] * (len(HEADINGS) - 3), "; ".join(failed).replace("|", "/")]
        found.append((runs[0], runs[1]))  # type: ignore[arg-type]
    return [job.workload, job.lengths, *cells(found), agreement(found)]


def cells(pairs: Sequence[Pair]) -> list[str]:
    """Return the ratio of times with its spread, and seconds, tokens per second and memory of both."""
    ratios = sorted(trl.seconds / native.seconds for native, trl in pairs)
    memory = statistics.median(native.bytes / trl.bytes for native, trl in pairs)

    def both(field: str, form: str, scale: float = 1.0) -> list[str]:
        return [format(statistics.median(getattr(pair[i], field) for pair in pairs) / scale, form) for i in (0, 1)]

    return [
        f"**{statistics.median(ratios):.2f}** [{ratios[0]:.2f}, {ratios[-1]:.2f}]",
        *both("seconds", ".3g"),
        *both("tokens_per_second", ",.0f"),
        *both("bytes", ",.0f", 2**20),
        f"{memory:.2f}",
    ]


def agreement(pairs: Sequence[Pair]) -> str:
    """Say how nearly both sides compute the same."""
    native, trl = pairs[0]
    if native.first:
        shared = [name for name in native.first if name in trl.first]
        return ", ".join(
            f"{name.replace('_', ' ')} {native.first[name]:.4g} / {trl.first[name]:.4g}" for name in shared
        )
    worst = max(
        abs(a - b) / max(abs(a), abs(b), 1e-12)
        for one, other in pairs
        for a, b in zip(one.losses, other.losses, strict=True)
    )
    return f"losses of {len(native.losses)} steps within {worst:.1e}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the rows as they come, and write them into the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="runs of each side")
    args = choices(parser, [name for name, what in WORKLOADS.items() if what.rival], argv)
    if alone := [name for name in args.workloads if WORKLOADS[name].rival is None]:
        raise UserError(f"TRL has nothing to hold against {', '.join(alone)}; leave it out")
    if args.write:
        update(BENCHMARKS, f"trl-{args.preset}", HEADINGS, [], keys=2)  # ends here if the page has no place for it
    print(table(HEADINGS, []), end="", flush=True)
    with models(args.preset, args.workloads, args.lengths) as folders:
        for name in args.workloads:
            for lengths in args.lengths:
                model = folders[name, lengths]
                found = row(Job(name, "native", args.preset, model, lengths, args.warm_up, args.steps), args.pairs)
                print(f"| {' | '.join(found)} |", flush=True)
                if args.write:
                    update(BENCHMARKS, f"trl-{args.preset}", HEADINGS, [found], keys=2)


if __name__ == "__main__":
    run_recipe(main)
