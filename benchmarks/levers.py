"""What each lever is worth: the same passes with and without it, in turn, in one process.

    python -m benchmarks.levers [--preset cpu] [--lengths 128/64] [--repeats 7] [--write]

A pass scores a micro-batch, of pairs where nothing else is said, and goes back through the adapters; **both** is one of
the policy and one of the value; a rollout draws a response to each of 32 prompts. A ratio is the median over the pairs
of runs, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

from benchmarks.bench import make_roles
from benchmarks.clock import now
from benchmarks.pages import BENCHMARKS, table, update
from benchmarks.shapes import END, SHAPES, make_groups
from benchmarks.workloads import PRESETS, Job, choices, models
from preflab.errors.answering import run_recipe

HEADINGS = ("lever", "prompt/response", "measured on", "with, ms", "without, ms", "without / with")
ROLLOUT_PROMPTS = 32
FIELDS = {"policy": "logps", "value": "values", "reward": "rewards"}
BOTH = "both"

Patch = Callable[[Any], AbstractContextManager[Any]]


class Lever(NamedTuple):
    """Something that saves time.

    Attributes:
        title: what it is.
        on: what it is measured on: a role's pass, or a rollout.
        off: takes it away from roles, for a while.
        base: takes away from both sides what else would stand in its place.
        k: responses to a prompt.
    """

    title: str
    on: str
    off: Patch
    base: Patch = lambda roles: nullcontext()
    k: int = 2


def path(name: str) -> Patch:
    """Score by another path where the fused one would be taken."""

    def patch(roles: Any) -> AbstractContextManager[Any]:
        from preflab.scoring import logps as scoring

        paths: dict[Any, Any] = scoring.PATHS
        return mock.patch.dict(paths, {"fused": paths[name]})

    return patch


def beside(roles: Any) -> AbstractContextManager[Any]:
    """Run adapters beside their weights."""
    from preflab.scoring import lora

    return mock.patch.object(lora, "folds", return_value=False)


def branching(roles: Any) -> AbstractContextManager[Any]:
    """Let the only response to a prompt branch off it, as where there are several."""
    from preflab.scoring import packing

    return mock.patch.object(packing, "_whole", packing._branching)


def kept_logits(roles: Any) -> AbstractContextManager[Any]:
    """Let autograd keep the logits and their log-softmax."""
    from preflab.scoring import logps as scoring

    def logps(model: Any, states: Any, batch: Any, temperature: float) -> Any:
        return scoring.spread(
            scoring._chosen(scoring.token_logits(model, states), batch, temperature), batch.response_mask
        )

    return mock.patch.object(scoring, "token_logps", logps)


def feeder(name: str) -> Patch:
    """Feed tokens in another way, or sample with `generate`."""

    def patch(roles: Any) -> AbstractContextManager[Any]:
        from preflab.sampling import decoding

        return mock.patch.dict(decoding._FEEDERS, {roles.model: getattr(decoding, name, None)})

    return patch


def at_once(passes: Sequence[Callable[[], None]]) -> None:
    """Make passes at once, each by a thread with an equal share of the cores."""
    import torch

    threads = torch.get_num_threads()

    def alone(work: Callable[[], None]) -> None:
        torch.set_num_threads(max(1, threads // len(passes)))
        work()

    with ThreadPoolExecutor(len(passes)) as pool:
        list(pool.map(alone, passes))
    torch.set_num_threads(threads)


def in_turn(roles: Any) -> AbstractContextManager[Any]:
    """Make passes one after the other, each on all cores."""

    def made(passes: Sequence[Callable[[], None]]) -> None:
        for work in passes:
            work()

    return mock.patch.object(sys.modules[__name__], "at_once", made)


LEVERS = (
    Lever("decoder by hand, last layer for asked-for tokens", "policy", path("prompt_once")),
    Lever("decoder by hand, last layer for asked-for tokens", "reward", path("prompt_once")),
    Lever("prompt once, all texts in one row", "policy", path("plain"), base=path("prompt_once")),
    Lever("texts of one response in one piece", "policy", branching, k=1),
    Lever("adapters folded into wide products", "policy", beside),
    Lever("adapters folded into wide products", "reward", beside),
    Lever("head's gradient on the way forward", "policy", kept_logits),
    Lever("policy and value at once, each on its share of the cores", BOTH, in_turn, k=1),
    Lever("decode steps by hand", "rollout", feeder("Feed")),
    Lever("a decode loop of our own", "rollout", feeder("generate"), base=feeder("Feed")),
)


def runner(job: Job, roles: Any, on: str, k: int) -> Callable[[], None]:
    """Return one pass of a role there and back, one of policy and value each, or one rollout."""
    from preflab.data.batches import collate
    from preflab.sampling.sampler import TransformersSampler

    words = {"vocabulary": SHAPES[PRESETS[job.preset].shape].vocabulary}
    if on == "rollout":
        prompts = [group.prompt_ids for group in make_groups(ROLLOUT_PROMPTS, job.prompt, job.response, **words)]
        sampler = TransformersSampler(END, 0, job.response)
        return lambda: sampler(roles, "policy", prompts, k=1, temperature=1.0, seed=0) and None
    batch = collate(make_groups(job.batch, job.prompt, job.response, k, **words), 0).to(roles.device)

    def run(own: Any, role: Any) -> None:
        own.learn((role,))
        getattr(own(batch, (role,)), FIELDS[role]).sum().backward()
        own.zero_grad()

    if on == BOTH:
        # Of one base but one adapter can be read at a time.
        passes = [partial(run, roles, "policy"), partial(run, new_roles(job), "value")]
        return lambda: at_once(passes)
    return partial(run, roles, on)


def new_roles(job: Job) -> Any:
    """Return roles as PPO has them."""
    from preflab.method.configured import make_method
    from preflab.settings.training import LoraSettings

    dtype = "bfloat16" if PRESETS[job.preset].bf16 else "auto"
    return make_roles(make_method("ppo"), job.model, LoraSettings(dtype=dtype))


def row(job: Job, roles: Any, lever: Lever, repeats: int) -> list[str]:
    """Measure a lever with and without, in turn."""
    run, pairs = runner(job, roles, lever.on, lever.k), []
    run()
    for _ in range(repeats):
        seconds = []
        for off in (False, True):
            with lever.base(roles), lever.off(roles) if off else nullcontext():
                began = now()
                run()
                seconds.append(now() - began)
        pairs.append(seconds)
    ratios = sorted(without / with_ for with_, without in pairs)
    medians = [f"{1e3 * statistics.median(column):.3g}" for column in zip(*pairs, strict=True)]
    spread = f"**{statistics.median(ratios):.2f}** [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
    return [lever.title, job.lengths, lever.on, *medians, spread]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the rows as they come, and write them into the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="runs with and without")
    args = choices(parser, ["ppo"], argv)
    if args.write:
        update(BENCHMARKS, f"levers-{args.preset}", HEADINGS, [], keys=3)  # ends here if the page has no place for it
    print(table(HEADINGS, []), end="", flush=True)
    with models(args.preset, ["ppo"], args.lengths) as folders:
        for lengths in args.lengths:
            model = folders["ppo", lengths]
            job = Job("ppo", "native", args.preset, model, lengths, args.warm_up, args.steps)
            roles = new_roles(job)
            for lever in LEVERS:
                found = row(job, roles, lever, args.repeats)
                print(f"| {' | '.join(found)} |", flush=True)
                if args.write:
                    update(BENCHMARKS, f"levers-{args.preset}", HEADINGS, [found], keys=3)


if __name__ == "__main__":
    run_recipe(main)
