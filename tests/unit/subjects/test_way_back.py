"""Trained policies at shares of their way from the start: by weights, and by log-probabilities of next tokens."""

from __future__ import annotations

import logging

import pytest
import torch
from ground_files import CONFIG, close, read
from peft import LoraConfig

from preflab.disk.stages import Stage
from preflab.eval.harness.rows import Tokens
from preflab.eval.pipeline import way_back as module
from preflab.eval.pipeline.way_back import way_back
from preflab.eval.settings import EvalConfig
from preflab.eval.subjects import Ground, TrainedPolicy, adapter_stage

FIGURES = ("chosen_score", "rejected_score", "chosen_logp", "rejected_logp", "log_ratio", "kl", "entropy", "gold")
BY = ("weights", "log-probabilities")


@pytest.fixture(scope="module")
def stage(folder):
    return adapter_stage(folder / "policy", "policy")


@pytest.fixture(scope="module")
def records(ground, stage):
    """Evaluations by share and by what is interpolated."""
    whole = TrainedPolicy(stage).evaluate(ground, "whole")
    return {
        (1.0, None): whole,
        **{
            (share, by): TrainedPolicy(stage, share=share, by=by).evaluate(ground, "part")
            for share in (0.5, 1.5)
            for by in BY
        },
    }


@torch.no_grad()
def mixed_logp(roles, prompt, response, share):
    """log π_λ(y|x) by plain forward passes of the model with either adapter."""
    ids, logps = torch.tensor([[*prompt, *response]]), []
    for role in ("reference", "policy"):
        with roles.active(role):
            logits = roles.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        logps.append(logits.double().log_softmax(-1))
    mixed = ((1 - share) * logps[0] + share * logps[1]).log_softmax(-1)
    places = torch.tensor(response)[:, None]
    return [found.gather(1, places).sum().item() for found in (mixed, logps[0])]


@pytest.mark.parametrize("share", [0.5, 1.5])
def test_pairs_are_scored_by_the_mixture(ground, folder, records, share):
    roles = ground.roles()
    roles.start("policy", folder / "policy")
    found = {row["row"]: row for row in records[share, "log-probabilities"].preferences}
    for group in Tokens.of(ground.experiment, CONFIG).pairs:
        for side, response in zip(("chosen", "rejected"), group.response_ids, strict=True):
            logp, reference = mixed_logp(roles, group.prompt_ids, response, share)
            assert found[group.row][f"{side}_logp"] == pytest.approx(logp, abs=1e-4)
            assert found[group.row][f"{side}_score"] == pytest.approx(logp - reference, abs=1e-4)


@pytest.mark.parametrize("by", BY)
def test_kl_grows_with_the_share(records, by):
    kl = [read(records[key], "kl").mean() for key in ((0.5, by), (1.0, None), (1.5, by))]
    assert 0 < kl[0] < kl[1] < kl[2]


def test_the_two_ways_are_two_policies(records):
    with pytest.raises(AssertionError):
        close(*(records[0.5, by] for by in BY), FIGURES)


def test_all_the_way_is_the_policy_whatever_is_interpolated(ground, stage, records):
    found = TrainedPolicy(stage, share=1.0, by="log-probabilities")
    assert found.key == TrainedPolicy(stage).key
    close(found.evaluate(ground, "whole"), records[1.0, None], FIGURES)


def test_each_is_a_stage_of_its_own(stage):
    keys = {TrainedPolicy(stage, share=share, by=by).key for share in (0.5, 0.75) for by in BY}
    assert len(keys | {TrainedPolicy(stage).key}) == 5


@pytest.fixture
def evaluated(monkeypatch):
    """Names and subjects that would have been evaluated."""
    found = []
    monkeypatch.setattr(module, "evaluate_subject", lambda name, subject, ground: found.append((name, subject)))
    return found


@pytest.mark.parametrize("kind", ["use_dora", "lora_bias"])
def test_where_weights_cannot_be_scaled_it_is_said_what_can_be_mixed(evaluated, tmp_path, caplog, kind):
    LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **{kind: True}).save_pretrained(
        tmp_path / "policy"
    )
    ground = Ground(None, EvalConfig(), judge=object())
    stage = Stage("dpo-seed0", "key", tmp_path, {}, True)
    with caplog.at_level(logging.WARNING):
        assert way_back([ground], "dpo", (0.5,), [stage]) == []
    assert not evaluated
    assert "--interpolate-by log-probabilities" in caplog.text
    caplog.clear()
    (found,) = way_back([ground], "dpo", (0.5,), [stage], "log-probabilities")
    assert found.varied == {"share": 0.5}
    assert not caplog.text
    assert evaluated == [("dpo-seed0-at-0.5", TrainedPolicy(stage, share=0.5, by="log-probabilities"))]
