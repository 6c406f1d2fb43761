"""How much both sides multiply: floating-point operations of the matrix products in a step, counted as they run.

    python -m benchmarks.arithmetic [--preset cpu] [--workloads ppo] [--lengths 64/64] [--write]

What is left of TRL / native in seconds once this ratio is taken off is how fast each side's operations run. Attention
is not counted, which PyTorch's counter does not know on a CPU: it is the same kernel on both sides. Nothing is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
from collections.abc import Sequence
from unittest import mock

from benchmarks import clock
from benchmarks.pages import BENCHMARKS, table, update
from benchmarks.workloads import PPO_TRAINER, SIDES, WORKLOADS, Job, Result, choices, models, run_alone
from preflab.errors.answering import run_recipe

HEADINGS = ("workload", "prompt/response", "native GFLOP", "TRL GFLOP", "TRL / native")


def counted(job: Job) -> Result:
    """Train in this process; return the result with GFLOP of a unit in place of seconds, warm-up left out."""
    from torch.utils.flop_counter import FlopCounterMode

    by_old_trl = job.side == "trl" and job.what.rival == PPO_TRAINER
    with FlopCounterMode(display=False) as counter, contextlib.redirect_stdout(sys.stderr):
        with mock.patch.object(clock, "now", counter.get_total_flops):
            if by_old_trl:
                result = importlib.import_module("benchmarks.ppo_trl_1_12").train(job)
            else:
                result = importlib.import_module("benchmarks.bench").Bench(job).train()
    found: Result = result._replace(seconds=result.seconds / 1e9)
    return found


def row(job: Job) -> list[str]:
    """Count a workload on both sides; return its row."""
    found = []
    for side in SIDES:
        result = run_alone(job._replace(side=side), module="benchmarks.arithmetic")
        if isinstance(result, str):
            return [job.workload, job.lengths, "–", "–", f"{side}: {result}".replace("|", "/")]
        found.append(result.seconds)
    native, trl = found
    return [job.workload, job.lengths, f"{native:.3g}", f"{trl:.3g}", f"**{trl / native:.2f}**"]


def main(argv: Sequence[str] | None = None) -> None:
    """Count, print the rows as they come, and write them into the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args = choices(parser, [name for name, what in WORKLOADS.items() if what.rival], argv)
    if args.write:
        update(BENCHMARKS, f"arithmetic-{args.preset}", HEADINGS, [], keys=2)  # ends here if the page has no place
    print(table(HEADINGS, []), end="", flush=True)
    with models(args.preset, args.workloads, args.lengths) as folders:
        for name in args.workloads:
            for lengths in args.lengths:
                job = Job(name, "native", args.preset, folders[name, lengths], lengths, args.warm_up, args.steps)
                found = row(job)
                print(f"| {' | '.join(found)} |", flush=True)
                if args.write:
                    update(BENCHMARKS, f"arithmetic-{args.preset}", HEADINGS, [found], keys=2)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("{"):  # of one side, in an environment of its own
        print(json.dumps(counted(Job(**json.loads(sys.argv[1])))._asdict()))
    else:
        run_recipe(main)
