"""Run the notebooks of docs/notebooks/ and write what they show into them: `python docs/make_notebooks.py`.

Their cells are the source: edit those, then run this. Each is run in a kernel of its own, in an empty folder.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "notebooks"
LONGEST = 600  # seconds a cell may take
MACHINE = re.compile(r"/(?:root|home|tmp|var|Users)/[\w.-]|[A-Z]:\\")
"""What begins a path of somebody's machine."""


def run(path: Path) -> Any:
    """Return a notebook with the outputs that its cells have now.

    Raises:
        CellExecutionError: if a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        # The folders at the top of a clone are parts of the package by name alone.
        here = os.environ.get("PYTHONPATH", "")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(FOLDER.parents[1]), here]))
        try:
            client = NotebookClient(
                notebook,
                timeout=LONGEST,
                kernel_name="python3",
                record_timing=False,
                resources={"metadata": {"path": folder}},
            )
            client.execute()
        finally:
            os.environ["PYTHONPATH"] = here
    return notebook


def texts(notebook: Any) -> list[str]:
    """Return all that the outputs of a notebook show, as text."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            found += [output[name] for name in ("text", "evalue") if name in output]
            found += [str(content) for content in output.get("data", {}).values()]
    return found


def main() -> int:
    """Run each, and write it unless it shows a path of this machine."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        began = time.monotonic()
        notebook = run(path)
        shown = [found[0] for text in texts(notebook) if (found := MACHINE.search(text))]
        if shown:
            print(f"{path.name} shows a path of this machine: {shown[0]}", file=sys.stderr)
            return 1
        # Which version of Python ran it is none of the page's business.
        notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
