"""Make every fault, run the command that meets it, and count wrong answers.

    python -m benchmarks.faults                        all malformed inputs, then all damages of finished runs
    python -m benchmarks.faults --area data,models     some areas (see --list)
    python -m benchmarks.faults --only NAME            cases whose name contains NAME, and those they are compared with
    python -m benchmarks.faults --kills 50             kill a run at 50 random moments as well; figures must not change
    python -m benchmarks.faults --write                put the tables into docs/reliability.md
    python -m benchmarks.faults --list

Exit status 1 if any answer is wrong. With --keep FOLDER every case's files, output and command stay in a folder of its
own; there ``python …/recipes/<command>`` repeats it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults import areas, damages, kills
from benchmarks.faults.cases import Case
from benchmarks.faults.kit import make_kit, make_runs
from benchmarks.faults.outcomes import judge_all
from benchmarks.faults.report import DAMAGES, INPUTS, summary, tables, write
from benchmarks.faults.runner import LIMIT, Answer, run_all, run_one, warm


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for; return the exit status."""
    options = parse(argv)
    cases = chosen(areas.cases(options.seed), options.area, options.only)
    harmed = [d for d in damages.DAMAGES if wanted("damages", d.name, options.area, options.only)]
    if options.list:
        print(*(case.name for case in cases), *(damage.name for damage in harmed), sep="\n")
        return 0
    work = Path(options.keep or tempfile.mkdtemp(prefix="faults-")).resolve()
    try:
        return measure(options, cases, harmed, work)
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)


def measure(options: argparse.Namespace, cases: list[Case], harmed: list[damages.Damage], work: Path) -> int:
    """Run cases, damages and kills in `work`; print tables and failures."""
    warm()
    kit, began = make_kit(work / "kit"), time.monotonic()
    made = iter(range(9))
    make_runs(kit, lambda case: run_one(case, work / f"first-{next(made)}", kit))
    answers: list[tuple[Case, Answer]] = []

    def done(case: Case, answer: Answer) -> None:
        answers.append((case, answer))
        with (work / "answers.txt").open("a") as log:
            print(f"{answer.seconds:6.1f} s, status {answer.status}: {case.name}", file=log)
        if sys.stderr.isatty():
            print(f"\r{len(answers)} of {len(cases)}", end="", file=sys.stderr)

    run_all(cases, work / "cases", kit, options.jobs, done, options.limit)
    judged = judge_all(answers)
    print(f"{len(judged)} malformed inputs in {time.monotonic() - began:.0f} s" if judged else "", file=sys.stderr)
    repaired = damages.run(harmed, work / "damages", kit, options.jobs) if harmed else []
    killed = kills.run(options.kills, options.seed, work / "kills", kit) if options.kills else None
    failures = [one for one in (*judged, *repaired) if one.outcome.kind != "right"]
    for one in failures:
        print(f"{one.outcome.kind:9} {one.name}\n          {one.outcome.why}\n          {one.command}")
    found = tables(judged, repaired, killed)
    print(*found.values(), sep="\n")
    if options.json:
        content = {
            "inputs": summary(judged, INPUTS),
            "damages": summary(repaired, DAMAGES),
            "kills": killed,
            "failures": [one.as_dict() for one in failures],
        }
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n")
    if options.write:
        write(found)
    return int(bool(failures or (killed and not killed["equal"])))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--area", default="", help=f"some of {', '.join((*areas.AREAS, 'damages'))}, by commas")
    parser.add_argument("--only", default="", help="part of the names of cases")
    parser.add_argument(
        "--seed", type=int, default=0, help="which formats and values are drawn where not all are tried"
    )
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds after which a command hangs")
    parser.add_argument("--kills", type=int, default=0, help="kill a run at so many random moments")
    parser.add_argument("--keep", help="folder, not there yet, in which everything is kept")
    parser.add_argument("--json", help="file for counts and failures")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/reliability.md")
    parser.add_argument("--list", action="store_true", help="print the names alone")
    return parser.parse_args(argv)


def wanted(area: str, name: str, only_area: str, only_name: str) -> bool:
    """Return whether a case is asked for."""
    return (not only_area or area in only_area.split(",")) and only_name in name


def chosen(cases: Sequence[Case], area: str, name: str) -> list[Case]:
    """Return the cases that are asked for, and those with which they are compared."""
    found = {case.name for case in cases if wanted(case.area, case.name, area, name)}
    for case in cases:
        if case.name in found:
            found |= {like for right in case.right if (like := getattr(right, "like", None))}
    return [case for case in cases if case.name in found]


if __name__ == "__main__":
    sys.exit(main())
