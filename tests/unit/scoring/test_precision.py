"""In half precision a path is told from a wrong one in float32, and held to the rounding of the model itself."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from scored_texts import FUSED, by, make_batch, make_model

from preflab.method.contract import Batch
from preflab.scoring import fused
from preflab.scoring import logps as scoring
from preflab.scoring.fused import fused_states
from preflab.scoring.logps import Scorer, single_logps
from preflab.scoring.packing import Packing, prompt_once_states
from preflab.scoring.precision import Trial, in_float32, in_half


def halved(family="llama", dtype=torch.bfloat16):
    return make_model(family, dtype).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FUSED)
def test_the_fused_path_is_kept_in_half_precision(family, dtype, caplog):
    scorer = Scorer(halved(family, dtype))
    with caplog.at_level(logging.WARNING, "preflab"):
        assert scorer.path(make_batch()) == "fused"
    assert not caplog.records


def test_the_fused_path_is_kept_under_autocast():
    model = halved(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert in_half(model)
        assert Scorer(model).path(make_batch()) == "fused"
    assert not in_half(model)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2", "neox", "opt"])
def test_float32_is_run_with_the_weights_as_they_are(family):
    model, batch = halved(family), make_batch()
    with torch.no_grad(), in_float32(model):
        found = single_logps(model, batch, 1.0)
    assert all(weight.dtype == torch.bfloat16 for weight in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(found, single_logps(model.float(), batch, 1.0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("path", [fused_states, prompt_once_states])
def test_a_path_is_no_farther_from_float32_than_the_model_is(path):
    """The bound that the trial sets; this sample is larger than its own."""
    model, batch = halved(), make_batch(prompts=(9,) * 20, responses=((5, 4),) * 20)
    real = batch.response_mask
    with torch.no_grad():
        ours, own = by(path, model, batch), single_logps(model, batch, 1.0)
        with in_float32(model):
            precise = single_logps(model, batch, 1.0)
    ours, own = ((x - precise)[real].pow(2).mean().sqrt() for x in (ours, own))
    assert 0.01 < ours < 1.3 * own


def later(packing):
    """Responses stand one place too far behind their prompts."""
    positions = packing.positions.clone()
    positions[packing.trunks.count :] += 1
    return dataclasses.replace(packing, positions=positions)


def forgetful(packing):
    """One response's tokens do not see the last token of their prompt."""
    own = type(packing)._mask

    class Forgetful(type(packing)):
        def _mask(self, name, grid, at, window, dtype):
            mask = own(self, name, grid, at, window, dtype).clone()
            mask[-1, ..., self.trunks.real.shape[1] - 1] = -torch.inf
            return mask

    return Forgetful(**{field.name: getattr(packing, field.name) for field in dataclasses.fields(packing)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("change", [later, forgetful])
def test_a_wrong_packing_is_refused(change, dtype, monkeypatch, caplog):
    right = Packing.of
    monkeypatch.setattr(Packing, "of", lambda batch, *, end: change(right(batch, end=end)))
    scorer = Scorer(halved(dtype=dtype))
    with caplog.at_level(logging.WARNING, "preflab"):
        assert scorer.path(make_batch()) == "plain"
    assert caplog.text.count("is not exact") == 2


@pytest.mark.parametrize("wrong", ["window", "rotary"])
def test_a_wrong_layer_is_refused(wrong, monkeypatch):
    if wrong == "window":
        monkeypatch.setattr(fused, "_window", lambda attention: None)
    else:
        monkeypatch.setattr(fused.Rotated, "apply", lambda x, cos, sin: x)
    assert Scorer(halved("mistral")).path(make_batch()) == "prompt_once"


def test_a_path_that_rounds_worse_is_refused(monkeypatch, caplog):
    def coarse(backbone, batch, *, end=False):
        states = fused_states(backbone, batch, end=end)
        if states.dtype == torch.float32:
            return states
        return (states * 4).round() / 4

    monkeypatch.setitem(scoring.PATHS, "fused", coarse)
    with caplog.at_level(logging.WARNING, "preflab"):
        assert Scorer(halved()).path(make_batch()) == "prompt_once"
    assert "rounds worse" in caplog.text


def test_what_is_not_finite_is_refused():
    model, batch = halved(), make_batch()

    def run() -> tuple[Batch, torch.Tensor]:
        found = single_logps(model, batch, 1.0)
        return batch, found if torch.overrides._get_current_function_mode_stack() else found * torch.nan

    assert "rounds worse" in Trial(model, lambda one: single_logps(model, one, 1.0)).fault(run)
