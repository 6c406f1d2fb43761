"""An adapter folded into its base for good: a model by itself, held to the two together before it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from preflab.errors import UserError
from preflab.model.base import without_dropout
from preflab.model.classifiers import classifier_base
from preflab.model.devices import default_device
from preflab.model.folding import put_on
from preflab.model.opening import open_model
from preflab.scoring.quantised import quantised_layers

BOUND = 1e-2
"""Nats, or units of the score, by which a fold in float32 may differ: rounding is a hundredth of that."""

TEXTS = (
    "What is the capital of France?",
    "Write a short, friendly note to a neighbour.",
    "Explain why the sky is blue to a child.",
    "2, 4, 8, 16,",
)
TOKENS = 24  # of a row of tokens from all over the vocabulary, beside these


class Agreement(NamedTuple):
    """How far a merged model is what the base and its adapter were.

    Attributes:
        folded: the largest difference of a token's log-probability, nats, or of a score, folded in float32.
        stored: the same once it is written in its type and read back; rounding moves unlikely tokens most.
        kl: mean KL of what is stored from what it was, nats a token; None of a classifier.
        choices: share of places whose likeliest token is the same; None of a classifier.
        places: how many tokens, or texts, that is of.
        dtype: the type that it is written in.
    """

    folded: float
    stored: float
    kl: float | None
    choices: float | None
    places: int
    dtype: str

    def sentence(self) -> str:
        """Return all of it in words."""
        what = "score" if self.kl is None else "log-probability, of any token of the vocabulary (nats),"
        more = (
            "" if self.kl is None else f" (mean KL {self.kl:.1e} nats; the likeliest token alike at {self.choices:.1%})"
        )
        return (
            f"Held to the base with its adapter at {self.places} places, the largest difference of a {what} is "
            f"{self.folded:.1e} as folded in float32 and {self.stored:.1e} as stored in {self.dtype}{more}."
        )


def merge(
    base: str, adapter: Path, to: Path, tokenizer: Any, *, scalar: bool, dtype: str, trust_remote_code: bool = False
) -> Agreement:
    """Fold an adapter into its base, write the model as safetensors with its tokenizer, and read it back.

    Args:
        base: folder or hub name.
        adapter: of any LoRA kind: rsLoRA, DoRA, on the head, with modules of its own.
        to: a new folder.
        tokenizer: what the model is to be used with; of a classifier, one that pads as it reads.
        scalar: whether it is a classifier with one label.
        dtype: in which it is stored; ``auto``: the base's own.
        trust_remote_code: run Python code that comes with the base.

    Raises:
        UserError: if the base is quantised, the adapter does not fit, or the fold does not agree with the two.
    """
    device, stored = default_device(), _stored(base, dtype, trust_remote_code)
    model = _opened(base, adapter, scalar=scalar, trust_remote_code=trust_remote_code)
    if model.config.to_dict().get("quantization_config") is not None or any(quantised_layers(model)):
        raise UserError(
            f"model {base!r} is quantised: folded in, an adapter would be rounded to its bits; keep it apart"
        )
    without_dropout(model)
    beside = put_on(model.to(device), adapter).eval()
    rows = _rows(tokenizer, model.get_input_embeddings().num_embeddings)
    before = _read(beside, rows, scalar)
    merged = beside.merge_and_unload().eval()
    folded = _apart(before, _read(merged, rows, scalar))
    if not folded <= BOUND:
        raise UserError(
            f"adapter {adapter} folded into {base} is not what the two are together: they differ by {folded:.2g} "
            "(nats of a token, or of a score); keep the adapter apart (--fold false)"
        )
    if scalar:  # by which an opener finds the token that bears the score
        merged.config.get_text_config().pad_token_id = merged.config.pad_token_id = tokenizer.pad_token_id
    merged.to(stored).save_pretrained(str(to))
    tokenizer.save_pretrained(str(to))
    del beside, merged, model
    kind = "SequenceClassification" if scalar else "CausalLM"
    again = open_model(kind, str(to), stored, trust_remote_code=trust_remote_code).to(device).eval()
    found = _read(again, rows, scalar)
    kl, choices = (None, None) if scalar else _alike(before, found)
    places = sum(len(row) for row in before)
    return Agreement(folded, _apart(before, found), kl, choices, places, str(stored).removeprefix("torch."))


def _opened(base: str, adapter: Path, *, scalar: bool, trust_remote_code: bool) -> Any:
    if scalar:
        return classifier_base(base, torch.float32, adapter, trust_remote_code=trust_remote_code)
    return open_model("CausalLM", base, torch.float32, trust_remote_code=trust_remote_code)


def _stored(base: str, dtype: str, trust_remote_code: bool) -> torch.dtype:
    """Return the type that is asked for; the one that the base's config names where that is ``auto``."""
    from transformers import AutoConfig

    named: Any = dtype
    if dtype == "auto":
        try:
            config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
        except Exception:  # whatever it is, opening the model says it better
            return torch.float32
        named = config.get_text_config().dtype or torch.float32
    found: torch.dtype = named if isinstance(named, torch.dtype) else getattr(torch, str(named))
    return found


def _rows(tokenizer: Any, vocabulary: int) -> list[list[int]]:
    """Return a few prompts as token ids, through the chat template where there is one, and ids from everywhere."""
    texts = list(TEXTS)
    if tokenizer.chat_template:
        asked = [[{"role": "user", "content": text}] for text in texts]
        texts = [tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in asked]
    rows = [tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"] for text in texts]
    known = torch.Generator().manual_seed(0)
    anywhere = torch.randint(min(vocabulary, len(tokenizer)), (TOKENS,), generator=known).tolist()
    return [*filter(None, rows), anywhere]


@torch.no_grad()
def _read(model: Any, rows: Sequence[Sequence[int]], scalar: bool) -> list[Tensor]:
    """Return, of each row, the log-probabilities of what comes next ``[T, V]``, or its score ``[1, 1]``."""
    logits = [model(input_ids=torch.tensor([row], device=model.device)).logits.double().cpu() for row in rows]
    return logits if scalar else [one[0].log_softmax(-1) for one in logits]


def _apart(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(one, other, strict=True))


def _alike(one: Sequence[Tensor], other: Sequence[Tensor]) -> tuple[float, float]:
    """Return mean KL(one‖other), and the share of places with one likeliest token, of log-probabilities ``[T, V]``."""
    p, q = torch.cat(list(one)), torch.cat(list(other))
    kl = (p.exp() * (p - q)).sum(-1).mean()
    return max(0.0, float(kl)), float((p.argmax(-1) == q.argmax(-1)).double().mean())
