"""The loss of a method that a person brought along is called once before anything is trained."""

from __future__ import annotations

import re

import pytest
import torch

from preflab import UserError
from preflab.method import registry
from preflab.method.configured import make_method
from preflab.training.rehearsal import rehearse, try_loss

METHOD = """
from dataclasses import dataclass
from preflab import Needs, Pairwise, PolicyGradient, PolicyGradientConfig, mean_of

@dataclass(frozen=True)
class Settings:
    pass

class Pairs(Pairwise):
    Config = Settings
    def pair_loss(self, pair): return -pair.margin

class Samples(PolicyGradient):
    Config = PolicyGradientConfig
    def advantages(self, rewards, rollout): return rewards

"""
WRONG = {
    "a metric undeclared": (
        "class Mine(Pairs):\n    def loss(self, batch, scores):\n        loss = super().loss(batch, scores)\n"
        "        return loss._replace(metrics={'acuracy': mean_of(loss.values)})",
        r"Mine.loss returned the metric 'acuracy', which metrics does not declare \(did you mean 'accuracy'\?\)",
    ),
    "a dictionary of feedback": (
        "class Mine(Samples):\n    def prepare(self, rollout):\n"
        "        return rollout.batch._replace(feedback={'advantages': rollout.scores.rewards})",
        "Mine.prepare raised AttributeError: 'Batch' object has no attribute '_replace'",
    ),
    "a key of feedback": (
        "class Mine(Samples):\n    def loss(self, batch, scores): return batch.feedback['advantages']",
        "Mine.loss raised TypeError: 'PolicyFeedback' object is not subscriptable",
    ),
    "a mean": (
        "class Mine(Pairs):\n    def pair_loss(self, pair): return pair.margin.mean()",
        r"Mine.pair_loss returned shape \(\)",
    ),
    "a score not asked for": (
        "class Mine(Pairs):\n    def loss(self, batch, scores): return scores.values",
        "Mine.loss raised LookupError: there are no values",
    ),
}


@pytest.mark.parametrize("body", WRONG)
def test_a_loss_that_fails_is_refused_before_anything_is_trained(body, tmp_path):
    source, message = WRONG[body]
    path = tmp_path / "mine.py"
    path.write_text(METHOD + source, encoding="utf-8")
    with pytest.raises(UserError, match=message) as refused:
        rehearse(make_method(f"{path}:Mine"))
    assert re.search(rf"{re.escape(str(path))}, line \d+", str(refused.value))


@pytest.mark.parametrize("body", ["Pairs", "Samples"])
def test_one_that_keeps_the_contract_is_not_and_draws_no_random_number(body, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(METHOD, encoding="utf-8")
    before = torch.get_rng_state()
    rehearse(make_method(f"{path}:{body}"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", sorted(registry.registered()))
def test_no_loss_of_ours_would_be_refused(name):
    algorithm = make_method(name).fresh()
    if algorithm.kind == "loss":
        try_loss(algorithm, torch.device("cpu"))
