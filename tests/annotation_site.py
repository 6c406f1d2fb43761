"""The annotator's page: a command that serves it, and somebody who fills in its forms."""

from __future__ import annotations

import html
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2

RECIPE = Path(__file__).parents[1] / "recipes" / "annotate.py"
NAMES = ("zebra-method", "quagga-method")


ANSWERS = [[{"prompt": f"prompt {i}:", "response": f"{word} {i}"} for i in range(8)] for word in ("lorem", "ipsum")]
"""Of two models to eight prompts; none says whose it is."""


def write_samples(folder: Path, answers: Sequence[Sequence[dict[str, str]]] = ANSWERS) -> str:
    """Write what two models answered, and return it as ``--samples`` takes it."""
    for name, rows in zip(NAMES, answers, strict=True):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ",".join(f"{name}={name}.jsonl" for name in NAMES)


def rows_in(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of verdicts, every line of it whole."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


class Served:
    """The command with ``--web``, run in a folder until it is ended.

    Attributes:
        url: of the page.
    """

    def __init__(self, folder: Path, *options: str, answers: Sequence[Sequence[dict[str, str]]] = ANSWERS) -> None:
        samples = write_samples(folder, answers)
        command = [sys.executable, str(RECIPE), "--samples", samples, "--web", "--port", "0", *options]
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r"http://\S+", first)
        assert found, (first, self.process.communicate()[1])
        self.url = found[0]

    def end(self, how: signal.Signals = signal.SIGKILL) -> tuple[int, str, str]:
        """Send a signal and return status, output and errors."""
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


class Visitor:
    """An annotator: opens the page, reads it, presses a button of its form.

    Args:
        client: that asks for pages.
        name: of the annotator.
    """

    def __init__(self, client: httpx2.Client, name: str = "Ada") -> None:
        self.client, self.name = client, name
        self.page = self.open()

    def open(self) -> httpx2.Response:
        """Ask for the page, and keep it."""
        answer = self.client.get("judge", params={"annotator": self.name})
        assert answer.status_code == 200, answer.text
        self.page = answer
        return answer

    @property
    def fields(self) -> dict[str, str]:
        """What the form sends beside its button."""
        found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', self.page.text)
        return {name: html.unescape(value) for name, value in found}

    @property
    def texts(self) -> list[str]:
        """The prompt and both answers, as they are read; nothing where no pair is shown."""
        return [html.unescape(text) for text in re.findall(r'dir="auto">(.*?)</div>', self.page.text, re.DOTALL)]

    def send(self, button: str, fields: dict[str, str] | None = None, **changes: str) -> httpx2.Response:
        """Send the form of the page, or of an earlier one; keep the answer as the page."""
        form = {**(self.fields if fields is None else fields), "do": button, **changes}
        self.page = self.client.post("judge", data=form, follow_redirects=True)
        return self.page
