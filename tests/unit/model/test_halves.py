"""What has no gradient is scored and drawn in halves where memory runs out, and comes out the same."""

from __future__ import annotations

import pytest
import torch
from tiny import make_groups

from preflab.data.batches import collate
from preflab.eval.conformance.workbench import END, PAD, make_roles
from preflab.model import halves
from preflab.model.in_parts import reward_scores
from preflab.sampling import sampler as sampling
from preflab.sampling.sampler import TransformersSampler
from preflab.scoring.logps import Scorer

OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
EVERY = ("policy", "reference", "value", "reward")


@pytest.fixture
def memory(monkeypatch):
    """Let memory hold so many prompts in a pass; return the sizes that were tried."""
    halves._say.cache_clear()

    def holds(prompts):
        tried = []

        def tight(path):
            def run(self, batch, *rest, **options):
                tried.append(len(batch.prompt_ids))
                if len(batch.prompt_ids) > prompts:
                    raise OUT
                return path(self, batch, *rest, **options)

            return run

        for name in ("states", "end_states"):
            monkeypatch.setattr(Scorer, name, tight(getattr(Scorer, name)))
        return tried

    return holds


def test_scores_are_those_of_the_whole_batch(memory, caplog):
    roles, batch = make_roles(), collate(make_groups(11), PAD)
    with torch.no_grad():
        whole, work = roles(batch, EVERY), roles.work.flops
        tried = memory(3)
        parts = roles(batch, EVERY)
    assert tried[:5] == [11, 5, 2, 3, 6]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert roles.work.flops == 2 * work, "as one pass"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len({11, 5, 6})
    assert "memory ran out for 11 prompts at a time" in said[0]


def test_rewards_in_an_evaluation_survive_it(memory):
    roles, batch = make_roles(), collate(make_groups(8), PAD)
    whole = reward_scores(roles, batch, 16)
    memory(1)
    torch.testing.assert_close(reward_scores(roles, batch, 16), whole, rtol=0, atol=1e-12)


def test_what_learns_is_not_cut_here(memory):
    roles, batch = make_roles(), collate(make_groups(4), PAD)
    roles.learn(("policy",))
    tried = memory(2)
    with pytest.raises(torch.OutOfMemoryError):
        roles(batch, ("policy",))
    assert tried == [4]


def test_one_prompt_that_does_not_fit_ends_it(memory):
    memory(0)
    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError):
        make_roles()(collate(make_groups(4), PAD), ("policy",))


def test_a_reward_of_ones_own_is_asked_once():
    roles, asked = make_roles(), []

    def greedy(batch):
        asked.append(len(batch.prompt_ids))
        raise MemoryError

    roles.reward_function = greedy
    with torch.no_grad(), pytest.raises(MemoryError):
        roles(collate(make_groups(4), PAD), ("reward",))
    assert asked == [4]


def test_samples_are_those_of_all_at_once(monkeypatch, caplog):
    roles, prompts = make_roles(), [group.prompt_ids for group in make_groups(7)]
    how = {"k": 2, "temperature": 1.0, "seed": 3}
    whole = TransformersSampler(END, PAD, 6)(roles, "policy", prompts, **how)
    decode, tried = sampling.decode, []

    def tight(model, ids, mask, noise, **options):
        tried.append(noise[0].numel())
        if noise[0].numel() > 4:
            raise OUT
        return decode(model, ids, mask, noise, **options)

    monkeypatch.setattr(sampling, "decode", tight)
    sampler = TransformersSampler(END, PAD, 6, 14)
    parts = sampler(roles, "policy", prompts, **how)
    assert tried[:3] == [14, 6, 2]
    assert torch.equal(whole.batch.response_ids, parts.batch.response_ids)
    assert len(caplog.records) == 2
    tried.clear()
    sampler(roles, "policy", prompts, **how)
    assert max(tried) == 2, "what fitted is kept"
    monkeypatch.setattr(sampling, "decode", lambda *a, **o: (_ for _ in ()).throw(OUT))
    with pytest.raises(torch.OutOfMemoryError):
        sampler(roles, "policy", prompts, **how)
