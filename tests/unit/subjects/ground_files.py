"""Settings, rows and adapters that subjects are made of."""

from __future__ import annotations

import numpy as np
import torch

from preflab.disk.stages import Run
from preflab.eval.judges import JudgeSpec
from preflab.eval.records.columns import column
from preflab.eval.settings import EvalConfig
from preflab.experiment.experiment import Experiment
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings
from preflab.worlds import WorldConfig

LORA = LoraSettings(lora_rank=4, lora_alpha=8)
CONFIG = EvalConfig(eval_prompts=6, eval_pairs=10, eval_batch_size=4)


def rows(count):
    draw = np.random.default_rng(0)

    def words(n):
        return " ".join(f"word{i}" for i in draw.integers(0, 24, n))

    return [
        {"prompt": words(4), "chosen": " " + words(3), "rejected": " " + words(5), "subset": ("easy", "hard")[i % 2]}
        for i in range(count)
    ]


def open_experiment(pairs, model, run, **world):
    config = WorldConfig(model=str(model), heldout=str(pairs), max_prompt_tokens=16, max_response_tokens=8, **world)
    return Experiment(Run(run), config, LORA, run)


def random_role(experiment, lora, role, folder):
    """Save an adapter that says something."""
    roles = Roles(experiment.load_base(), lora, (role,))
    generator = torch.Generator().manual_seed(len(folder.name))
    with torch.no_grad():
        for parameter in roles.parameters_of(role):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    if role == "reward":
        roles.head(role).mean.fill_(0.3)
        roles.head(role).std.fill_(0.7)
    roles.save(role, folder)


def spec_of(opens):
    return JudgeSpec("a judge", "key", (), opens)


def read(records, name):
    """Return a column, whichever of the two tables has it."""
    found = column([records.samples], name)
    found = column([records.preferences], name) if found is None else found
    return None if found is None else found[0]


def close(first, second, names, tolerance=1e-4):
    for name in names:
        assert np.allclose(read(first, name), read(second, name), atol=tolerance), name
