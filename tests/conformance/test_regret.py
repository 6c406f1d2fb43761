"""Every method with a known optimum gets there: short runs here; the full ones are told of in docs/conformance.md."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from preflab.eval.conformance.figures import Suite
from preflab.eval.conformance.floor import exact_gradient
from preflab.experiment.experiment import Experiment
from preflab.method import registry
from preflab.method.configured import Method
from preflab.settings.training import LoraSettings, RolloutConfig, TrainConfig

NAMES = sorted(registry.registered())
QUICK = {"dpo", "ppo", "reward"}  # one of each kind; the others are for `make test-all`
STEPS, SHARE = 60, 0.08
"""Steps of a short run, and the regret it may leave; full runs leave less than a tenth of that."""


@pytest.fixture(scope="module")
def suite(session, experiment, cache):
    """The suite of the recipe, with less data."""
    lora = dataclasses.replace(session.lora, target_modules=LoraSettings().target_modules)
    plain = Experiment(experiment.run, session.world, lora, cache)
    return Suite(experiment, plain, groups=15360)


def shortened(session, name, steps=STEPS, **fields):
    """Return a method with the recipe's settings, but for a short run."""
    method = session.method(name)
    train = dataclasses.replace(method.train, max_steps=steps, logging_steps=steps)
    if isinstance(method.config, RolloutConfig):
        # As many samples as it takes for the bound, whatever the method is given in the long run.
        samples = min(method.config.samples_per_prompt, 64)
        fields = {"samples_per_prompt": samples, **fields}
    else:
        train = dataclasses.replace(train, per_device_train_batch_size=256)
    return Method(name, type(method.algorithm), dataclasses.replace(method.config, **fields), train)


def measured(suite, method, monkeypatch):
    """Return a method's figures without the floor, told exact labels if it can be."""
    monkeypatch.setattr(suite, "floor", lambda *args: 0.0)
    return suite.measure(method, suite.labels(method)[0])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]
)
def test_methods_come_near_their_optimum(name, session, suite, monkeypatch):
    method = shortened(session, name)
    if method.algorithm.kind != "loss":
        pytest.skip("brings its own trainer; see docs/conformance.json")
    optimum = suite.optimum(method)
    if optimum is None and method.needs.trains[0] == "policy":
        pytest.skip("no optimum is known")
    found = measured(suite, method, monkeypatch)
    if found.r2 is not None:
        assert found.r2 > 0.6, "it starts at 0, and full runs end past 0.99"
        return
    # Sampled rankings say less in so few steps than probabilities do.
    assert found.regret < (SHARE if "exact" in suite.labels(method) else 3 * SHARE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "rloo"])
def test_full_runs_keep_the_bound(name, session, suite, monkeypatch):
    found = measured(suite, session.method(name), monkeypatch)
    assert found.regret <= 0.005
    assert found.gain_low > 0


def held_back(name, session, field):
    """Return a method whose β is three times what it should be: its fixed point is another one."""
    method = shortened(session, name)
    config = dataclasses.replace(method.config, **{field: 3 * getattr(method.config, field)})
    true = method.algorithm

    class Mistaken(type(method.algorithm)):
        def optimum(self, batch, scores):
            return true.optimum(batch, scores)

    return Method(name, Mistaken, config, method.train)


@pytest.mark.parametrize(("name", "field"), [("dpo", "beta"), ("rloo", "kl_coefficient")])
def test_a_wrong_strength_is_far_from_the_optimum(name, field, session, suite, monkeypatch):
    assert measured(suite, held_back(name, session, field), monkeypatch).regret > 3 * SHARE


@pytest.mark.parametrize("name", ["dpo", "rloo"])
def test_a_flipped_sign_goes_away_from_the_optimum(name, session, suite, monkeypatch):
    method = shortened(session, name, steps=10)

    class Flipped(type(method.algorithm)):
        def loss(self, batch, scores):
            loss = super().loss(batch, scores)
            return loss._replace(values=-loss.values)

    right = measured(suite, method, monkeypatch)
    wrong = measured(suite, Method(name, Flipped, method.config, method.train), monkeypatch)
    assert right.regret < 1 < wrong.regret
    assert wrong.gain < 0 < right.gain


def test_the_exact_gradient_is_that_of_the_objective(experiment, exact):
    """∇ KL(π‖π*) = −∇ J(π)/β, at a policy that is neither."""
    roles, beta = experiment.open_roles(("policy",), sft=None, reward=None).double(), 0.7
    weights = roles.learn(("policy",))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in weights:
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    batch = exact.batch
    scores = roles(batch, ("policy",))
    logps = scores.logps.sum(-1)
    objective = (logps.exp() * (exact.rewards - beta * (logps - exact.reference))).sum()
    towards = exact_gradient(exact.groups, exact.kl_optimum(beta), TrainConfig(max_steps=1))
    ours = towards.algorithm.loss(batch, scores).values.sum()
    found = torch.autograd.grad(ours, weights, retain_graph=True)
    expected = torch.autograd.grad(-objective / beta, weights)
    assert max(gradient.abs().max() for gradient in expected) > 1e-2
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
