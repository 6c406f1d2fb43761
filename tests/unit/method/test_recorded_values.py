"""Policy gradients: prepare, loss, gradients and metrics of every case are those that were recorded.

    python tests/unit/method/test_recorded_values.py     record them anew, where a change of values is meant

Whether they are right, test_policy_gradient.py says; here a change of code that should move nothing is held to it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rollouts import CASES, NAN, make_rollout, moved, name_of, randoms

from preflab.method.contract import unit_mask

RECORD = Path(__file__).with_name("recorded_values.json")


def summary(tensor, mask=None):
    """One number that every entry moves, each in its own proportion; padding counts for nothing."""
    clean = tensor.detach().double()
    clean = clean if mask is None or mask.shape != clean.shape else clean.masked_fill(~mask, 0.0)
    return (clean.flatten() * torch.arange(1, clean.numel() + 1).double().sqrt()).sum().item()


def found(method, config, elsewhere):
    """What two rollouts, one after the other, and a policy that moved give; `elsewhere`: another engine drew them."""
    rollout = make_rollout(junk=NAN)
    mask = rollout.batch.response_mask
    if elsewhere:
        config = dataclasses.replace(config, importance_cap=1.2)
        other = (rollout.scores.logps + randoms(mask.shape, 70, 0.3)).masked_fill(~mask, NAN)
        rollout = rollout._replace(sampler_logps=other)
    algorithm, values = method(config), []
    for _ in range(2):
        batch, scores = algorithm.prepare(rollout), moved(rollout, junk=NAN)
        leaves = [x.clone().requires_grad_() for x in (scores.logps, scores.values)]
        loss = algorithm.loss(batch, scores._replace(logps=leaves[0], values=leaves[1]))
        units = unit_mask(batch, algorithm.needs.unit)
        loss.values.masked_fill(~units, 0.0).sum().backward()
        values.append(
            {
                "advantages": summary(batch.feedback.advantages, mask),
                "loss": summary(loss.values, units),
                "gradients": sum(summary(x.grad, mask) for x in leaves if x.grad is not None),
                "metrics": sum((m.total / m.items).item() for _, m in sorted(loss.metrics.items())),
                "state": sum(algorithm.state.values()),
            }
        )
    return values


def every_case():
    return {
        f"{name_of(case)}{' drawn elsewhere' * elsewhere}": (*case, elsewhere)
        for case in CASES
        for elsewhere in (False, True)
    }


@pytest.mark.parametrize("name", every_case())
def test_values_are_those_recorded(name):
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))[name]
    for values, expected in zip(found(*every_case()[name]), recorded, strict=True):
        assert set(values) == set(expected)
        for quantity, value in values.items():
            # float64, and metrics float32: a machine's own exp differs in the last digits.
            tolerance = 1e-5 if quantity == "metrics" else 1e-11
            assert value == pytest.approx(expected[quantity], rel=tolerance, abs=tolerance), quantity


def test_a_summary_sees_every_entry():
    tensor, mask = randoms((2, 3), 0), torch.tensor(np.random.default_rng(1).random((2, 3)) < 0.7)
    for index in np.ndindex(2, 3):
        other = tensor.clone()
        other[index] += 1e-6
        assert (summary(other, mask) != summary(tensor, mask)) == bool(mask[index])


if __name__ == "__main__":
    record = {name: found(*case) for name, case in every_case().items()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(values)}" for name, values in record.items())
    RECORD.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
