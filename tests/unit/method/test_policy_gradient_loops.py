"""Policy gradients against independent loops, with junk under the masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from policy_gradient_loops import advantages_by_loop, losses_by_loop
from rollouts import LENGTHS, NAN, WHOLE, cases, make_rollout, moved

from preflab.algorithms.a2c import A2C, A2CConfig
from preflab.algorithms.reinforce import REINFORCE, REINFORCEConfig
from preflab.algorithms.rloo import RLOO, RLOOConfig
from preflab.method.contract import Algorithm, KnownOptimum, Prepares, Scores, unit_mask


@cases
def test_advantages_by_loop(method, config):
    rollout = make_rollout(junk=NAN)
    feedback = vars(method(config).prepare(rollout).feedback)
    expected, targets = advantages_by_loop(method, config, rollout)
    for name, rows in (("advantages", expected), ("returns", targets or {})):
        for index, row in rows.items():
            found = feedback[name][index].flatten().tolist()
            found = found * len(row) if len(found) == 1 else found[: len(row)]
            assert found == pytest.approx(row, rel=1e-9, abs=1e-9), (name, index)


@cases
@pytest.mark.parametrize("junk", [NAN, float("inf"), 1e30])
def test_loss_by_loop(method, config, junk):
    rollout = make_rollout(junk=junk)
    algorithm = method(config)
    batch, scores = algorithm.prepare(rollout), moved(rollout, junk=junk)
    loss = algorithm.loss(batch, scores)
    mask = unit_mask(batch, algorithm.needs.unit)
    assert loss.values.shape == mask.shape
    for index, row in losses_by_loop(method, config, rollout, scores).items():
        how = "token" if method in WHOLE else config.loss_normalisation
        if how == "response":
            row = [np.mean(row)]
        if how == "constant":
            row = [sum(row) / config.loss_constant]
        found = loss.values[index].flatten().tolist()[: len(row)]
        assert found == pytest.approx(row, rel=1e-9, abs=1e-9), index
    assert set(loss.metrics) == set(algorithm.metrics)
    assert all(math.isfinite(m.total.item() / m.items.item()) for m in loss.metrics.values())


@cases
def test_junk_reaches_no_gradient(method, config):
    found = []
    for junk in (0.0, NAN):
        rollout = make_rollout(junk=junk)
        algorithm = method(config)
        batch, scores = algorithm.prepare(rollout), moved(rollout, junk=junk)
        leaf = scores.logps.clone().requires_grad_()
        values = algorithm.loss(batch, scores._replace(logps=leaf)).values
        values.masked_fill(~unit_mask(batch, algorithm.needs.unit), 0.0).sum().backward()
        assert (leaf.grad[~batch.response_mask] == 0).all()
        found.append(leaf.grad)
    assert torch.equal(*found)


@cases
def test_the_contract(method, config):
    algorithm = method(config)
    assert isinstance(algorithm, Algorithm)
    assert isinstance(algorithm, Prepares)
    assert isinstance(algorithm, KnownOptimum)
    assert all(type(x) is float for x in algorithm.state.values())
    assert method.needs == type(algorithm).needs, "an instance's unit is its own"


def test_approx_kl_is_per_token_for_whole_responses_too():
    rollout = make_rollout(junk=NAN)
    algorithm = RLOO(RLOOConfig())
    metric = algorithm.loss(algorithm.prepare(rollout), moved(rollout)).metrics["approx_kl"]
    difference = (moved(rollout).logps - rollout.scores.logps)[rollout.batch.response_mask].numpy()
    assert metric.items.item() == LENGTHS.sum()
    assert metric.total.item() == pytest.approx((np.exp(difference) - 1 - difference).sum(), rel=1e-5)


@pytest.mark.parametrize("config", [REINFORCEConfig(), REINFORCEConfig(clip_range=0.1, clip_range_high=0.3)])
def test_ratio_and_clip_fraction_are_of_whole_responses(config):
    rollout = make_rollout(junk=NAN)
    algorithm = REINFORCE(config)
    metrics = algorithm.loss(algorithm.prepare(rollout), moved(rollout)).metrics
    differences = (moved(rollout).logps - rollout.scores.logps).nan_to_num(0.0).sum(-1).flatten()
    ratios = [math.exp(x) for x in differences]
    outside = sum(r < 0.9 or r > 1.3 for r in ratios) if config.clip_range else 0
    assert config.clip_range is None or 0 < outside < len(ratios)
    assert metrics["clip_fraction"].total.item() == outside
    assert metrics["ratio"].total.item() == pytest.approx(sum(ratios), rel=1e-5)
    assert metrics["ratio"].items.item() == metrics["clip_fraction"].items.item() == len(ratios)


def test_explained_variance_of_micro_batches_adds_up():
    rollout = make_rollout()
    algorithm = A2C(A2CConfig())
    batch, scores = algorithm.prepare(rollout), moved(rollout)
    mask = batch.response_mask
    parts = [
        algorithm.loss(
            batch.rows(slice(b, b + 1)), Scores(scores.logps[b : b + 1, :, :n], None, scores.values[b : b + 1, :, :n])
        )
        for b, n in ((0, 6), (1, 5))
    ]
    total, items = (sum(getattr(p.metrics["explained_variance"], f).item() for p in parts) for f in ("total", "items"))
    returns = batch.feedback.returns[mask]
    expected = 1 - ((scores.values[mask] - returns) ** 2).sum() / ((returns - returns.mean()) ** 2).sum()
    assert total / items == pytest.approx(expected.item(), rel=1e-5)
