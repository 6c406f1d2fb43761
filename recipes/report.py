"""Print a finished run's table and verdict again and rewrite its page; of several runs, put their methods side by side.

python recipes/report.py runs/default                      its table, its headline, its page
python recipes/report.py runs/default/evaluation.json      the same of what evaluate.py found
python recipes/report.py runs/a runs/b --output runs/ab    what differs between two runs, and their methods

Nothing is trained, sampled or judged. Methods of two runs are tested against each other only where the same judge
scored answers to the same prompts; elsewhere the page says why not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from preflab.errors import UserError
from preflab.errors.answering import run_recipe
from preflab.errors.terminal import console, one_line, say
from preflab.eval.pipeline.showing import WIDTH, check_report, print_findings
from preflab.settings.command_line import Parser


def main() -> None:
    """Read the runs, then print and write."""
    about, _, more = (__doc__ or "").partition("\n\n")
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser("preflab report", description=about, epilog=more, formatter_class=formatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder, or the result in it (comparison.json)")
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="where the page goes; default: the run's own")
    asked = parser.parse_args()
    check_report(True)
    if len(asked.runs) == 1:
        return report_one(asked.runs[0], asked.output)
    if asked.output is None:
        raise UserError("the page of several runs belongs to none of them: say where it goes, --output FOLDER")
    return report_many(asked.runs, asked.output)


def report_one(place: str, output: Path | None) -> None:
    """Print what a run found, and rewrite its page."""
    from preflab.eval.pipeline.finished import read_run
    from preflab.eval.report import write_report

    run = read_run(place)
    print_findings(run.side.comparison)
    for note in run.notes:
        say(note)
    folder = output or run.report
    write_report(run.side.comparison, run.side.samples, folder)
    say(f"report at {folder / 'report.html'}")


def report_many(places: Sequence[str], output: Path) -> None:
    """Print what differs between runs, then the methods of all of them, and write their page."""
    from preflab.eval.comparison.across import side_by_side
    from preflab.eval.pipeline.finished import names_of, read_run
    from preflab.eval.report import write_report
    from preflab.eval.report.table import differing_table
    from preflab.versions import provenance

    runs = [read_run(place, name) for place, name in zip(places, names_of(places), strict=True)]
    comparison, across = side_by_side([run.side for run in runs], provenance())
    missing = [f"{run.side.name}: {note}" for run in runs for note in run.notes]
    across = across._replace(notes=[*across.notes, *missing])
    page = console(None if sys.stdout.isatty() else WIDTH)
    for table in across.tables:
        if table.rows:
            page.print(differing_table(across.names, table))
    for note in across.notes:
        page.print(one_line(note))
    print_findings(comparison)
    samples = {f"{run.side.name}/{name}": seeds for run in runs for name, seeds in run.side.samples.items()}
    write_report(comparison, samples, output, across)
    say(f"report at {output / 'report.html'}")


if __name__ == "__main__":
    run_recipe(main)
