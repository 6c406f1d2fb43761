"""TRL: preference pairs, and a reward model as a reward function of its trainers. No torch until it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from preflab.data.messages import ASSISTANT, USER
from preflab.errors import UserError
from preflab.eval.exports.pairs import Pair

RewardFunction = Callable[..., list[float]]


def trl_pairs(pairs: Iterable[Pair]) -> list[dict[str, Any]]:
    """Return pairs as `DPOTrainer` and `RewardTrainer` take them: ``prompt, chosen, rejected``.

    Text stays text, and messages stay messages; where there are both, text becomes messages too (one user's and one
    assistant's each), since TRL looks at the first row alone.
    """
    pairs = list(pairs)
    conversational = any(not isinstance(pair.prompt, str) for pair in pairs)
    return [_conversational(pair) if conversational else _plain(pair) for pair in pairs]


def _plain(pair: Pair) -> dict[str, Any]:
    return {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}


def _conversational(pair: Pair) -> dict[str, Any]:
    if isinstance(pair.prompt, str):
        said = {
            "prompt": (USER, pair.prompt),
            "chosen": (ASSISTANT, pair.chosen),
            "rejected": (ASSISTANT, pair.rejected),
        }
        return {name: [_turn(role, text)] for name, (role, text) in said.items()}
    turns = {"prompt": pair.prompt, "chosen": [pair.chosen], "rejected": [pair.rejected]}
    return {name: [_turn(turn["role"], turn["content"]) for turn in found] for name, found in turns.items()}


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def reward_function(
    model: str | Path, *, normalised: bool = True, own_tokens: bool = False, batch_size: int = 16
) -> RewardFunction:
    """Return a reward model as ``reward_funcs`` of TRL's trainers take one: it scores what preflab would score.

    TRL reads a reward model that it is given as such on texts without their end token, which is where preflab's
    models are read; only a chat template writes one. This function adds it.

    Args:
        model: folder of a reward model's adapter, or of a merged classifier.
        normalised: by the mean and deviation beside the adapter, as preflab's own methods are rewarded; else the logit.
        own_tokens: whether the policies have the model's own tokenizer. Their tokens are then read as they were drawn:
            a completion that was cut has no end token. Else texts are read, each as one that ended.
        batch_size: texts at a time.

    Returns:
        A function of ``prompts``, ``completions`` (texts, or messages) and ``completion_ids``, and whatever else TRL
        calls it with, that gives a float each.

    Raises:
        UserError: if it is no reward model, or cannot be loaded.
    """
    import torch

    from preflab.data.batches import collate
    from preflab.data.encoding import EncodedGroup, Encoder
    from preflab.data.reading import RowError
    from preflab.data.rendering import rendered
    from preflab.eval.exports.as_read import UNLIMITED, Opened
    from preflab.model.classifiers import load_classifier

    opened = Opened.of(str(model))
    classifier = load_classifier(opened.base, "float32", opened.adapter)
    score = classifier.rewards if normalised else classifier.logits
    encoders = [Encoder(opened.tokenizer, UNLIMITED, UNLIMITED, chat) for chat in (False, True)]
    pad: int = opened.tokenizer.pad_token_id

    def group(prompt: Any, completion: Any, ids: Sequence[int]) -> EncodedGroup:
        messages = not isinstance(prompt, str)
        if messages:
            if len(completion) != 1:
                raise UserError(f"a completion has {len(completion)} messages; the reward model reads one answer")
            try:
                said = rendered(prompt, completion, opened.tokenizer)
            except RowError as error:
                raise UserError(f"reward model {model} cannot read a dialogue: {error}") from None
            prompt, completion = said.prompt, said.answers[0]
        encoder = encoders[messages and bool(opened.tokenizer.chat_template)]
        response = list(ids) or encoder.response(prompt, completion)
        return EncodedGroup(encoder.prompt(prompt), [response], 0)

    @torch.no_grad()
    def preflab_reward(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **_: Any,
    ) -> list[float]:
        drawn = completion_ids if own_tokens and completion_ids else [()] * len(prompts)
        groups = [group(*row) for row in zip(prompts, completions, drawn, strict=True)]
        parts = [groups[at : at + batch_size] for at in range(0, len(groups), batch_size)]
        return [float(reward) for part in parts for reward in score(collate(part, pad))[:, 0]]

    return preflab_reward
