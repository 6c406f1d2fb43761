"""Processes that make one run together: all go through the same code, share what takes time, and the first writes.

What is split are sampled prompts, scored batches and the rows of an optimiser step. Everything else is done by all
alike, from the same seeds, so that whoever reads a value never asks whose it is. No torch at import time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")
P = TypeVar("P")

PATIENCE = timedelta(days=7)
"""How long a process waits for others: the first may ask an endpoint for hours. One that dies is noticed at once."""

_alone: list[bool] = []


def start() -> None:
    """Join the processes that a launcher started beside this one; do nothing where it is the only one."""
    if ranks() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


class Dismissed(BaseException):
    """Ends a process whose work is done: what is left is the first one's."""


def dismiss() -> None:
    """Let the first process go on by itself, and end the others.

    Raises:
        Dismissed: in all but the first.
    """
    if ranks() == 1:
        return
    barrier()
    _group().destroy_process_group()
    _alone.append(True)
    if not first():
        raise Dismissed


def launched() -> bool:
    """Whether a launcher has started several processes for this run."""
    size = os.environ.get("WORLD_SIZE", "1")
    return size.isdigit() and int(size) > 1


def rank() -> int:
    """Return which of the processes this is, from 0."""
    return int(os.environ.get("RANK", "0")) if launched() else 0


def first() -> bool:
    """Whether this is the process that decides and writes."""
    return rank() == 0


def ranks() -> int:
    """Return how many processes do the work at hand: 1 where the first does it `alone`."""
    return int(os.environ["WORLD_SIZE"]) if launched() and not _alone else 1


@contextmanager
def alone() -> Iterator[None]:
    """Do the work in the block without the others, whose turn it is not."""
    _alone.append(True)
    try:
        yield
    finally:
        _alone.pop()


def barrier() -> None:
    """Wait for all."""
    if ranks() > 1:
        _group().barrier()


def gathered(value: T) -> list[T]:
    """Return what every process has, in their order; tensors in it come back on the CPU."""
    if ranks() == 1:
        return [value]
    found: list[Any] = [None] * ranks()
    _group().all_gather_object(found, _on_cpu(value))
    return found


def from_first(value: T) -> T:
    """Return what the first process has; tensors in it come back on the CPU."""
    if ranks() == 1:
        return value
    box = [_on_cpu(value)]
    _group().broadcast_object_list(box, src=0)
    return box[0]


def once(work: Callable[[], T]) -> T:
    """Let the first process alone do some work, and return to all what came of it: calls that cost, or may differ."""
    if ranks() == 1:
        return work()
    found: Any = None
    if first():
        with alone():
            found = work()
    return from_first(found)


def spread(parts: Sequence[P], work: Callable[[P], T], through: Callable[[Sequence[P]], Iterable[P]] = iter) -> list[T]:
    """Return what `work` makes of each part, in order; each process does some of them, and all get all.

    Args:
        parts: the same for all processes.
        work: of one part; of several processes, tensors in what it returns come back on the CPU.
        through: gives the parts that this process does one by one, and shows how far they are.
    """
    many = ranks()
    if many == 1:
        return [work(part) for part in through(parts)]
    with alone():
        own = [work(part) for part in through(parts[rank() :: many])]
    found = gathered(own)
    return [found[at % many][at // many] for at in range(len(parts))]


def _group() -> Any:
    import torch.distributed

    return torch.distributed


def _on_cpu(value: Any) -> Any:
    """Return the same with its tensors on the CPU: another process has no use for this one's device."""
    from accelerate.utils import send_to_device

    return send_to_device(value, "cpu")
