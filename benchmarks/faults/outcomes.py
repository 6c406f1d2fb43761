"""What an answer is worth: right, or which way it is wrong."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults.cases import CANARY, Accepted, Case, Refused, Right
from benchmarks.faults.runner import NOT_MADE, Answer

OUTCOMES = ("right", "silent", "traceback", "hang", "ran code", "unclear", "not made")
"""What a case can come to. Unclear: refused, but not in one line, with another status, or without naming the culprit;
or with raw control characters."""

BARS = re.compile(r"\x1b\[A|\r")  # by which progress bars find their line
BIDI = {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"}


class Outcome(NamedTuple):
    """One of `OUTCOMES`, and why."""

    kind: str
    why: str = ""


class Judged(NamedTuple):
    """A case and what it came to.

    Attributes:
        name: of the case.
        area: of the case.
        outcome: what it came to.
        command: what was run.
        tail: the end of what it printed.
    """

    name: str
    area: str
    outcome: Outcome
    command: str
    tail: str

    def as_dict(self) -> dict[str, str]:
        """Return it, JSON-ready."""
        return {
            "name": self.name,
            "outcome": self.outcome.kind,
            "why": self.outcome.why,
            "command": self.command,
            "tail": self.tail,
        }


def judge_all(answers: Sequence[tuple[Case, Answer]]) -> list[Judged]:
    """Judge every case, in the order of their names within each area."""
    found = {case.name: answer for case, answer in answers}

    def splits(name: str) -> Any:
        read = read_splits(found[name].folder) if name in found else None
        return read and read["fingerprints"]

    order = {area: n for n, area in enumerate(dict.fromkeys(case.area for case, _ in answers))}
    return [
        Judged(case.name, case.area, outcome(case, answer, splits), " ".join(case.command)[:300], answer.err[-600:])
        for case, answer in sorted(answers, key=lambda pair: (order[pair[0].area], pair[0].name))
    ]


def outcome(case: Case, answer: Answer, splits: Callable[[str], Any] = lambda name: None) -> Outcome:
    """Judge an answer; `splits` gives those of another case, by its name."""
    if answer.status == NOT_MADE:
        return Outcome("not made", last_line(answer.err))
    if (answer.folder / CANARY).exists():
        return Outcome("ran code", "a file of the input was executed")
    if answer.status is None:
        return Outcome("hang", f"still running after {answer.seconds:.0f} s")
    output = answer.out + answer.err
    if "Traceback (most recent call last)" in output or answer.status not in (0, 2):
        return Outcome("traceback", f"exit status {answer.status}: {last_line(answer.err)}")
    if raw := raw_characters(output, case.banned):
        return Outcome("unclear", f"raw characters in the output: {raw}")
    wrong = [_misfit(right, answer, splits) for right in case.right]
    if not all(wrong):
        return Outcome("right")
    return Outcome("silent" if answer.status == 0 else "unclear", "; or ".join(filter(None, wrong)))


def _misfit(right: Right, answer: Answer, splits: Callable[[str], Any]) -> str:
    """Return how an answer differs from what is right; nothing if it does not."""
    if isinstance(right, Refused):
        return _not_refused(right, answer)
    if answer.status:
        return f"refused: {last_line(answer.err)}"
    lines = [*answer.out.splitlines(), *answer.err.splitlines()]
    if right.says and not any(names(line, right.says) for line in lines):
        return f"no line says {' … '.join(right.says)}"
    return _other_rows(right, answer, splits)


def _not_refused(right: Refused, answer: Answer) -> str:
    if answer.status == 0:
        return "accepted"
    lines = [line for line in BARS.sub("\n", answer.err).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    if len(errors) != 1 or lines[-1] != errors[0]:
        return f"not one last line: {lines[-3:]}"
    if "written to" in answer.out:
        return "a result was printed"
    return "" if names(errors[0], right.parts) else f"does not name {' … '.join(right.parts)}: {errors[0]}"


def _other_rows(right: Accepted, answer: Answer, splits: Callable[[str], Any]) -> str:
    if right.like is None and right.groups is None:
        return ""
    found = read_splits(answer.folder)
    if found is None:
        return "no record of the data"
    if right.like is not None and found["fingerprints"] != splits(right.like):
        return f"not the rows of {right.like}"
    groups = sum(found["groups"].get(name, 0) for name in ("pairs", "heldout", "gold_pairs"))
    return "" if right.groups in (None, groups) else f"{groups} groups, not {right.groups}"


def names(line: str, parts: tuple[str, ...]) -> bool:
    """Return whether a line has all parts; of ``a|b`` either."""
    low = line.lower()
    return all(any(choice.lower() in low for choice in part.split("|")) for part in parts)


def raw_characters(text: str, banned: tuple[str, ...] = ()) -> str:
    """Return what a terminal would obey rather than show, as Python writes it; bars' own moves do not count."""
    found = {c for c in BARS.sub("", text) if (unicodedata.category(c) == "Cc" and c not in "\n\t") or c in BIDI}
    return " ".join(sorted(map(ascii, [*found, *(word for word in banned if word in text)])))


def read_splits(folder: Path) -> dict[str, Any] | None:
    """Return fingerprints and groups of a run's data; None where no run was made."""
    for path in sorted([*folder.glob("out*/manifest.json"), *folder.glob("out*/evaluation.json")]):
        facts = json.loads(path.read_text(encoding="utf-8"))["data"]["facts"]
        return {name: facts[name] for name in ("fingerprints", "groups")}
    return None


def last_line(text: str) -> str:
    """Return the last line that is not blank, shortened, with nothing in it that a terminal obeys."""
    found = [line for line in BARS.sub("\n", text).splitlines() if line.strip()]
    return (ascii(found[-1])[1:-1] if raw_characters(found[-1]) else found[-1])[:300] if found else "(nothing)"
