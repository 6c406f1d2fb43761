"""Peak memory of a stretch of work."""

from __future__ import annotations

import resource
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


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
