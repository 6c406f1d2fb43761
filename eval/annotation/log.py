"""The file of verdicts while it is open: what each annotator has said, written and synced as they say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preflab.disk.journal import Journal
from preflab.eval.judges.verdicts import Key, Verdict, pair_key, verdicts_of


class VerdictLog:
    """Verdicts on disk; only one process writes at a time, for any number of annotators.

    Args:
        path: of the file; made if it does not exist.

    Raises:
        UserError: if it cannot be written, another process holds it, or it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._journal = path, Journal(path)
        try:
            self.verdicts()  # a file with something else in it is not written to
        except Exception:
            self.close()
            raise
        self._given = [_by_whom_on_what(row) for row in self._journal.rows]

    def close(self) -> None:
        """Let others write."""
        self._journal.close()

    def verdicts(self) -> list[Verdict]:
        """Return the last word of each annotator on each pair."""
        return verdicts_of(self._journal.rows, str(self.path))

    def annotators(self) -> list[str]:
        """Return who has judged anything, in the order of their first verdicts."""
        return list(dict.fromkeys(annotator for annotator, _ in self._given))

    def judged_by(self, annotator: str) -> dict[Key, float]:
        """Return an annotator's last verdict on each pair, as `Verdict.value` has it, the first given first."""
        return {verdict.pair[0]: verdict.value for verdict in self.verdicts() if verdict.annotator == annotator}

    def append(self, row: dict[str, Any]) -> None:
        """Write a verdict; it is on disk when this returns."""
        self._journal.append(row)
        self._given.append(_by_whom_on_what(row))

    def take_back(self, annotator: str, key: Key) -> None:
        """Remove what an annotator said of a pair, and leave all others' verdicts as they are."""
        for at in reversed(range(len(self._given))):
            if self._given[at] == (annotator, key):
                self._journal.remove(at)
                del self._given[at]


def _by_whom_on_what(row: dict[str, Any]) -> tuple[str, Key]:
    return row.get("annotator", ""), pair_key(row["prompt"], row["first"], row["second"])[0]
