"""A page's one new file, beside a copy of `eval/`: found by being there, with nothing edited."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def file_of(page: str) -> tuple[str, str]:
    """Return name and text of the one file that a page of docs/ shows."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    ((name, content),) = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return name, content


def add_to_copy(page: str, folder: Path) -> None:
    """Copy `eval/` to a folder, and what names it a part of preflab, and put the page's file into it."""
    name, content = file_of(page)
    for part in ("preflab", "eval"):
        shutil.copytree(ROOT / part, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("algorithms", "recipes"):
        (folder / part).symlink_to(ROOT / part)
    assert not (folder / name).exists()
    (folder / name).write_text(content, encoding="utf-8")


def run_in_copy(folder: Path, *arguments: str) -> str:
    """Run Python in the folder, on its copy; return what it printed."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
