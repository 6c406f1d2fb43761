"""Adapters from elsewhere: as policy, as reference, as reward model, as judge."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.faults.cases import Case, Right, refused, said, words
from benchmarks.faults.foreign import Change, as_folder, both, gone, write
from benchmarks.faults.kit import begun
from benchmarks.faults.models import pickled

DATA = words("--model kit/model --dataset kit/pairs.jsonl --config kit/tiny.yaml --output out")
SETTINGS, WEIGHTS, NORMALISATION = "adapter_config.json", "adapter_model.safetensors", "normalisation.json"
QUERY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

ROLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "policy": ("adapter", ("--models", "a=mine")),
    "reference": ("sft", ("--models", "a=kit/adapter", "--sft", "mine")),
    "scorer": ("reward", ("--models", "a=mine", "--generate", "false")),
    "reward model": ("reward", ("--models", "a=kit/adapter", "--reward-model", "mine")),
    "judge": ("reward", ("--models", "a=kit/adapter", "--judge", "mine")),
}
"""What the adapter is taken for: which of the kit's it is a copy of, and the options that name it."""


def cases(seed: int) -> Iterator[Case]:
    """Yield every fault of an adapter, in each part that it can play."""
    for what, (change, parts) in FAULTS.items():
        for role in ROLES:
            if role in ("policy", "reward model") or what in EVERYWHERE:
                yield case(f"{what}/{role}", role, change, refused("mine", *parts))
    for what, (change, parts) in NORMALISATIONS.items():
        for role in ("scorer", "reward model", "judge"):
            yield case(f"normalisation {what}/{role}", role, change, refused("normalisation", *parts))
    for role in ("scorer", "reward model", "judge"):
        yield case(f"without its head/{role}", role, tensors(lambda s: s.pop(head(s))), refused("mine", "score"))
        yield case(f"a head of two labels/{role}", role, tensors(_two_labels), refused("mine"))
    other = settings(base_model_name_or_path="other/stranger")
    for role in ROLES:
        yield case(f"made for another base/{role}", role, other, (*said("other/stranger"), *refused("other/stranger")))
    yield case("a reward model as policy/policy", "policy", settings(task_type="SEQ_CLS"), refused("mine"))
    yield case("a policy as judge/judge", "judge", settings(task_type="CAUSAL_LM"), refused("mine"))


def case(name: str, role: str, change: Change, right: tuple[Right, ...]) -> Case:
    """Return a case in which the changed copy of an adapter of the kit plays a part."""
    source, options = ROLES[role]

    def make(folder: Path) -> None:
        shutil.copytree(folder / "kit" / source, folder / "mine")
        change(folder / "mine")

    return Case(f"adapters/{name}", ("evaluate.py", *options, *DATA), right, begun("evaluated", make))


def settings(**values: Any) -> Change:
    """Return what changes adapter_config.json; None takes a value away."""

    def change(folder: Path) -> None:
        path = folder / SETTINGS
        found = json.loads(path.read_text()) | values
        path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))

    return change


def tensors(change: Callable[[dict[str, Any]], object]) -> Change:
    """Return what changes the weights by name."""

    def write(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        state = load_file(folder / WEIGHTS)
        change(state)
        save_file({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS)

    return write


def head(state: Mapping[str, Any]) -> str:
    """Return the name of a classifier's head."""
    return next(name for name in state if "score" in name)


def _two_labels(state: dict[str, Any]) -> None:
    import torch

    state[head(state)] = torch.cat([state[head(state)]] * 2)


def _poison(state: dict[str, Any]) -> None:
    state[QUERY][0, 0] = float("nan")


def _renamed(state: dict[str, Any]) -> None:
    for name in list(state):
        state[name.replace("layers", "blocks")] = state.pop(name)


def cut(name: str, share: float) -> Change:
    """Return what cuts a file."""
    return lambda folder: os.truncate(folder / name, int((folder / name).stat().st_size * share))


FAULTS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "settings cut": (cut(SETTINGS, 0.5), ()),
    "settings empty": (write(SETTINGS, ""), ()),
    "settings a list": (write(SETTINGS, "[]"), ()),
    "settings null": (write(SETTINGS, "null"), ()),
    "settings of zeros": (write(SETTINGS, bytes(99)), ()),
    "settings nested": (write(SETTINGS, '{"a":' * 50_000), ()),
    "settings an object of nothing": (write(SETTINGS, "{}"), ()),
    "settings a folder": (as_folder(SETTINGS), ()),
    "settings gone": (gone(SETTINGS), ()),
    "an unknown kind": (settings(peft_type="NO_SUCH_KIND"), ()),
    "a kind that is a number": (settings(peft_type=7), ()),
    "another kind": (settings(peft_type="PREFIX_TUNING"), ()),
    "no kind": (settings(peft_type=None), ()),
    "an unknown task": (settings(task_type="NO_SUCH_TASK"), ()),
    "no rank": (settings(r=0), ()),
    "a rank of less than none": (settings(r=-2), ()),
    "a rank as text": (settings(r="two"), ()),
    "a rank of a billion": (settings(r=10**9), ()),
    "another rank": (settings(r=4), ()),
    "alpha as text": (settings(lora_alpha="large"), ()),
    "alpha that is no number": (settings(lora_alpha=float("nan")), ()),
    "no such modules": (settings(target_modules=["no_proj"]), ()),
    "modules as a number": (settings(target_modules=7), ()),
    "fewer modules": (settings(target_modules=["q_proj"]), ()),
    "weights cut": (cut(WEIGHTS, 0.5), ()),
    "weights cut at the end": (cut(WEIGHTS, 0.999), ()),
    "weights empty": (write(WEIGHTS, b""), ()),
    "weights a folder": (as_folder(WEIGHTS), ()),
    "weights gone": (gone(WEIGHTS), ("safetensors",)),
    "a pickle alone": (both(gone(WEIGHTS), pickled("adapter_model.bin")), ("safetensors",)),
    "weights without a tensor": (tensors(lambda state: state.pop(QUERY)), ("q_proj",)),
    "weights with a tensor more": (
        tensors(lambda s: s.update({QUERY.replace(".0.", ".7.", 1): s[QUERY].clone()})),
        ("layers.7",),
    ),
    "weights of another shape": (tensors(lambda s: s.update({QUERY: s[QUERY][:1]})), ("q_proj|rank",)),
    "weights of another width": (tensors(lambda s: s.update({QUERY: s[QUERY][:, :8]})), ("q_proj",)),
    "weights by other names": (tensors(_renamed), ("layers|blocks",)),
    "weights with NaN": (tensors(_poison), ("q_proj",)),
    "no weights": (tensors(lambda state: state.clear()), ()),
}
EVERYWHERE = (
    "settings cut",
    "settings nested",
    "a rank as text",
    "weights cut",
    "weights without a tensor",
    "weights of another shape",
    "weights with NaN",
    "a pickle alone",
)
NORMALISATIONS: dict[str, tuple[Change, tuple[str, ...]]] = {
    what: (write(NORMALISATION, text), ())
    for what, text in {
        "cut": '{"mean": 0.',
        "a list": "[]",
        "a number": "3",
        "empty": "",
        "NaN": '{"mean": NaN, "std": 1.0}',
        "infinite": '{"mean": 0.0, "std": Infinity}',
        "no spread": '{"mean": 0.0, "std": 0.0}',
        "a spread of less than none": '{"mean": 0.0, "std": -1.0}',
        "words": '{"mean": "low", "std": "high"}',
        "without a spread": '{"mean": 0.0}',
        "a field more": '{"mean": 0.0, "std": 1.0, "median": 0.0}',
        "nested": "[" * 50_000,
    }.items()
}
