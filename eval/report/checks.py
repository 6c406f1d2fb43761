"""What was looked for in the runs, when it would have been found, and what was; and how long answers have become."""

from __future__ import annotations

from preflab.eval.diagnosis import DETECTORS
from preflab.eval.diagnosis.rewards import LONGER
from preflab.eval.metrics.measures import one
from preflab.eval.metrics.response_length import LENGTH
from preflab.eval.records.comparison import Comparison
from preflab.eval.report.measures import Table
from preflab.eval.report.text import finite

NO_DATA, UNSAID, NOT_FOUND = "no data", "not found, data not recorded", "not found"


def diagnosis(comparison: Comparison) -> Table | None:
    """Return findings, serious ones first, and every check with its threshold and outcome; None where nobody looked.

    Returns:
        ``cards`` (a finding each), ``methods`` (``name``, ``checked`` and ``found``, counts), ``checks`` (``symptom``,
        ``explanation``, ``looks_at``, ``threshold`` and ``outcomes``, one a method) and ``lengths``.
    """
    found = comparison.diagnosis
    if not found:
        return None
    cards = [{"name": name, **vars(finding)} for name, findings in found.items() for finding in findings]
    cards.sort(key=lambda card: card["severity"] != "serious")
    checks = [
        {
            "symptom": known.symptom,
            "explanation": known.explanation,
            "looks_at": marked(known.looks_at),
            "threshold": marked(known.threshold),
            "outcomes": [_outcome(comparison, name, known.symptom) for name in found],
        }
        for known in DETECTORS
    ]
    methods = [
        {"name": name, "found": len(findings), "checked": _checked(comparison, name)}
        for name, findings in found.items()
    ]
    return {"cards": cards, "methods": methods, "checks": checks, "lengths": lengths(comparison)}


def _outcome(comparison: Comparison, name: str, symptom: str) -> str:
    severity = next((f.severity for f in comparison.diagnosis[name] if f.symptom == symptom), None)
    if severity is not None:
        return severity
    if name not in comparison.examined:
        return UNSAID
    return NOT_FOUND if symptom in comparison.examined[name] else NO_DATA


def _checked(comparison: Comparison, name: str) -> int | None:
    """Return for how many symptoms there were data; None in records that do not say."""
    seen = comparison.examined.get(name)
    return None if seen is None else sum(known.symptom in seen for known in DETECTORS)


def marked(text: str) -> list[tuple[str, bool]]:
    """Return a text in parts, and of each whether it stands between backticks, where names of fields do."""
    return [(part, bool(at % 2)) for at, part in enumerate(text.split("`")) if part]


def lengths(comparison: Comparison) -> list[Table]:
    """Return of each method by how much its answers are longer or shorter than the start's, in words."""
    start = comparison.baseline or ""
    known = {name: row.figures.get(LENGTH.key) for name, row in comparison.methods.items()}
    before, found = known.get(start), []
    if before is None or not finite(before.mean) or before.mean <= 0:
        return []
    for name, after in known.items():
        if name == start or after is None or not finite(after.mean):
            continue
        change = after.mean / before.mean - 1.0
        percent = f"{100 * abs(change):.0f} %"
        word = "longer" if change > 0 else "shorter"
        apart = all(map(finite, (after.low, after.high, before.low, before.high))) and (
            after.low > before.high or after.high < before.low
        )
        said = f"{percent} {word} than" if percent != "0 %" else "as long as"
        tokens = f"{one(after.mean)} against {one(before.mean)} tokens"
        sure = "" if apart else "; their 95 % intervals overlap"
        large = abs(change) >= LONGER and apart
        found.append({"name": name, "text": f"answers are {said} the start’s ({tokens}{sure})", "large": large})
    return found
