"""A command in a terminal of its own, and what a person sees there."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyte

ROWS = 24
LIMIT = 120  # seconds; only a hang reaches it


class Shown(NamedTuple):
    """What a command left: its status, every byte that it wrote, and the screen at the end."""

    status: int
    written: bytes
    screen: list[str]


class Terminal:
    """A pseudo-terminal that stderr is connected to, and stdout unless that goes elsewhere."""

    def __init__(self, columns: int = 100) -> None:
        self.columns, self.written = columns, b""
        self.screen = pyte.Screen(columns, ROWS)
        self.stream = pyte.ByteStream(self.screen)
        self.ours, self.theirs = pty.openpty()
        self.resize(columns)

    def resize(self, columns: int) -> None:
        """Change the width."""
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        self.screen.resize(ROWS, columns)

    def lines(self) -> list[str]:
        """Return the screen's lines that hold anything."""
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def run(
        self,
        command: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        stdout: int | None = None,
        watch: Callable[[Terminal, subprocess.Popen[bytes]], None] = lambda terminal, process: None,
    ) -> Shown:
        """Run a command to its end; `watch` is called after whatever it writes."""
        settings = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **(environment or {})}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            settings.pop(name, None) if name not in (environment or {}) else None
        process = subprocess.Popen(
            command, cwd=cwd, env=settings, stdin=self.theirs, stdout=stdout or self.theirs, stderr=self.theirs
        )
        os.close(self.theirs)
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            try:
                part = os.read(self.ours, 65536)
            except OSError:  # nobody holds the other end any more
                break
            if not part:
                break
            self.written += part
            self.stream.feed(part)
            watch(self, process)
        else:
            process.send_signal(signal.SIGKILL)
        os.close(self.ours)
        return Shown(process.wait(), self.written, self.lines())
