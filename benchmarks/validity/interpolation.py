"""Equal KL from one run, against the sweep it stands for, where KL and reward are sums: figures of docs/frontier.md.

    python -m benchmarks.validity.interpolation [--write]

In the exact world methods are trained at several prices of KL, which is the sweep. The run at the lowest price, the one
furthest from the reference, is then taken back towards it, and past itself, in three ways: its adapter scaled, the
log-probabilities of each next token mixed, or those of whole responses. Every policy's KL and reward are exact; each
seed draws data and training anew, and is held against its own sweep. Some twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.pages import table, write
from benchmarks.validity.oracle_line import PAGE, gain
from preflab.disk.stages import Stage
from preflab.eval.conformance.data import Labels, training_groups
from preflab.eval.conformance.exact import Exact
from preflab.eval.frontier import Oracle, exact_oracle
from preflab.eval.pipeline.session import Session
from preflab.experiment.sweep import Sweep
from preflab.method.maths import masked_sum
from preflab.model.interpolation import interpolate

PRICES = Sweep.parse("beta=8,4,2,1,0.5,0.25")
SHARES = (0.1, 0.25, 0.5, 0.75, 1.25)
SEEDS = (0, 1, 2)
HEADINGS = ("trained", "curve", "at", "KL", "reward", "of the attainable gain, %", "reward against the sweep")
NOTHING = "–"


class Trained(NamedTuple):
    """A method and what it is told.

    Attributes:
        method: its name.
        labels: of its pairs; None: it samples, and is told the reward.
        pairs: how many.
    """

    method: str
    labels: Labels | None = None
    pairs: int = 0


RUNS = {
    "rloo, told r": Trained("rloo"),
    "dpo, exact labels": Trained("dpo", "exact", 19200),
    "dpo, 2,048 drawn labels": Trained("dpo", "sampled", 2048),
}


class Place(NamedTuple):
    """Where a policy stands, means over prompts.

    Attributes:
        kl: KL(π‖π_ref), nats.
        reward: E_π[r].
        share: of the gain over the reference that is attainable at that KL.
    """

    kl: float
    reward: float
    share: float


class Ground:
    """The exact world, its oracle line, and where policies stand against it.

    Args:
        exact: everything enumerated.
    """

    def __init__(self, exact: Exact) -> None:
        self.exact = exact
        self.line: Oracle = exact_oracle(exact.reference.numpy(), exact.rewards.numpy())

    def place(self, logps: Tensor) -> Place:
        """Return where a policy ``[X, N]`` stands."""
        kl, reward = (float(x.mean()) for x in (self.exact.position(logps).kl, self.exact.position(logps).reward))
        return Place(kl, reward, (reward - float(self.line.reference.mean())) / float(gain(self.line)(np.array(kl))))

    def over(self, sweep: Sequence[Place], place: Place) -> float | None:
        """Return by how much a place lies above a sweep's curve at its KL; None where the sweep does not reach.

        What is joined between settings, in a straight line over sqrt(KL), is the share of the attainable gain: it
        hardly bends, where the reward itself does, and would be joined too low.
        """
        ordered = sorted(sweep)
        if not ordered[0].kl <= place.kl <= ordered[-1].kl:
            return None
        places, shares = [math.sqrt(one.kl) for one in ordered], [one.share for one in ordered]
        joined = float(np.interp(math.sqrt(place.kl), places, shares))
        return (place.share - joined) * float(gain(self.line)(np.array(place.kl)))


def ways(exact: Exact, folder: Path) -> Mapping[str, Callable[[float], Tensor]]:
    """Return what takes a saved policy a share of the way from the reference: log π_λ, ``[X, N]``, of the share."""
    mask, tokens = exact.batch.response_mask, exact.token_logps(exact.opened(folder), "policy")

    def scaled(share: float) -> Tensor:
        roles = exact.opened(folder)
        interpolate(roles, "policy", None, share)
        return masked_sum(exact.token_logps(roles, "policy"), mask)

    return {
        "weights scaled": scaled,
        "tokens mixed": lambda share: exact.mixed_by_token(tokens, share),
        "responses mixed": lambda share: exact.mixed_by_response(masked_sum(tokens, mask), share),
    }


def swept(session: Session, exact: Exact, told: Trained, seed: int) -> dict[float, Stage]:
    """Train a method at every price of KL, dearest first, on the same data."""
    experiment, found = exact.experiment, {}
    groups = told.labels and training_groups(exact, "pair", told.pairs, labels=told.labels, seed=seed)
    reward = None if told.labels else experiment.gold_reward()
    for price, setting in zip(PRICES.values, PRICES.settings(session.method(told.method)), strict=True):
        method, name = session.method(told.method, setting), f"{told.method}-{told.pairs}-{price}-seed{seed}"
        found[price] = experiment.train(name, method, seed=seed, reward=reward, groups=groups)
    return found


def measured(ground: Ground, stages: Mapping[float, Stage]) -> dict[tuple[str, str], tuple[Place, float | None]]:
    """Return the sweep of one run, and the three curves of its cheapest setting with what they are over the sweep."""
    exact = ground.exact
    sweep = {price: ground.place(exact.logps(stage.folder / "policy")) for price, stage in stages.items()}
    found: dict[tuple[str, str], tuple[Place, float | None]] = {}
    for price, place in sweep.items():
        found["sweep", f"β = {price:g}"] = place, None
    for way, policy in ways(exact, stages[min(stages)].folder / "policy").items():
        for share in SHARES:
            place = ground.place(policy(share))
            found[way, f"λ = {share:g}"] = place, ground.over(list(sweep.values()), place)
    return found


def row(name: str, curve: str, at: str, seeds: Sequence[tuple[Place, float | None]]) -> list[str]:
    """Return a row of the table: means over seeds, and the least and the most that any is over its sweep."""
    kl, reward, share = np.mean([place for place, _ in seeds], axis=0)
    over = [value for _, value in seeds if value is not None]
    against = f"{np.mean(over):+.3f} [{min(over):+.3f}, {max(over):+.3f}]" if len(over) == len(seeds) else NOTHING
    return [name, curve, at, f"{kl:.2f}", f"{reward:.2f}", f"{100 * share:.1f}", against]


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    lines: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        session = Session({"world": "exact", "output": folder})
        ground = Ground(Exact(session.open()))
        for name, told in RUNS.items():
            seeds = [measured(ground, swept(session, ground.exact, told, seed)) for seed in SEEDS]
            lines += [row(name, *key, [found[key] for found in seeds]) for key in seeds[0]]
    found = table(HEADINGS, lines)
    print(found)
    if args.write:
        write(PAGE, "interpolation", found)


if __name__ == "__main__":
    main()
