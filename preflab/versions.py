"""What a run was made with: versions of the libraries, and of the project."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


LIBRARIES = ("preflab", "torch", "transformers", "trl", "peft", "datasets", "evaluate", "accelerate")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide results."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def command() -> tuple[str, ...]:
    """Return the command line, the script's name first; nothing in a notebook, of which its kernel's says nothing."""
    name = Path(sys.argv[0]).name
    return () if name in ("", "-c", "ipykernel_launcher.py") else (name, *sys.argv[1:])


def provenance() -> dict[str, Any]:
    """Return command, commit and machine, for the manifest."""
    root = Path(__file__).resolve().parent.parent
    answer = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": command(),
        "commit": answer.stdout.strip() or None,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
    }
