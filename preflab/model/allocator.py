"""The C library's allocator: when freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import sys

LARGE = 4 * 2**20
"""Bytes of a block that goes back to the system when it is freed."""

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def give_large_blocks_back() -> None:
    """Let glibc give large blocks back to the system as soon as they are freed; elsewhere, do nothing.

    By itself it raises the size from which it does to that of the largest block freed so far, up to 32 MiB, and keeps
    the rest in pieces: where activations are recomputed, a process then held twice what lived (`benchmarks.plan`). It
    takes time, as pages that come back are cleared first: a tenth of a step, so that it is for those who have to save.
    """
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, LARGE)
        except (OSError, AttributeError):  # another C library
            pass
