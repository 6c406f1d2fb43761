"""The contract's checks over every registered method, and the proof that each check can fail."""

from __future__ import annotations

import time

import pytest
import torch

from preflab.algorithms.rloo import RLOO
from preflab.eval.conformance.checks import CHECKS, NotApplicableError
from preflab.method import registry
from preflab.method.configured import Method, make_method
from preflab.method.contract import Mean
from preflab.model.roles import Roles
from preflab.training.rollouts import RolloutSource

NAMES = sorted(registry.registered())


def checked(check, method):
    """Return what is wrong, or skip."""
    try:
        return CHECKS[check](method)
    except NotApplicableError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_every_method_keeps_the_contract(name, check):
    assert checked(check, make_method(name)) is None


def changed(name, change):
    """Return a method whose loss is changed."""
    method = make_method(name)
    kind = type(method.algorithm)

    class Changed(kind):
        def loss(self, batch, scores):
            return change(super().loss(batch, scores), batch, scores, self)

    return Method(name, Changed, method.config, method.train)


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_sign_is_caught(name):
    def negated(loss, *_):
        return loss._replace(values=-loss.values)

    assert checked("direction", changed(name, negated)) is not None


def nan(loss, *_):
    return loss._replace(values=loss.values * float("nan"))


def wrong_shape(loss, *_):
    return loss._replace(values=loss.values.mean())


def secret(loss, *_):
    return loss._replace(metrics={**loss.metrics, "secret": Mean(torch.zeros(()), torch.ones(()))})


def unlogged(loss, *_):
    return loss._replace(metrics=dict(list(loss.metrics.items())[1:]))


def reads_padding(loss, batch, scores, _):
    return loss._replace(values=loss.values + scores.logps.sum(-1).diff(dim=1).squeeze(1))


def constant(loss, *_):
    return loss._replace(values=loss.values.detach() + 0 * loss.values)


def reads_the_clock(loss, *_):
    return loss._replace(values=loss.values * (1 + time.perf_counter() % 1))


def counts_calls(loss, batch, scores, algorithm):
    algorithm.calls = getattr(algorithm, "calls", 0) + 1
    return loss._replace(values=loss.values * algorithm.calls)


def averages_itself(loss, *_):
    return loss._replace(values=loss.values / len(loss.values))


def knows_the_width(loss, batch, *_):
    return loss._replace(values=loss.values * batch.response_ids.shape[-1])


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        ("finite loss", nan),
        ("finite loss", wrong_shape),
        ("declared metrics", secret),
        ("declared metrics", unlogged),
        ("masked junk", reads_padding),
        ("own gradients", constant),
        ("frozen roles", constant),
        ("same seed", reads_the_clock),
        ("resumed", counts_calls),
        ("accumulation", averages_itself),
        ("padding", knows_the_width),
    ],
)
@pytest.mark.parametrize("name", ["dpo", "rloo"])
def test_a_fault_is_caught(name, check, fault):
    if (name, fault) == ("rloo", reads_padding):
        pytest.skip("written for pairs")
    assert CHECKS[check](changed(name, fault)) is not None
    assert CHECKS[check](make_method(name)) is None


def test_a_loss_that_is_not_separable_is_caught():
    def entangled(loss, batch, scores, _):
        return loss._replace(values=loss.values + scores.logps * scores.values)

    found = CHECKS["own gradients"](changed("ppo", entangled))
    assert found is not None
    assert "separable" in found


def test_state_that_is_not_carried_is_caught():
    class Forgetful(RLOO):
        """Scales its advantages by how many rollouts it has seen, and tells no checkpoint."""

        seen = 0

        def advantages(self, rewards, rollout):
            self.seen += 1
            return super().advantages(rewards, rollout) * self.seen**2

    class Mindful(Forgetful):
        def advantages(self, rewards, rollout):
            self.seen = self.state.get("seen", 0)
            advantages = super().advantages(rewards, rollout)
            self.state["seen"] = self.seen
            return advantages

    rloo = make_method("rloo")
    assert CHECKS["resumed"](Method("forgetful", Forgetful, rloo.config, rloo.train)) is not None
    assert CHECKS["resumed"](Method("mindful", Mindful, rloo.config, rloo.train)) is None


def test_a_base_that_learns_is_caught(monkeypatch):
    original = Roles.learn

    def learn(self, roles):
        chosen = original(self, roles)
        for name, parameter in self.named_parameters():
            if roles and "q_proj.base" in name:
                parameter.requires_grad_(True)
        return chosen

    monkeypatch.setattr(Roles, "learn", learn)
    for check in ("own gradients", "frozen roles"):
        assert "q_proj.base" in CHECKS[check](make_method("dpo"))


def test_a_reference_that_moves_is_caught(monkeypatch):
    method = make_method("rloo", {"reference_mixup": 1.0})
    with pytest.raises(NotApplicableError):
        CHECKS["frozen roles"](method)

    def collect(self, index):
        self.roles.blend("policy", "reference", 1.0)
        return original(self, index)

    original = RolloutSource.collect
    monkeypatch.setattr(RolloutSource, "collect", collect)
    assert "reference" in CHECKS["frozen roles"](make_method("rloo"))
