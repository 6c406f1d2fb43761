from __future__ import annotations

import pytest
import torch

from preflab.scoring import chosen_logps as head
from preflab.scoring.chosen_logps import ChosenLogps


def make(count=7, vocabulary=11, width=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(count, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype)
    return states, weight, torch.randint(0, vocabulary, (count,), generator=generator)


def plain(states, weight, ids, temperature):
    return (
        (states.float() if states.dtype == torch.bfloat16 else states)
        .matmul(weight.to(torch.float32 if weight.dtype == torch.bfloat16 else weight.dtype).t())
        .div(temperature)
        .log_softmax(-1)
        .gather(1, ids[:, None])[:, 0]
    )


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("elements", [1, 25, 10**6])
def test_values_and_gradients_whatever_the_chunks(monkeypatch, elements, temperature):
    monkeypatch.setattr(head, "ELEMENTS_AT_ONCE", elements)
    states, weight, ids = make()
    found, expected = (f(states, weight, ids, temperature) for f in (ChosenLogps.apply, plain))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    by = torch.linspace(-1, 1, len(ids), dtype=torch.float64)
    torch.testing.assert_close(*(torch.autograd.grad(x @ by, states)[0] for x in (found, expected)), atol=1e-12, rtol=0)


def test_gradients_against_finite_differences():
    states, weight, ids = make()
    assert torch.autograd.gradcheck(lambda h: ChosenLogps.apply(h, weight, ids, 0.7), (states,))


def test_half_types_are_normalised_in_float32():
    states, weight, ids = make(vocabulary=500, dtype=torch.bfloat16)
    found = ChosenLogps.apply(states, weight, ids, 1.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(states, weight, ids, 1.0), atol=0.05, rtol=0)
    grad, expected = (
        torch.autograd.grad(f(states, weight, ids, 1.0).sum(), states)[0] for f in (ChosenLogps.apply, plain)
    )
    assert grad.dtype == torch.bfloat16
    torch.testing.assert_close(grad, expected, atol=0.05, rtol=0.05)


def test_no_tokens():
    states, weight, ids = make(count=0)
    found = ChosenLogps.apply(states, weight, ids, 1.0)
    assert found.shape == (0,)
    assert torch.autograd.grad(found.sum(), states)[0].shape == (0, 5)


def test_logits_are_not_kept_for_the_way_back(monkeypatch):
    monkeypatch.setattr(head, "ELEMENTS_AT_ONCE", 100)
    states, weight, ids = make(count=50, vocabulary=1000)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        ChosenLogps.apply(states, weight, ids, 1.0)
    assert sum(kept) <= states.numel()
