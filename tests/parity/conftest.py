"""Groups, roles and tasks for native methods and TRL's trainers alike."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from trl_methods import METHODS
from trl_runs import LORA, shake

from preflab.data.encoding import EncodedGroup
from preflab.model.base import load_base
from preflab.model.roles import Roles
from preflab.training.task import Task


@pytest.fixture(scope="module")
def groups(tiny_tokenizer):
    """Ragged prompts (2 to 9 tokens) and ragged responses (2 to 12, the end token included), as each method reads them.

    Singles: two in five are desirable.
    """
    rng = np.random.default_rng(0)

    def words(low, high):
        return rng.integers(4, len(tiny_tokenizer), rng.integers(low, high)).tolist()

    pairs = [EncodedGroup([1, *words(1, 9)], [[*words(1, 12), 2], [*words(1, 12), 2]], row) for row in range(30)]
    ones = [group._replace(response_ids=group.response_ids[:1]) for group in pairs]
    singles = [group._replace(feedback={"desirable": float(group.row % 5 < 2)}) for group in ones]
    return {"sft": ones, "dpo": pairs, "kto": singles, "reward": pairs}


@pytest.fixture
def setting(tiny_model_path, tiny_tokenizer, groups, tmp_path):
    """Makes roles and tasks; what differs between tests is an argument."""

    def make_roles(method, start="fresh", lora=LORA, seed=7):
        role = METHODS[method].needs.trains[0]
        roles = Roles(load_base(str(tiny_model_path), lora), lora, ("policy",), seed=seed)
        if start != "fresh":
            shake(roles.parameters_of("policy"), 1)
        if start in ("sft", "apart") and METHODS[method].needs.uses("reference"):
            roles.clone("policy", "reference")
        if start == "apart":
            shake(roles.parameters_of("policy"), 2)
        if role == "reward":
            roles.add("reward")
            if start != "fresh":
                roles.clone("policy", "reward")
        roles.learn(())
        return roles

    def make_task(method, roles, train, seed=3, tokenizer=tiny_tokenizer, folder=tmp_path):
        folder.mkdir(exist_ok=True)
        return Task(roles, groups[method], train, tokenizer, folder, seed, "test")

    return SimpleNamespace(roles=make_roles, task=make_task, groups=groups, folder=tmp_path)
