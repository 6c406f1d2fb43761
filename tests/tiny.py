"""Whole training runs on the workbench's tiny Llama, which take a second."""

from __future__ import annotations

import itertools
import json

import numpy as np

from preflab.data.encoding import EncodedGroup
from preflab.eval.conformance.workbench import END, PAD, VOCABULARY, make_roles
from preflab.sampling.sampler import TransformersSampler
from preflab.settings.training import TrainConfig
from preflab.training.offline import OfflineSource
from preflab.training.rollouts import RolloutSource
from preflab.training.trainer import run_training


def make_groups(count=16, seed=0, size=2):
    random = np.random.default_rng(seed)

    def ids(low, high):
        return random.integers(3, VOCABULARY, random.integers(low, high)).tolist()

    return [EncodedGroup(ids(1, 8), [[*ids(1, 6), END] for _ in range(size)], i) for i in range(count)]


def settings(**changes):
    return TrainConfig(
        **{"learning_rate": 1e-2, "lr_scheduler_type": "constant", "logging_steps": 1, "max_steps": 4, **changes}
    )


def train(algorithm, folder, roles=None, groups=None, source=None, wrap=lambda source: source, snapshots=0, **changes):
    """Train and return roles, record and the lines of metrics."""
    roles = roles or make_roles()
    chosen = settings(**changes)
    if algorithm.needs.responses == "sampled":
        prompts = [group.prompt_ids for group in groups or make_groups()]
        sampler = TransformersSampler(END, PAD, 6)
        source = RolloutSource(algorithm, algorithm.needs, roles, sampler, prompts, chosen, seed=5)
    else:
        rows = groups or make_groups()
        source = OfflineSource(rows, chosen, PAD, seed=5, algorithm=algorithm, roles=roles)
    folder.mkdir(exist_ok=True)
    record = run_training(roles, algorithm, wrap(source), chosen, folder, seed=3, title="test", snapshots=snapshots)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return roles, record, lines


class KilledError(Exception):
    """A run dies, as by a signal."""


def dying_after(count):
    """Return what makes a source raise `KilledError` after so many micro-batches."""

    def wrap(source):
        class Dying(type(source)):
            def __init__(self):
                vars(self).update(vars(source))

            def batches(self, start_step):
                yield from itertools.islice(super().batches(start_step), count)
                raise KilledError

        return Dying()

    return wrap
