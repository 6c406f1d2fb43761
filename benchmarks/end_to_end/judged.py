"""What scripts of TRL need to evaluate a policy: its answers, and the world's planted reward of them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from benchmarks.end_to_end.work import MAX_RESPONSE_TOKENS
from preflab.worlds.reviews import reward

AT_ONCE = 128


@torch.no_grad()
def answers(model: Any, tokenizer: Any, prompts: Sequence[str], seed: int) -> list[str]:
    """Return a sampled answer to each prompt."""
    found: list[str] = []
    torch.manual_seed(seed)
    model.eval()
    for at in range(0, len(prompts), AT_ONCE):
        part = tokenizer(list(prompts[at : at + AT_ONCE]), return_tensors="pt", padding=True, padding_side="left")
        ids = model.generate(
            input_ids=part["input_ids"].to(model.device),
            attention_mask=part["attention_mask"].to(model.device),
            do_sample=True,
            top_k=0,
            max_new_tokens=MAX_RESPONSE_TOKENS,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        found += tokenizer.batch_decode(ids[:, part["input_ids"].shape[1] :], skip_special_tokens=True)
    return found


def gold_rewards(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """Return the planted reward of each answer."""
    return reward(list(prompts), list(texts))


def won(gold: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """Return the mean reward, and what share of answers is better than the start's; a tie is half a win."""
    wins = [(mine > other) + (mine == other) / 2 for mine, other in zip(gold, baseline, strict=True)]
    return {"gold": fmean(gold), "wins": fmean(wins)}
