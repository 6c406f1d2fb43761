"""Where models compute: one device to a process, chosen before CUDA is started. No torch until it is looked for."""

from __future__ import annotations

import os
import sys

from preflab import ranks
from preflab.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
MPS = "mps"

_chosen = ["auto"]
_before: list[str | None] = []  # what `VISIBLE` was, while it is ours


def choose_device(name: str) -> None:
    """Let this process, and those that it starts, compute on a device.

    GPUs that are not to be used are hidden from every library, as ``CUDA_VISIBLE_DEVICES`` does it: each of them would
    otherwise look for one by itself.

    Args:
        name: ``auto``, ``cpu``, ``mps``, ``cuda``, or ``cuda:N``, counted among the GPUs that are visible.

    Raises:
        UserError: for a GPU that cannot be chosen any more, or not here.
    """
    if name == _chosen[0]:
        return
    kind, colon, number = name.partition(":")
    if colon and ranks.launched():
        raise UserError(f"--device {name}: each process of a launcher has a GPU of its own; give cuda")
    if (colon or kind == "cpu") and _cuda_is_started():
        raise UserError(f"--device {name}: this process computes on CUDA already; choose before, by {VISIBLE}")
    _show_again()
    if colon or kind == "cpu":
        shown = _visible(int(number), name) if colon else ""
        _before.append(os.environ.get(VISIBLE))
        os.environ[VISIBLE] = shown
    _chosen[0] = name


def _show_again() -> None:
    """Show the GPUs that an earlier choice has hidden."""
    while _before:
        before = _before.pop()
        os.environ.pop(VISIBLE, None)
        if before is not None:
            os.environ[VISIBLE] = before


def _visible(number: int, name: str) -> str:
    """Return the GPU of a number as ``CUDA_VISIBLE_DEVICES`` names it."""
    named = os.environ.get(VISIBLE)
    if named is None:
        return str(number)
    listed = [part.strip() for part in named.split(",") if part.strip()]
    if number >= len(listed):
        raise UserError(f"--device {name}: {VISIBLE} shows {len(listed)} GPUs ({named or 'none'}); they count from 0")
    return listed[number]


def _cuda_is_started() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()


def check_device(name: str) -> None:
    """See that a chosen device is there.

    Raises:
        UserError: if torch finds none of it.
    """
    import torch

    kind = name.partition(":")[0]
    there = {"cuda": torch.cuda.is_available(), MPS: torch.backends.mps.is_available()}
    if not there.get(kind, True):
        found = [known for known, is_there in there.items() if is_there]
        raise UserError(f"--device {name}: torch finds no such device here; there is {' and '.join(['cpu', *found])}")


def default_device() -> str:
    """Return where models are loaded to: what was chosen, else the GPU where torch sees one."""
    import torch

    if _chosen[0] in ("cpu", MPS):
        return _chosen[0]
    return "cuda" if torch.cuda.is_available() else "cpu"
