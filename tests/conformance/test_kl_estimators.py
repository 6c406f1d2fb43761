"""Both estimates of KL(π‖π_ref) from one response, where the exact value is a sum over all responses."""

from __future__ import annotations

import pytest
import torch

from preflab.eval.conformance.exact import kl
from preflab.eval.harness.divergence import policy_figures


@pytest.fixture(scope="module")
def roles(experiment):
    """A random policy some way from the reference, in float64."""
    roles = experiment.open_roles(("policy", "reference"), sft=None, reward=None).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in roles.parameters_of("policy"):
            parameter.add_(0.08 * torch.randn(parameter.shape, generator=generator).double())
    return roles


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_their_means_are_the_enumerated_kl_and_the_rao_blackwellised_one_varies_less(exact, roles, temperature):
    roles.scorer.path(exact.batch.select(torch.zeros(len(exact.groups), 2, dtype=torch.long)))
    found = policy_figures(roles, roles, exact.batch, temperature)
    logps, reference = found.logp, found.logp - found.log_ratio
    weights = logps.exp()
    assert torch.allclose(weights.sum(1), torch.ones(len(weights), dtype=torch.float64), atol=1e-9)
    expected = kl(logps, reference)
    assert expected.min() > 0.02, "the policy must be away from its reference"

    def variance(values):
        return (weights * (values - expected[:, None]) ** 2).sum(1)

    for estimator in (found.log_ratio, found.kl):
        assert torch.allclose((weights * estimator).sum(1), expected, atol=1e-9)
    assert (variance(found.kl) < variance(found.log_ratio)).all()
