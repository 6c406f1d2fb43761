"""Memory follows the user's batch size and the texts' length; results do not."""

from __future__ import annotations

import pytest
import torch
from tiny_llama import tiny_llama

import preflab.sampling.sampler
from preflab.data.encoding import EncodedGroup
from preflab.model.roles import Roles
from preflab.sampling.best_of_n import BestOf
from preflab.sampling.sampler import TransformersSampler
from preflab.scoring.batching import rows_at_once
from preflab.scoring.logps import single_logits
from preflab.settings.training import LoraSettings
from preflab.training.reference import ReferenceLogps

END, PAD, WORDS = 2, 0, 40
LONG = 1200


@pytest.fixture(scope="module")
def roles():
    torch.manual_seed(0)
    return Roles(
        tiny_llama(WORDS, positions=2048, pad=PAD, end=END).requires_grad_(False),
        LoraSettings(lora_rank=2, lora_alpha=4),
        ("policy", "reward"),
    )


def prompts(count, length):
    generator = torch.Generator().manual_seed(length)
    return torch.randint(3, WORDS, (count, length), generator=generator).tolist()


def test_defaults_are_what_they_always_were():
    """512 responses drawn, 32 rows scored: at the default batch and limits, and with shorter texts at smaller ones."""
    assert [rows_at_once(most, 384, 32) for most in (512, 128, 32)] == [512, 128, 32]
    assert [rows_at_once(most, 384) for most in (512, 128, 32)] == [512, 128, 32]
    assert [rows_at_once(most, 96, 8) for most in (512, 32)] == [512, 32]
    assert rows_at_once(512, 60, 512) == 512


@pytest.mark.parametrize(("batch", "expected"), [(1, 1), (2, 2), (32, 32), (None, 1)])
def test_long_texts_go_by_the_batch(batch, expected):
    assert rows_at_once(32, 20_000, batch) == expected
    assert rows_at_once(512, 10_000, batch) == {1: 1, 2: 2, 32: 32, None: 19}[batch]


def draw(roles, monkeypatch, many, k, batch_size, feeder=True):
    """Return the samples and the largest piece that was decoded at once: prompts, samples of each."""
    seen, plain = [], preflab.sampling.sampler.decode

    def recorded(model, ids, mask, noise, **options):
        seen.append((len(ids), noise.shape[2]))
        return plain(model, ids, mask, noise, **options)

    with monkeypatch.context() as patched:
        patched.setattr(preflab.sampling.sampler, "decode", recorded)
        if not feeder:
            patched.setattr(preflab.sampling.sampler, "feeder_of", lambda *args: None)
        sampler = TransformersSampler(END, PAD, 6, batch_size=batch_size)
        return sampler(roles, "policy", many, k=k, temperature=1.0, seed=1), max(seen, default=None)


def test_rollouts_of_long_prompts_are_drawn_few_at_a_time(roles, monkeypatch):
    many = prompts(6, LONG)
    small, largest = draw(roles, monkeypatch, many, 12, batch_size=1)
    assert largest == (1, 5), "5 × 1206 tokens are within 6144"
    whole, largest = draw(roles, monkeypatch, many, 12, batch_size=64)
    assert largest == (6, 12)
    real = small.batch.response_mask
    assert torch.equal(real, whole.batch.response_mask)
    assert torch.equal(small.batch.response_ids[real], whole.batch.response_ids[real])
    assert torch.equal(small.ended, whole.ended)
    torch.testing.assert_close(small.logps, whole.logps)


def test_generate_is_cut_alike(roles, monkeypatch):
    small, _ = draw(roles, monkeypatch, prompts(2, LONG), 12, batch_size=1, feeder=False)
    assert small.batch.response_ids.shape[:2] == (2, 12)
    assert len({tuple(row) for row in small.batch.response_ids[0].tolist()}) > 6, "no stretch repeats another"


def test_reference_and_rewards_are_scored_few_at_a_time(roles, monkeypatch):
    groups = [EncodedGroup(prompt, [[5, 6, END], [7, END]], i) for i, prompt in enumerate(prompts(5, LONG))]
    seen, forward = [], Roles.forward
    monkeypatch.setattr(
        Roles,
        "forward",
        lambda self, batch, names: (seen.append(len(batch.prompt_ids)), forward(self, batch, names))[1],
    )
    found = {}
    for batch_size, expected in ((1, 1), (2, 2), (None, 5)):
        seen.clear()
        found[batch_size] = ReferenceLogps.compute(roles, groups, PAD, "t", batch_size).flat
        assert max(seen) == expected
    torch.testing.assert_close(found[1], found[None])
    seen.clear()
    BestOf(TransformersSampler(END, PAD, 6), 8, 32)(roles, "policy", prompts(4, LONG), k=1, temperature=1.0, seed=0)
    assert max(seen) <= 10, "32 × 384 tokens at most"


def test_the_oracle_makes_no_logits_of_the_prompt(roles):
    from preflab.data.batches import collate

    row = collate([EncodedGroup(prompts(1, LONG)[0], [[5, 6, END]], 0)], PAD)
    shapes, head = [], roles.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    try:
        with torch.no_grad():
            found = single_logits(roles.model, row)
            ids = torch.cat([row.prompt_ids, row.response_ids[:, 0]], 1)
            whole = roles.model(input_ids=ids).logits[0, LONG - 1 : LONG + 2]
    finally:
        handle.remove()
    assert shapes[0] == (1, 4, WORDS)
    torch.testing.assert_close(found, whole)
