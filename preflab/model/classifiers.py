"""Reward models with weights of their own: sequence classifiers with one label."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from preflab.errors import UserError
from preflab.method.contract import Batch
from preflab.model.adapter_config import read_normalisation
from preflab.model.adapters import HEAD_KEY, read_plain_lora
from preflab.model.base import loaded_dtype, without_dropout
from preflab.model.devices import default_device
from preflab.model.folding import folded_in
from preflab.model.opening import open_model
from preflab.scoring.logps import concatenated
from preflab.scoring.padding import padding_of


class Classifier(NamedTuple):
    """A sequence classifier with one label, its reward normalised: (logit − mean) / std.

    Attributes:
        model: loaded, frozen.
        mean: of the logit.
        std: of the logit.
    """

    model: Any
    mean: float = 0.0
    std: float = 1.0

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits ``[B, K]`` of a batch in its tokens, whose differences are log-odds."""
        return classifier_logits(self.model, batch)

    def rewards(self, batch: Batch) -> Tensor:
        """Return the same, normalised."""
        return (self.logits(batch) - self.mean) / self.std


def load_classifier(
    source: str, dtype: str, adapter: Path | None = None, *, trust_remote_code: bool = False
) -> Classifier:
    """Load a reward model, its score head included.

    Args:
        source: the classifier, or the base of its adapter.
        dtype: in which it is loaded, as in `LoraSettings`.
        adapter: folded into it, if given; the normalisation beside it is kept.
        trust_remote_code: run Python code that comes with it.

    Raises:
        UserError: if it cannot be loaded, or the score head is missing: it would be random.
    """
    device = default_device()
    model = classifier_base(source, loaded_dtype(dtype, device), adapter, trust_remote_code=trust_remote_code)
    normalisation: dict[str, float] = {}
    if adapter is not None:
        model, normalisation = folded_in(model, adapter), read_normalisation(adapter)
    without_dropout(model)
    return Classifier(model.requires_grad_(False).eval().to(device), **normalisation)


def classifier_base(source: str, dtype: torch.dtype, adapter: Path | None, *, trust_remote_code: bool = False) -> Any:
    """Load a classifier with one label, or the base of an adapter that brings the score's head.

    Raises:
        UserError: as `load_classifier` does.
    """
    if adapter is not None and HEAD_KEY not in read_plain_lora(adapter)[0]:
        raise UserError(f"{adapter} is no reward model: it has no score head")
    return open_model(
        "SequenceClassification",
        source,
        dtype,
        trust_remote_code=trust_remote_code,
        # The base of an adapter has a head of its own; the score's comes with the adapter, which is seen to above.
        lent=lambda weight: adapter is not None and weight.startswith(("score.", "lm_head.", "embed_out.")),
        num_labels=1,
    )


@torch.no_grad()
def classifier_logits(model: Any, batch: Batch) -> Tensor:
    """Return the one label's logit of each prompt with its response, ``[B, K]``, float32 or wider.

    The texts are padded on the right with the model's own padding token, by which it finds their ends; a model
    that has none (or one that is no token) is asked about one text at a time.
    """
    ids, mask, _ = concatenated(batch.to(model.device))
    pad = padding_of(model)
    if pad is None or not 0 <= pad < model.get_input_embeddings().num_embeddings:
        logits = torch.cat([model(input_ids=row[real][None]).logits for row, real in zip(ids, mask, strict=True)])
    else:
        logits = model(input_ids=ids.masked_fill(~mask, pad), attention_mask=mask.long()).logits
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return wide[:, 0].reshape(batch.response_ids.shape[:2])
