"""Native methods and TRL's trainers take the same steps on a base in 4 or 8 bits too."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from trl_methods import METHODS
from trl_runs import LORA, TOLERANCE, algorithm_of, apart, lines_of, train_config

from preflab.method import registry
from preflab.training.offline import OfflineSource
from preflab.training.trainer import run_training

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install preflab[quantised])")


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_steps_go_the_same_way(setting, method, bits):
    train, lora = train_config(max_steps=12), dataclasses.replace(LORA, load_in=bits)
    native, backed = setting.roles(method, lora=lora), setting.roles(method, lora=lora)
    algorithm, folder = algorithm_of(registry.load(method)), setting.folder / "native"
    folder.mkdir()
    source = OfflineSource(setting.groups[method], train, 0, 3, algorithm=algorithm, roles=native)
    run_training(native, algorithm, source, train, folder, seed=3, title="native")
    task = setting.task(method, backed, train, folder=setting.folder / "trl")
    algorithm_of(METHODS[method]).fit(task)
    ours, theirs = lines_of(folder), lines_of(task.folder)
    losses = [line["loss"] for line in ours]
    assert max(losses) - min(losses) > 1000 * TOLERANCE
    assert apart(ours, theirs) < TOLERANCE
    role = METHODS[method].needs.trains[0]
    for a, b in zip(native.parameters_of(role), backed.parameters_of(role), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
