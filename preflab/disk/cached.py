"""What worlds make once and keep: folders that appear whole or not at all, and training that repeats to the bit."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from preflab.disk.files import disk_space, remove, sync
from preflab.disk.seals import damage, seal
from preflab.errors import UserError

logger = logging.getLogger(__name__)

THREADS = 1
"""Base models are trained with this many threads everywhere: sums taken in another order give other weights.

One, because so small a model gains little from a second, and two that wait for each other lose a lot on a
machine with other work to do.
"""


def cached_folder(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return `folder`, letting `make` fill it first unless it is there and as it was written.

    It appears by one rename once it is complete and on the disk, so a killed build leaves nothing that could be
    taken for the whole; what it does leave is removed by the next one. A damaged one is said, and made again.

    Raises:
        UserError: if the disk is full, or the folder cannot be written to.
    """
    with _alone(folder), disk_space(folder):
        if os.path.lexists(folder):
            trouble = damage(folder)
            if trouble is None:
                return folder
            logger.warning("%s is damaged: %s; it is removed and made again", folder, trouble)
            remove(folder)
        unfinished = folder.parent / f".{folder.name}.unfinished"
        remove(unfinished)  # only a killed build leaves one: we hold the lock
        make(unfinished)
        seal(unfinished)
        unfinished.replace(folder)
        sync(folder.parent)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from making the same folder meanwhile."""
    from filelock import FileLock

    lock = FileLock(str(folder.parent / f".{folder.name}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cache {folder.parent} cannot be written: {reason}; choose another --cache") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def pinned(seed: int) -> Iterator[None]:
    """Seed the CPU generator, fix threads and dtype; put all back afterwards."""
    import torch

    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.enable_grad():
        # Not torch.manual_seed: that would reseed the accelerators too, which fork_rng leaves alone here.
        torch.default_generator.manual_seed(seed)
        torch.set_num_threads(THREADS)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)
