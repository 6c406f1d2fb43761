"""How near the sampled oracle line comes to the exact one, and how far it is trusted: the figures of docs/frontier.md.

    python -m benchmarks.validity.oracle_line [--seeds 40] [--only agreement] [--output docs/frontier.md]

Figures stand between markers of the page, which are replaced. A few minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from benchmarks.pages import table, write
from preflab.eval.frontier import Oracle, exact_oracle, sampled_oracle

if TYPE_CHECKING:
    from torch import Tensor

    from preflab.method.contract import Batch
    from preflab.model.roles import Roles

Array = NDArray[np.float64]

PAGE = Path(__file__).parents[2] / "docs" / "frontier.md"
POINTS = 60


def exact_world() -> tuple[Array, Array]:
    """Return log π_ref and r of every response of the exact world, ``[X, N]``."""
    from preflab.eval.conformance.exact import Exact
    from preflab.eval.pipeline.session import Session

    with tempfile.TemporaryDirectory() as folder:
        exact = Exact(Session({"world": "exact", "output": folder}).open())
        return exact.reference.numpy(), exact.rewards.numpy()


def agreement(seeds: int) -> str:
    """Sampled lines against the exact one. Prompts are asked again and again, as if each time a new one."""
    from preflab.worlds.exact import draw

    logps, rewards = exact_world()
    truth, rows = gain(exact_oracle(logps, rewards)), []
    for total in (4096, 16384, 32768):
        for samples in (16, 64, 256):
            places = np.arange(total // samples) % len(logps)
            drawn = [
                rewards[
                    places[:, None], draw(logps, places, np.random.default_rng(seed).random((samples, len(places)))).T
                ]
                for seed in range(seeds)
            ]
            lines = [sampled_oracle(one) for one in drawn]
            trusted = np.array([line.trusted_kl for line in lines])
            errors = [worst(line, truth) for line in lines if line.trusted_kl > 0]
            plain = [worst(without_jackknife(line, one), truth) for line, one in zip(lines, drawn, strict=True)]
            cells = ["–"] * 4
            if errors:
                kept = sum(error <= 0.02 for error in errors)
                cells = [f"{np.median(trusted):.2f} [{trusted.min():.2f}, {trusted.max():.2f}]"]
                cells += [f"{100 * np.median(errors):.1f} %", f"{100 * max(errors):.1f} %", f"{kept} of {len(errors)}"]
            raw = [error for error in plain if error is not None]
            rows.append([str(len(places)), str(samples), *cells, f"{100 * np.median(raw):.1f} %" if raw else "–"])
            print(rows[-1], flush=True)
    return table(
        ["rows", "samples each", "trusted KL", "error, median", "worst", "within 2 %", "without jackknife"], rows
    )


def worst(line: Oracle, true_gain: Callable[[Array], Array]) -> float | None:
    """Return the largest error of a line's gain up to the KL it is trusted to, as a share of the exact gain."""
    if line.trusted_kl == 0:
        return None
    kl = np.linspace(0, math.sqrt(line.trusted_kl), POINTS + 1)[1:] ** 2
    return float(np.abs(gain(line)(kl) / true_gain(kl) - 1).max())


def gain(line: Oracle) -> Callable[[Array], Array]:
    """Return a line's reward over that of the reference."""
    return lambda kl: line.reward(kl) - line.reference.mean()


def without_jackknife(line: Oracle, rewards: Array) -> Oracle:
    """Return the same line from the plain log of the mean exp(r/b)."""
    plain = np.full(rewards.shape, -math.log(rewards.shape[1]))
    found = exact_oracle(plain, rewards)
    return Oracle("exact", found.temperatures, found.bounds, found.reference, found.longest, line.trusted_kl)


def reach(seeds: int) -> str:
    """How far lines of normally distributed rewards are trusted, whose exact line is sqrt(2 k)."""
    rows = []
    for prompts, samples in ((128, 32), (256, 32), (256, 64), (256, 128), (256, 256)):
        cells = []
        for tolerance in (0.02, 0.05, 0.1):
            rewards = [
                np.random.default_rng(seed).normal(size=(prompts, samples)) for seed in range(max(1, seeds // 2))
            ]
            lines = [sampled_oracle(one, tolerance) for one in rewards]
            errors = [error for line in lines if (error := worst(line, lambda k: np.sqrt(2 * k))) is not None]
            kept = f" ({sum(error <= tolerance for error in errors)} of {len(errors)})" if errors else ""
            cells.append(f"{np.median([line.trusted_kl for line in lines]):.2f}{kept}")
        rows.append([str(prompts), str(samples), *cells])
        print(rows[-1], flush=True)
    return table(["prompts", "samples each", "trusted to 2 %", "to 5 %", "to 10 %"], rows)


def joining(draws: int = 300) -> str:
    """Root mean square error of three ways to join five settings at random KLs between 0.2 and 9."""
    curves: dict[str, Callable[[Array], Array]] = {
        "sqrt(2 KL), the line of normal rewards": lambda k: np.sqrt(2 * k),
        "Gao's law, peak at d = 2": lambda k: np.sqrt(k) * (1.7 - np.log(k) / 2),
        "2 − 2 exp(−KL), saturating": lambda k: 2 - 2 * np.exp(-k),
    }
    ways: dict[str, Callable[[Array, Array, Array], Array]] = {
        "linear in KL": lambda q, k, y: np.interp(q, k, y),
        "linear in sqrt(KL)": lambda q, k, y: np.interp(np.sqrt(q), np.sqrt(k), y),
        "PCHIP in sqrt(KL)": lambda q, k, y: PchipInterpolator(np.sqrt(k), y)(np.sqrt(q)),
    }
    rows = []
    for name, curve in curves.items():
        for noise in (0.0, 0.05, 0.1, 0.2):
            rng, errors = np.random.default_rng(0), {way: [] for way in ways}
            for _ in range(draws):
                k = np.sort(np.exp(rng.uniform(math.log(0.2), math.log(9), 5)))
                y = curve(k) + noise * rng.normal(size=5)
                q = np.linspace(math.sqrt(k[0]), math.sqrt(k[-1]), 41)[1:-1] ** 2
                for way, join in ways.items():
                    errors[way].append(join(q, k, y) - curve(q))
            rows.append([name, f"{noise:g}", *(f"{np.sqrt(np.mean(np.square(e))):.3f}" for e in errors.values())])
    return table(["reward", "noise of a point", *ways], rows)


def judging(rounds: int = 5) -> str:
    """CPU seconds in which a reward model judges the reference's samples of the embedded world, median of some."""
    import torch

    from preflab.eval.pipeline.session import Session

    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        experiment = Session({"world": "reviews", "output": folder}).open()
        roles = experiment.open_roles(("policy", "reward"), sft=None, reward=None, trains=("reward",))
        torch.manual_seed(0)
        for parameter in roles.parameters_of("reward"):
            parameter.add_(0.02 * torch.randn_like(parameter))
        roles.save("reward", Path(folder) / "reward")
        prompts = [group.prompt_ids for group in experiment.eval_prompts[:128]]
        for samples in (8, 32):
            batch = experiment.sampler()(roles, "policy", prompts, k=samples, temperature=1.0, seed=0).batch
            ways = ways_to_judge(roles, Path(folder) / "reward", batch)
            spent: dict[str, list[float]] = {name: [] for name in ways}
            for name in list(ways) * rounds:
                start = time.process_time()
                ways[name]()
                spent[name].append(time.process_time() - start)
            found = [way() for way in ways.values()]
            apart = max((one - found[-1]).abs().max().item() for one in found)
            rows.append([str(samples), *(f"{np.median(times):.2f}" for times in spent.values()), f"{apart:.0e}"])
            print(rows[-1], flush=True)
    return table(["samples each", *spent, "largest difference of a score"], rows)


def ways_to_judge(roles: Roles, folder: Path, batch: Batch) -> dict[str, Callable[[], Tensor]]:
    """Return what scores all responses of a batch, in parts of 32 prompts: as it once was done, and as it is."""
    import torch

    from preflab.eval.judges import HeldOutRewardModel
    from preflab.model.in_parts import reward_scores

    judge = HeldOutRewardModel(roles, [folder])
    parts = [batch.rows(slice(at, at + 32)) for at in range(0, len(batch.prompt_ids), 32)]
    many = batch.response_ids.shape[1]

    def each(part: Batch) -> list[Batch]:
        return [part.select(torch.full((len(part.prompt_ids), 1), draw)) for draw in range(many)]

    def read(one: Batch) -> Tensor:
        roles.start_rewards([folder])
        return reward_scores(roles, one, 32)

    def held(one: Batch) -> Tensor:
        return torch.tensor(judge(one, [""] * len(one.prompt_ids), [[""]] * len(one.prompt_ids)))

    return {
        "adapter read for each sample": lambda: torch.cat([torch.cat([read(x) for x in each(p)], 1) for p in parts]),
        "adapter held, one by one": lambda: torch.cat([torch.cat([held(x) for x in each(p)], 1) for p in parts]),
        "adapter held, all at once": lambda: torch.cat([held(p) for p in parts]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--only", default="joining,reach,agreement", help="which tables to make")
    parser.add_argument("--output", type=Path, default=PAGE)
    args = parser.parse_args()
    parts = {
        "judging": judging,
        "joining": joining,
        "reach": lambda: reach(args.seeds),
        "agreement": lambda: agreement(args.seeds),
    }
    for name in args.only.split(","):
        write(args.output, name, parts[name]())
    print(f"written: {args.output}")


if __name__ == "__main__":
    main()
