"""Write docs/diagnosis.md from the detectors: ``python docs/make_diagnosis_page.py > docs/diagnosis.md``."""

from __future__ import annotations

from preflab.eval.diagnosis import DETECTORS

HEAD = """\
<!-- Made by python docs/make_diagnosis_page.py from eval/diagnosis/; change that, not this. -->

# Diagnosis

Undesirable behaviour, recognised from what a run wrote down anyway: its lines of metrics, its evaluation, and the
evaluation of the policy that it started from, on the same prompts and held-out pairs. A finding says which symptom it
is, how severe, the evidence in numbers, and what to try. It is a reason to look, not a verdict: read some samples.

```python
from preflab.eval.diagnosis import Evidence, diagnose

findings = diagnose(Evidence(metrics, records, baseline))
```

Three rules hold for all detectors.

- *Beyond chance* means that the 95 % interval of a change excludes 0: over prompts or pairs, that of
  `preflab.eval.statistics.interval` for the paired differences; over lines of metrics, Welch's interval between the
  first quarter of the lines and the last (eight lines or more). A change must also be *large enough to matter*: with
  enough prompts, any change is beyond chance.
- What is absent keeps a detector silent. No metric of that name, no column, no baseline: no finding.
- No method is known by name. A detector reads metrics and columns, and any method that writes them is examined.

Some twenty questions are asked of each run, and no correction is made for their number: a threshold on the size of a
change is what keeps healthy runs free of findings. `tests/conformance/test_diagnosis_runs.py` makes real runs with
each of these faults, and healthy ones, in which nothing is found.

A method of your own can bring a symptom of its own: put `@detector(...)` on a function of an `Evidence`.
"""

FIELDS = (
    ("Looks at", "looks_at"),
    ("Fires when", "threshold"),
    ("Try", "advice"),
)


def page() -> str:
    """Return the page: an index of all symptoms, and a section on each."""
    index = [f"| [{known.symptom}](#{_anchor(known.symptom)}) | {known.explanation} |" for known in DETECTORS]
    sections = [
        "\n".join([f"## {known.symptom}", "", known.explanation, ""])
        + "\n".join(f"- *{title}*: {getattr(known, name)}" for title, name in FIELDS)
        for known in DETECTORS
    ]
    return "\n\n".join([HEAD.rstrip(), "\n".join(["| symptom | what it is |", "|---|---|", *index]), *sections]) + "\n"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


if __name__ == "__main__":
    print(page(), end="")
