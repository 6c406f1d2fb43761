"""Diagnosis: undesirable behaviour recognised from a run's own metrics and evaluation records.

    findings = diagnose(Evidence(metrics, records, baseline))

A detector is a small pure function, registered with what it looks at, its threshold and what to try;
docs/diagnosis.md is made of these by ``python docs/make_diagnosis_page.py``. Importing this package loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from preflab.eval.diagnosis import course, coverage, drift, rewards, training  # noqa: F401  (they register their detectors)
from preflab.eval.diagnosis.base import DETECTORS, UNSEEN, Detector, Evidence, Observed, detector
from preflab.eval.records.comparison import Finding, Severity

__all__ = [
    "DETECTORS",
    "UNSEEN",
    "Detector",
    "Evidence",
    "Finding",
    "Observed",
    "Severity",
    "detector",
    "diagnose",
    "examine",
    "merge",
]


def diagnose(evidence: Evidence) -> list[Finding]:
    """Return the symptoms of one training run, the serious ones first."""
    return examine(evidence)[0]


def examine(evidence: Evidence) -> tuple[list[Finding], list[str]]:
    """Return what `diagnose` does, and the symptoms that could have been seen: what their detectors read was there."""
    looked = {known.symptom: known.examine(evidence) for known in DETECTORS}
    found = [finding for finding, _ in looked.values() if finding is not None]
    seen = [symptom for symptom, (_, there) in looked.items() if there]
    return sorted(found, key=lambda finding: finding.severity != "serious"), seen


def merge(seeds: Sequence[Sequence[Finding]]) -> list[Finding]:
    """Return the findings of several training seeds of one method, each symptom once.

    Severity and evidence are those of its worst seed, the first of them; the evidence says how many seeds
    have the symptom where not all do.
    """
    by_symptom: dict[str, list[Finding]] = {}
    for finding in (finding for seed in seeds for finding in seed):
        by_symptom.setdefault(finding.symptom, []).append(finding)
    merged = []
    for found in by_symptom.values():
        worst = min(found, key=lambda finding: finding.severity != "serious")
        share = "" if len(found) == len(seeds) else f" (in {len(found)} of {len(seeds)} seeds)"
        evidence = worst.evidence + share
        merged.append(Finding(worst.symptom, worst.severity, evidence, worst.explanation, worst.advice))
    return sorted(merged, key=lambda finding: finding.severity != "serious")
