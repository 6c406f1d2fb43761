"""Methods are of three kinds, told apart by their tag and by nothing else."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

from preflab import DecoderMethod, LossMethod, Needs, TrainerMethod, UserError
from preflab.method import registry
from preflab.method.configured import make_method
from preflab.method.contract import decoder_of
from preflab.training.budget import Budget, under_budget

ROOT = Path(__file__).resolve().parents[3]
KINDS = {"loss": LossMethod, "trainer": TrainerMethod, "decoder": DecoderMethod}

# What looks into objects of other libraries, of other versions of them, or into what a person brought along.
FOREIGN = {
    "eval/harness/rows.py",
    "preflab/errors/answering.py",
    "preflab/experiment/given_rewards.py",
    "preflab/experiment/rewards.py",
    "preflab/method/plugins.py",
    "preflab/model/opening.py",
    "preflab/model/role_adapters.py",
    "preflab/model/work.py",
    "preflab/sampling/vllm_engine.py",
    "preflab/scoring/fused.py",
    "preflab/scoring/logps.py",
    "preflab/settings/fields.py",
    "preflab/settings/values.py",
    "preflab/training/trl.py",
    "preflab/worlds/context.py",
    "preflab/worlds/function/samples.py",
}


def guesses(source):
    """Return the lines that ask what an object has: `hasattr`, and `getattr` of a name that is written out."""
    calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    return [
        call.lineno
        for call in calls
        if call.func.id == "hasattr" or (call.func.id == "getattr" and isinstance(call.args[1], ast.Constant))
    ]


def test_nothing_is_told_apart_by_what_it_happens_to_have():
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("preflab", "eval", "recipes", "algorithms")
        for path in (ROOT / package).rglob("*.py")
        if guesses(path.read_text(encoding="utf-8"))
    }
    assert found - FOREIGN == set()


def test_guesses_are_seen():
    source = "hasattr(a, 'fit')\ngetattr(a, 'decode', None)\ngetattr(a, name)\na.fit"
    assert guesses(source) == [1, 2]


@pytest.mark.parametrize("name", sorted(registry.registered()))
def test_every_method_is_of_one_kind(name):
    algorithm = make_method(name).algorithm
    assert [kind for kind, cls in KINDS.items() if isinstance(algorithm, cls)] == [algorithm.kind]
    assert (decoder_of(algorithm) is None) == (algorithm.kind != "decoder")


@dataclass(frozen=True)
class NoFields:
    pass


class OwnTrainer(TrainerMethod):
    Config = NoFields
    needs = Needs("pair", ("policy",))

    def __init__(self, config):
        self.config = config

    def fit(self, task):
        return None


def test_what_a_kind_gives_without_being_asked():
    own = OwnTrainer(NoFields())
    assert (own.training, own.metrics, own.label_noise, own.optimum(None, None)) == ({}, {}, 0.0, None)
    state = make_method("dpo").algorithm.state
    assert state == {}
    with pytest.raises(TypeError):
        state["carried"] = 1.0


def test_a_trainer_that_says_nothing_of_budgets_keeps_none():
    with pytest.raises(UserError, match="OwnTrainer brings a trainer that is held to no budget"):
        OwnTrainer(NoFields()).check_budget(Budget("tokens", 1.0))
    assert under_budget(make_method("dpo"), Budget("tokens", 7.0)).train.budget == 7.0


def test_a_rollout_that_nothing_prepares_is_no_silent_one():
    with pytest.raises(UserError, match="DPO is given rollouts"):
        make_method("dpo").algorithm.prepare(None)


def test_a_trainer_has_what_is_said_of_the_method_it_stands_for():
    theirs, ours = (make_method(name, {"loss_normalisation": "token"}) for name in ("trl-grpo", "grpo"))
    assert theirs.needs == ours.needs != make_method("grpo").needs
    assert (theirs.algorithm.metrics, type(theirs.algorithm).Config) == (ours.algorithm.metrics, type(ours.config))


def test_a_class_on_one_that_is_backed_by_another_trainer_says_its_own():
    dpo = registry.load("trl-dpo")
    faster = type("Faster", (dpo,), {"training": {"learning_rate": 0.5}})
    assert (faster.training, faster.needs, faster.Config) == ({"learning_rate": 0.5}, dpo.needs, dpo.Config)
