"""Opening models: every weight that a model asks for comes from its files, and every one in them has a place."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from preflab.errors import UserError
from preflab.model.model_files import check_count, check_sizes, read_model_files
from preflab.scoring.quantised import quantisation, quantised_layers, take_over
from preflab.settings.training import LoadIn

COMPUTED = re.compile(r"(^|\.)(masked_bias|attn\.bias|inv_freq|position_ids)$")
"""Left in old files by what is computed today."""

NOUNS = {"CausalLM": "model", "SequenceClassification": "reward model"}
HEADS = {"CausalLM": ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"), "SequenceClassification": ()}
"""Endings of the architectures that a kind is opened from; none: any."""

TRUST = "it needs Python code that comes with it; --trust-remote-code runs that code: only if you trust its author"
SHOWN = 3


def open_model(
    kind: str,
    name: str,
    dtype: torch.dtype,
    *,
    trust_remote_code: bool = False,
    lent: Callable[[str], bool] = lambda weight: False,
    load_in: LoadIn = "none",
    attention: str = "auto",
    device: str = "cpu",
    **options: Any,
) -> Any:
    """Load a model of a kind of transformers' Auto classes, safetensors only, on the CPU.

    A quantised one is loaded to its `device`, weight by weight, so that it never lies there whole.

    Args:
        kind: ``CausalLM`` or ``SequenceClassification``.
        name: folder or hub name.
        dtype: of its weights.
        trust_remote_code: run Python code that comes with it.
        lent: whether a weight may be missing, or left over: those that an adapter brings, or stands in for.
        load_in: keep linear layers in so many bits (see `preflab.scoring.quantised`).
        attention: what computes it, by transformers' name; ``auto``: its own choice.
        device: where a quantised model goes.
        options: further fields of the config.

    Raises:
        UserError: if it cannot be loaded, or a weight is missing, left over, of another shape or not finite; by name.
    """
    import transformers

    noun, trusted = f"{NOUNS[kind]} {name!r}", {"trust_remote_code": trust_remote_code}
    found = read_model_files(name)
    source = name if found is None else str(Path(name).expanduser())
    auto = getattr(transformers, f"AutoModelFor{kind}")
    try:
        config = transformers.AutoConfig.from_pretrained(source, **trusted, **options)
        _check_architecture(kind, noun, config)
        asked = _how(noun, config, load_in, dtype, attention, device)
        if found is not None:
            check_sizes(name, found, config)
            with torch.device("meta"):
                sketch = auto.from_config(config, **trusted)
            check_count(name, found, sum(parameter.numel() for parameter in sketch.parameters()))
        model, info = auto.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so as to name them
            **trusted,
            **asked,
        )
    except UserError:
        raise
    except Exception as error:  # what a config of anybody's making leads to
        raise UserError(f"{noun} cannot be loaded: {_reason(error)}") from error
    _check_names(noun, info, lent)
    take_over(model)
    _check_finite(noun, model)
    if getattr(config, "quantization_config", None) and getattr(model, "hf_quantizer", None) is None:
        raise UserError(
            f"{noun} cannot be used: quantization_config in its config.json asks for what the library does not know; "
            "its weights would be read as if they were plain"
        )
    if kind == "CausalLM" and not config.architectures and _reads_ahead(model):
        raise UserError(f"{noun} cannot be used: it is an encoder, whose probabilities depend on what comes after")
    return model


def _check_architecture(kind: str, noun: str, config: Any) -> None:
    """Refuse what its own config calls something else: an encoder's weights would fit a decoder that they are not."""
    named = config.architectures
    if named is not None and not (isinstance(named, list) and all(isinstance(one, str) for one in named)):
        raise UserError(f"{noun} cannot be loaded: architectures in its config.json is {named!r}, not a list of names")
    other = [one for one in named or () if "For" in one and not one.endswith(HEADS[kind])] if HEADS[kind] else []
    if named and len(other) == len(named):
        use = " (give it as --reward-model or --judge)" if other[0].endswith("ForSequenceClassification") else ""
        raise UserError(f"{noun} cannot be loaded: it is a {other[0]}{use}, not a causal language model")


def _how(noun: str, config: Any, load_in: LoadIn, dtype: torch.dtype, attention: str, device: str) -> dict[str, Any]:
    """Return what the library is told beside type and files.

    Raises:
        UserError: if the model is quantised already and is to be so again, or by what is not installed.
    """
    own = getattr(config, "quantization_config", None)
    if own is not None and load_in != "none":
        raise UserError(f"{noun} is quantised already: leave load_in out, and it is used as it is")
    method = own.get("quant_method") if isinstance(own, dict) else None
    if method == "bitsandbytes" and find_spec("bitsandbytes") is None:
        raise UserError(f"{noun} is quantised by bitsandbytes, which is not installed; pip install preflab[quantised]")
    asked: dict[str, Any] = {} if attention == "auto" else {"attn_implementation": attention}
    if load_in != "none":
        asked["quantization_config"] = quantisation(load_in, dtype)
    if load_in != "none" or method == "bitsandbytes":
        asked["device_map"] = {"": device}
    return asked


def _check_names(noun: str, info: dict[str, Any], lent: Callable[[str], bool]) -> None:
    shapes = [f"{key} (file {tuple(file)}, config {tuple(asked)})" for key, file, asked in info["mismatched_keys"]]
    missing = [key for key in info["missing_keys"] if not lent(key)]
    unexpected = [key for key in info["unexpected_keys"] if not lent(key) and not COMPUTED.search(key)]
    parts = [
        _listed(missing, "missing from its files, and would be random"),
        _listed(unexpected, "in its files without a place in the model"),
        _listed(shapes, "of another shape"),
        _listed(info.get("error_msgs") or [], "not readable"),
    ]
    wrong = "; ".join(part for part in parts if part)
    if wrong:
        raise UserError(f"{noun} cannot be loaded: its config.json and its weights differ: {wrong}")


def _listed(names: Sequence[str], what: str) -> str:
    shown = sorted(names)[:SHOWN]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(shown)}{more} {'are' if len(names) > 1 else 'is'} {what}" if names else ""


def _check_finite(noun: str, model: Any) -> None:
    # A sum is quick and not finite if any of its terms is not; whether it only overflowed is looked up.
    weights = chain(
        model.named_parameters(),
        ((key, layer.packed.to(torch.float32)) for key, layer in quantised_layers(model)),
    )
    wrong = [
        key
        for key, weight in weights
        if weight.is_floating_point() and not weight.sum(dtype=torch.float32).isfinite() and not weight.isfinite().all()
    ]
    if wrong:
        raise UserError(f"{noun} cannot be used: {_listed(wrong, 'not finite (NaN or infinity)')}")


@torch.no_grad()
def _reads_ahead(model: Any) -> bool:
    """Whether what is said of the first tokens changes with the last."""
    ids = torch.tensor([[0, 1, 0, 1], [0, 1, 0, 0]], device=model.device)
    first, second = model.eval()(input_ids=ids).logits[:, :3].float()
    return not torch.allclose(first, second, rtol=1e-4, atol=1e-5)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return TRUST
    # The library lists every architecture it knows.
    text = text.split(" Model type should be one of ")[0].split(" You can update Transformers")[0]
    return text if isinstance(error, (ValueError, OSError)) and text else f"{type(error).__name__}: {text}"
