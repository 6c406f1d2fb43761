"""Peak memory of a stretch of work."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


LARGE = 4 * 2**20
"""Bytes of a block that goes back to the system when it is freed."""

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def give_large_blocks_back() -> None:
    """Let glibc give large blocks back to the system as soon as they are freed; elsewhere, do nothing.

    By itself it raises the size from which it does to that of the largest block freed so far, up to 32 MiB, and keeps
    the rest in pieces: where activations are recomputed, a process then held twice what lived (`benchmarks.plan`).
    """
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, LARGE)
        except (OSError, AttributeError):  # another C library
            pass


class PeakMemory:
    """Measures from its making on: allocated memory on CUDA, the process's resident memory on CPU.

    Linux can reset the resident peak; elsewhere the peak is that of the process's whole life.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(device)
        else:
            try:
                _CLEAR.write_text("5")
            except OSError:
                pass

    def peak(self) -> int:
        """Return the peak in bytes."""
        if self.cuda:
            return int(torch.cuda.max_memory_allocated())
        try:
            line = next(x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM"))
            return int(line.split()[1]) * 1024
        except (OSError, StopIteration):
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
