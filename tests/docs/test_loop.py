"""docs/loop.py, which is read first: it runs, learns, and takes the very steps of the trainer."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from preflab.eval.conformance import workbench
from preflab.method.configured import make_method
from preflab.sampling.sampler import TransformersSampler

PAGE = Path(__file__).parents[2] / "docs" / "loop.py"
SETTINGS = {"lr_scheduler_type": "cosine", "warmup_steps": 2, "weight_decay": 0.1, "max_grad_norm": 0.5, "max_steps": 7}
METHODS = {"dpo": {"beta": 0.5}, "ppo": {"samples_per_prompt": 2, "kl_coefficient": 0.2}}


@pytest.fixture(scope="module")
def loop():
    spec = importlib.util.spec_from_file_location("loop", PAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def learnt(loop, method, seed=5):
    """Return the roles that the page's own loop leaves, and the number of steps it took."""
    roles, algorithm, train = workbench.roles_for(method), method.fresh(), method.train
    groups = workbench.make_groups(method.needs.responses)
    if method.needs.responses == "sampled":
        sampler, prompts = TransformersSampler(workbench.END, workbench.PAD, workbench.LIMIT), groups
        ids = [group.prompt_ids for group in prompts]
        batches = loop.rollout_batches(algorithm, roles, sampler, ids, train, seed)
    else:
        batches = loop.offline_batches(groups, train, workbench.PAD, seed)
    return roles, list(loop.learn(algorithm, roles, batches, train))


def largest_difference(method, one, other):
    pairs = [
        (mine, theirs)
        for role in method.needs.trains
        for mine, theirs in zip(one.parameters_of(role), other.parameters_of(role), strict=True)
    ]
    return max((mine - theirs).abs().max().item() for mine, theirs in pairs)


@pytest.mark.parametrize("name", METHODS)
def test_the_page_takes_the_steps_of_the_trainer(name, loop, tmp_path):
    """Two rollouts of PPO, the second one begun; three passes over DPO's rows, and a part of the fourth."""
    method = workbench.small(make_method(name, METHODS[name]), **SETTINGS)
    trained = workbench.train(method, tmp_path)
    roles, lines = learnt(loop, method)
    assert largest_difference(method, roles, workbench.roles_for(method)) > 1e-3, "nothing was learnt"
    assert largest_difference(method, roles, trained.roles) < 1e-6
    assert len(lines) == len([line for line in trained.lines if "grad_norm" in line]) == SETTINGS["max_steps"]
    for mine, theirs in zip(lines, trained.lines, strict=False):
        assert mine == {metric: pytest.approx(theirs[metric], abs=1e-5) for metric in mine}
    assert largest_difference(method, learnt(loop, method, seed=6)[0], trained.roles) > 1e-3, "the data's order is told"


def test_the_page_trains_both_methods_towards_the_optimum(loop, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loop, "SHARED", {**loop.SHARED, "max_steps": 25})
    with torch.random.fork_rng():
        loop.main(str(tmp_path))
    said = capsys.readouterr().out
    best, *reached = (float(number) for number in re.findall(r"reward - KL (\S+)", said))
    (start,) = re.findall(r"start: reward (\S+)", said)
    assert len(reached) == 2, said
    # Most of the way in a quarter of the page's steps.
    assert all(float(start) + 0.7 * (best - float(start)) < found <= best for found in reached), said
