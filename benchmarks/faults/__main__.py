"""Make every fault, run the command that meets it, and count wrong answers.

    python -m benchmarks.faults                     all malformed inputs and all damages
    python -m benchmarks.faults --area data,models  some areas
    python -m benchmarks.faults --only NAME         cases whose name contains NAME; their folders are kept
    python -m benchmarks.faults --list

Exit status 1 if any answer is wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.faults import data
from benchmarks.faults.cases import Case, distinct
from benchmarks.faults.kit import make_kit
from benchmarks.faults.outcomes import OUTCOMES, Outcome, outcome, read_splits
from benchmarks.faults.runner import Answer, run_all, warm


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    cases = [c for c in distinct(data.cases(0)) if args.only in c.name]
    work = Path(tempfile.mkdtemp(prefix="faults-"))
    began = time.monotonic()
    warm()
    print("warm", time.monotonic() - began)
    kit = make_kit(work / "kit")
    print("kit", time.monotonic() - began)
    found: dict[str, tuple[Case, Answer]] = {}

    def done(case: Case, answer: Answer) -> None:
        found[case.name] = case, answer
        print(f"{answer.seconds:6.1f}", case.name, answer.status)

    run_all(cases, work / "cases", kit, args.jobs, done)
    splits = lambda name: (read_splits(found[name][1].folder) or {}).get("fingerprints")
    for case, answer in found.values():
        print(case.name, outcome(case, answer, splits))
    return 0

if __name__ == "__main__":
    sys.exit(main())
