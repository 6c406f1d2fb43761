"""Human verdicts in a file, as a judge and as preference data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from preflab.disk.journal import read_rows
from preflab.errors import UserError
from preflab.errors.terminal import shown
from preflab.eval.judges.base import JudgeOption
from preflab.eval.statistics import Agreement, agreement_of_several
from preflab.method.plugins import file_exists

VALUES = {"first": 1.0, "tie": 0.5, "second": 0.0}
Key = tuple[str, str, str]


class Verdict(NamedTuple):
    """What one annotator said of one pair.

    Attributes:
        prompt: the prompt.
        first: one response.
        second: the other one.
        verdict: ``first``, ``second`` or ``tie``.
        annotator: who said it.
        messages: the prompt as messages, where it was a dialogue that a chat template wrote.
    """

    prompt: str
    first: str
    second: str
    verdict: str
    annotator: str = ""
    messages: list[dict[str, Any]] | None = None

    @property
    def pair(self) -> tuple[Key, bool]:
        """What is judged, whichever response is called first, and whether that order was turned."""
        return pair_key(self.prompt, self.first, self.second)

    @property
    def value(self) -> float:
        """How far the response that `pair` names first is preferred: 1, 0.5 or 0."""
        value = VALUES[self.verdict]
        return 1 - value if self.pair[1] else value


TEXTS = Verdict._fields[:5]


def pair_key(prompt: str, first: str, second: str) -> tuple[Key, bool]:
    """Return one key for a pair in either order, and whether it had to be turned; white space around does not count."""
    prompt, first, second = prompt.strip(), first.strip(), second.strip()
    return ((prompt, second, first), True) if second < first else ((prompt, first, second), False)


def read_verdicts(path: Path) -> list[Verdict]:
    """Read verdicts from JSON lines: ``prompt, first, second, verdict`` and, optionally, ``annotator``, ``messages``.

    Raises:
        UserError: for a file that cannot be read or a row that is no verdict.
    """
    return verdicts_of(read_rows(path), str(path))


def verdicts_of(rows: Iterable[Mapping[str, Any]], where: str) -> list[Verdict]:
    """Check rows and keep the last word of each annotator on each pair.

    Raises:
        UserError: for a row that is no verdict.
    """
    last: dict[tuple[Key, str], Verdict] = {}
    for number, row in enumerate(rows, 1):
        verdict = Verdict(*(row.get(name, "") for name in TEXTS))._replace(messages=row.get("messages"))
        bad = [name for name in TEXTS if not isinstance(row.get(name, ""), str)]
        bad += [name for name in Verdict._fields[:4] if name not in row]
        if bad:
            raise UserError(f"{where}, row {number}: {bad[0]!r} is missing or no text")
        if verdict.verdict not in VALUES:
            raise UserError(
                f"{where}, row {number}: verdict {shown(verdict.verdict)}; it must be one of {', '.join(VALUES)}"
            )
        last[verdict.pair[0], verdict.annotator] = verdict
    return list(last.values())


class HumanVerdicts:
    """Answers for the pairs of a file, in either order, and for no others.

    Several annotators of a pair count alike: the answer is the mean of their verdicts, so that win rates count each of
    them, and whether the pair is won, tied or lost goes by their majority. Whoever wrote the verdicts is taken to have
    seen responses in random places, as `preflab annotate` shows them.

    Args:
        path: JSON lines, see `read_verdicts`.

    Raises:
        UserError: as `read_verdicts` does, and for a file without verdicts.
    """

    sees_position = False

    def __init__(self, path: Path) -> None:
        self.name, self.verdicts = f"human verdicts ({path.name})", read_verdicts(path)
        if not self.verdicts:
            raise UserError(f"{path} holds no verdict")
        self._values = _by_pair(self.verdicts)
        self.missing = 0
        self._met: set[Key] = set()

    def prefer(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[float | None]:
        """Return the mean verdict on each pair; None where there is none."""
        answers: list[float | None] = []
        for texts in zip(prompts, first, second, strict=True):
            key, turned = pair_key(*texts)
            values = list(self._values.get(key, {}).values())
            self._met.update([key] if values else [])
            mean = sum(values) / len(values) if values else None
            answers.append(1 - mean if turned and mean is not None else mean)
        self.missing += answers.count(None)
        return answers

    def report(self) -> dict[str, Any]:
        """Return how many pairs had no verdict, how many of the file's nobody asked about, how far annotators agree."""
        counts = {"verdicts": len(self._values), "unmatched": len(self._values) - len(self._met)}
        return {"judge": self.name, "missing": self.missing, **counts, "agreement": agreement(self.verdicts)}


def _by_pair(verdicts: Iterable[Verdict]) -> dict[Key, dict[str, float]]:
    """Return each pair's verdicts, by annotator."""
    values: dict[Key, dict[str, float]] = {}
    for verdict in verdicts:
        values.setdefault(verdict.pair[0], {})[verdict.annotator] = verdict.value
    return values


class Panel(NamedTuple):
    """What several annotators said of the same pairs.

    Attributes:
        annotators: their names.
        verdicts: ``[N, A]`` as `Verdict.value` has them, NaN where one did not judge a pair.
        prompts: ``[N]`` which prompt each pair is of, as a number.
    """

    annotators: tuple[str, ...]
    verdicts: NDArray[np.float64]
    prompts: NDArray[np.int64]

    def agreement(self) -> Agreement:
        """Return how far any two of them agree on a pair."""
        return agreement_of_several(self.verdicts, self.prompts)


def panel(verdicts: Iterable[Verdict]) -> Panel | None:
    """Return the pairs that two or more annotators judged, and what they said; None where there is no such pair."""
    shared = {key: values for key, values in _by_pair(verdicts).items() if len(values) > 1}
    if not shared:
        return None
    names = tuple(dict.fromkeys(name for values in shared.values() for name in values))
    table = [[values.get(name, np.nan) for name in names] for values in shared.values()]
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(key[0] for key in shared))}
    return Panel(names, np.array(table), np.array([numbers[key[0]] for key in shared]))


def agreement(verdicts: Iterable[Verdict]) -> dict[str, Any] | None:
    """Return how far annotators of the same pairs agree, for records; None where no pair has two of them.

    ``observed`` and ``corrected`` are the share and the kappa of `agreement_of_several`, the latter None where all say
    tie; ``…_low`` and ``…_high`` are the ends of their intervals over prompts.
    """
    found = panel(verdicts)
    if found is None:
        return None
    share, kappa = found.agreement()
    ends = {"observed_low": share.low, "observed_high": share.high}
    if kappa is not None:
        ends |= {"corrected_low": kappa.low, "corrected_high": kappa.high}
    counts = {"pairs": share.n, "annotators": len(found.annotators)}
    return {"observed": share.mean, "corrected": kappa and kappa.mean, **counts, **ends}


def preference_data(verdicts: Iterable[Verdict]) -> tuple[list[dict[str, Any]], int]:
    """Return rows ``prompt, chosen, rejected`` of the pairs that have a winner, and the number of ties.

    The majority decides where several annotators judged a pair.
    """
    by_pair: dict[Key, list[Verdict]] = {}
    for verdict in verdicts:
        by_pair.setdefault(verdict.pair[0], []).append(verdict)
    rows: list[dict[str, Any]] = []
    ties = 0
    for group in by_pair.values():
        text = group[0]
        mean = sum(verdict.value for verdict in group) / len(group)
        mean = 1 - mean if text.pair[1] else mean
        if mean == 0.5:
            ties += 1
            continue
        chosen, rejected = (text.first, text.second) if mean > 0.5 else (text.second, text.first)
        rows.append({"prompt": text.messages or text.prompt, "chosen": chosen, "rejected": rejected})
    return rows, ties


JUDGE = JudgeOption(
    "verdicts",
    "a file of human verdicts",
    lambda spec, settings: HumanVerdicts(Path(spec).expanduser()),
    fits=lambda spec: file_exists(Path(spec)),
)
