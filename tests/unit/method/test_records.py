"""The records of the contract: what was not asked for is refused by name, and defaults are nobody's to change."""

from __future__ import annotations

import copy
from operator import attrgetter

import pytest
import torch
from tiny import train

from preflab import Batch, Loss, Pairwise, Scores, UserError
from preflab.method import registry
from preflab.method.configured import make_method
from preflab.method.records import FIELDS


@pytest.mark.parametrize("role", FIELDS)
def test_scores_that_nobody_asked_for_name_the_role(role):
    others = {field: torch.zeros(1) for field in FIELDS.values() if field != FIELDS[role]}
    scores = Scores(**others)
    with pytest.raises(LookupError, match=rf"no {FIELDS[role]}: Needs\.scores .*Needs\.rollout\) names no '{role}'"):
        attrgetter(FIELDS[role])(scores)
    assert scores.of(role) is None
    assert [scores.of(other) is not None for other in FIELDS if other != role] == [True] * 3


def test_scores_are_a_tuple_still():
    logps, rewards = torch.zeros(2, 1, 3), torch.ones(2, 1)
    scores = Scores(logps, rewards=rewards)
    assert scores == (logps, None, None, rewards)
    assert scores._replace(values=logps).values is logps
    assert scores._asdict() == {"logps": logps, "reference_logps": None, "values": None, "rewards": rewards}
    assert copy.copy(scores).rewards is rewards


OWN = """
from dataclasses import dataclass
from preflab import Loss, LossMethod, Needs

@dataclass(frozen=True)
class Settings:
    pass

class Mine(LossMethod):
    Config = Settings
    needs = Needs("pair", ("policy",))

    def __init__(self, config):
        self.config = config

    def loss(self, batch, scores):
        return Loss((scores.logps - scores.reference_logps).sum((1, 2)))
"""


def test_a_loss_of_ones_own_that_reads_more_is_answered_by_file_and_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN, encoding="utf-8")
    wanted = (
        r"Mine\.loss raised LookupError: there are no reference_logps: .*names no 'reference' \(.*mine\.py, line 17\)"
    )
    with pytest.raises(UserError, match=wanted):
        train(make_method(f"{path}:Mine").fresh(), tmp_path / "run", max_steps=1)


@pytest.mark.parametrize("name", sorted(registry.registered()))
def test_pairwise_losses_read_the_reference_if_they_ask_for_it(name):
    algorithm = make_method(name).algorithm
    if isinstance(algorithm, Pairwise) and "reference" in algorithm.needs.scores:
        with pytest.raises(LookupError, match="'reference'"):
            algorithm.loss(pair_batch(), Scores(torch.zeros(1, 2, 1)))


def pair_batch():
    one = torch.ones(1, 2, 1, dtype=torch.long)
    return Batch(one[:, 0], one[:, 0].bool(), one, one.bool())


def test_metrics_of_a_loss_are_its_own():
    with pytest.raises(TypeError):
        Loss(torch.zeros(1)).metrics["mine"] = None
