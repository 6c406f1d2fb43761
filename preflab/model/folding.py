"""An adapter of any kind folded into a base of its own, each of its weights in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preflab.errors import UserError
from preflab.model.adapter_config import say_other_base
from preflab.model.adapters import get_adapter, read_plain_lora
from preflab.scoring.quantised import restore_all

ENDS = ("embed", "lm_head", "wte", "wpe")
"""In the names of embeddings and output heads."""


def folded_in(base: Any, folder: Path) -> Any:
    """Fold an adapter into a model, frozen; it may be more than LoRA (biases, modules of its own).

    What the model keeps in 4 or 8 bits is restored first, and stays so: folded in, an adapter would be rounded to bits.

    Raises:
        UserError: if it does not fit the model, or is of a kind that cannot be folded in.
    """
    restore_all(base)
    model = put_on(base, folder)
    with _fitting(base, folder):
        return model.merge_and_unload().requires_grad_(False)


def put_on(base: Any, folder: Path) -> Any:
    """Put an adapter of any kind on a model, as PEFT does; an output head that it changes is untied from embeddings.

    Raises:
        UserError: if it does not fit the model.
    """
    from peft import LoraConfig, PeftModel

    weights, config = read_plain_lora(folder)
    say_other_base(folder, config.get("base_model_name_or_path"), base.config._name_or_path)
    if any(part in name for name in weights for part in ENDS):
        _untie(base)
    with _fitting(base, folder):
        model = PeftModel.from_pretrained(
            base, str(folder), config=LoraConfig(**{**config, "init_lora_weights": False})
        )
        missing = _names(weights) ^ _names(get_adapter(model, "default"))
        if missing:  # the library loads what it finds a place for
            raise ValueError(f"{min(missing)} {'has no place in it' if min(missing) in weights else 'is missing'}")
        return model


@contextmanager
def _fitting(base: Any, folder: Path) -> Iterator[None]:
    """Answer whatever the library raises for an adapter that does not fit: many unrelated types."""
    try:
        yield
    except Exception as error:
        raise UserError(f"adapter {folder} does not fit model {base.config._name_or_path}: {error}") from None


def _untie(base: Any) -> None:
    """Give an output head that shares the input embeddings a copy: what is folded into one changes not the other."""
    head = base.get_output_embeddings()
    if head is not None and head.weight is base.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = False


def _names(state: Mapping[str, Tensor]) -> set[str]:
    # Embeddings are saved with an adapter or not as the library sees fit; what LoRA adds to them always is.
    return {name for name in state if "lora_" in name or not any(part in name for part in ENDS)}
