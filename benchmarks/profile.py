"""Where the time of native training goes, and the physical floor beside it.

    python -m benchmarks.profile [--preset cpu] [--workloads dpo,ppo] [--lengths 128/64] [--write]

Timers are set around the trainer's seams from here; stages exclude each other: what happens inside a stage of its own
is not the outer one's. The floor of a stage is the time that its FLOPs take at the measured rate of the model's own
matrix products, or its bytes at the measured bandwidth (see `benchmarks.floor`); the gap is what was measured over the
sum of the floors. Loader and overhead have no floor.
"""

from __future__ import annotations

import argparse
import functools
import gc
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.bench import Bench
from benchmarks.clock import Clock, now
from benchmarks.floor import Machine, Seen, floor
from benchmarks.pages import BENCHMARKS, table, update
from benchmarks.workloads import WORKLOADS, Job, choices, models
from preflab.errors.answering import run_recipe

STAGES = ("rollout", "scoring", "reward", "forward", "backward", "optimiser", "loader", "overhead")
HEADINGS = ("workload", "prompt/response", *STAGES, "all", "floor", "gap", "GFLOP/s", "GB/s")

Named = Callable[..., str | None]


class Stages(Clock):
    """Adds up the seconds of each stage from the end of warm-up to the end of training.

    Attributes:
        seconds: by stage.
        seen: batches met in that time.
    """

    def __init__(self, warm_up: int) -> None:
        super().__init__()
        self.warm_up, self.steps = warm_up, 0
        self._restart()

    def _restart(self) -> None:
        self.seconds, self.seen = Counter[str](), Seen([], [], 0)
        self._open, self._since = ["overhead"], now()

    def _note(self) -> None:
        moment = now()
        self.seconds[self._open[-1]] += moment - self._since
        self._since = moment

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside for a stage, and not for the one it happens in."""
        self._note()
        self._open.append(name)
        try:
            yield
        finally:
            self._note()
            self._open.pop()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin after warm-up, end with the last step."""
        super().on_step_end(args, state, control, **kwargs)
        self._note()
        self.seen = self.seen._replace(steps=self.seen.steps + 1)
        if state.global_step == self.warm_up:
            self._restart()

    def timed(self, function: Any, named: Named) -> Any:
        """Return a function that is counted for the stage that `named` gives for its arguments."""

        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            name = named(*args, **kwargs)
            if name is None:
                return function(*args, **kwargs)
            with self.stage(name):
                return function(*args, **kwargs)

        return inner


@contextmanager
def timers(stages: Stages, bench: Bench) -> Iterator[None]:
    """Set timers around the seams of the trainer, and take them off again."""
    import torch
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    from preflab.model.roles import Roles
    from preflab.sampling.sampler import TransformersSampler
    from preflab.training.trainer import PreferenceTrainer

    def scoring(*args: Any, **kwargs: Any) -> str:
        return "forward" if torch.is_grad_enabled() else "scoring"

    def reward(*args: Any, **kwargs: Any) -> str | None:
        return None if torch.is_grad_enabled() else "reward"

    algorithm = type(bench.method.algorithm)
    seams: list[tuple[Any, str, Named]] = [
        (TransformersSampler, "__call__", lambda *a, **k: "rollout"),
        (Roles, "forward", scoring),
        (Roles, "_rewards", reward),
        (algorithm, "loss", lambda *a, **k: "forward"),
        (Accelerator, "backward", lambda *a, **k: "backward"),
        (Accelerator, "clip_grad_norm_", lambda *a, **k: "optimiser"),
        (AcceleratedOptimizer, "step", lambda *a, **k: "optimiser"),
        (Roles, "zero_grad", lambda *a, **k: "optimiser"),
        (PreferenceTrainer, "get_batch_samples", lambda *a, **k: "loader"),
    ]
    with ExitStack() as stack:
        for owner, name, named in seams:
            stack.enter_context(mock.patch.object(owner, name, stages.timed(getattr(owner, name), named)))
        for owner, name, keep in ((algorithm, "prepare", rolled), (PreferenceTrainer, "get_batch_samples", trained)):
            if hasattr(owner, name):
                stack.enter_context(mock.patch.object(owner, name, noting(getattr(owner, name), keep, stages)))
        yield


def noting(function: Any, keep: Callable[[Stages, Any, Any], None], stages: Stages) -> Any:
    """Return a function whose arguments and result are noted in passing."""

    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        result = function(*args)
        keep(stages, args, result)
        return result

    return inner


def rolled(stages: Stages, args: Any, result: Any) -> None:
    """Note the rollout that `prepare` was given."""
    stages.seen.rollouts.append(args[1].batch)


def trained(stages: Stages, args: Any, result: Any) -> None:
    """Note the micro-batches of an optimiser step."""
    (batches,) = result[0]
    stages.seen.trained.extend(batches)


def profile(job: Job) -> list[str]:
    """Train under timers and return the row of a workload."""
    bench = Bench(job)
    stages = Stages(job.warm_up * bench.per_unit)
    with tempfile.TemporaryDirectory() as folder, stages.installed(), timers(stages, bench):
        bench.run(Path(folder))
    machine = Machine(bench.roles.model, bench.bf16)
    least = floor(bench, stages.seen, machine)
    seconds = {name: stages.seconds[name] / job.units for name in STAGES}
    floors = {name: least.get(name, 0.0) / job.units for name in STAGES}
    whole, bound = sum(seconds.values()), sum(floors.values())
    tokens = sum(int(b.prompt_mask.sum() + b.response_mask.sum()) for b in stages.seen.trained) / len(
        stages.seen.trained
    )
    return [
        job.workload,
        job.lengths,
        *(cell(seconds[name], floors[name]) for name in STAGES),
        f"{1e3 * whole:.3g}",
        f"{1e3 * bound:.3g}",
        f"**{whole / bound:.2f}**",
        f"{machine.flops(tokens) / 1e9:.3g}",
        f"{machine.bandwidth / 1e9:.3g}",
    ]


def cell(seconds: float, floor: float) -> str:
    """Return milliseconds, and the floor's behind them."""
    if not seconds and not floor:
        return "–"
    return f"{1e3 * seconds:.3g}" + (f" ({1e3 * floor:.3g})" if floor else "")


def main(argv: Sequence[str] | None = None) -> None:
    """Profile, print the rows as they come, and write them into the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args = choices(parser, list(WORKLOADS), argv)
    if args.write:
        update(BENCHMARKS, f"profile-{args.preset}", HEADINGS, [], keys=2)  # ends here if the page has no place for it
    print(table(HEADINGS, []), end="", flush=True)
    with models(args.preset, args.workloads, args.lengths) as folders:
        for name in args.workloads:
            for lengths in args.lengths:
                job = Job(name, "native", args.preset, folders[name, lengths], lengths, args.warm_up, args.steps)
                found = profile(job)
                gc.collect()  # a trainer and its model hold each other
                print(f"| {' | '.join(found)} |", flush=True)
                if args.write:
                    update(BENCHMARKS, f"profile-{args.preset}", HEADINGS, [found], keys=2)


if __name__ == "__main__":
    run_recipe(main)
