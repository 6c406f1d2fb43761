"""What a comparison has found, told once to the trackers that followed its training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preflab.disk.files import read_object, write_json
from preflab.disk.stages import content_hash
from preflab.errors import UserError, crash
from preflab.eval.pipeline.results import Result
from preflab.eval.pipeline.session import Session
from preflab.tracking.runs import asked, group_of, report
from preflab.tracking.trackers import Outcome, Run

if TYPE_CHECKING:
    from preflab.eval.records.comparison import Comparison

TOLD = "tracked.json"
COLUMNS = ("method", "figure", "mean", "low", "high", "values")
UNUSUAL = re.compile(r"[^\w\-. /]")
"""What not every tracker takes in a name."""


def report_result(session: Session, result: Result, methods: Sequence[str], page: Path | None = None) -> None:
    """Log the final figures, the table and the report as a run of the comparison's group, where trackers are asked for.

    The same result is told to each tracker once, however often the command is run again.

    Args:
        session: whose run it is.
        result: what was found.
        methods: those compared, whose ``report_to`` counts beside the session's ``track``.
        page: the report; None where none was written.
    """
    names = asked(session.run.track, *(session.method(name).train.report_to for name in methods))
    if not names:
        return
    folder, outcome = Path(session.run.output), outcome_of(result.comparison, page)
    group, key = group_of(folder, session.world, session.lora), content_hash([outcome.rows, outcome.text])
    told = _told(folder / TOLD)
    new = [name for name in names if told.get(name) != key]
    called, tags = f"{folder.resolve().name}-result", ("result", folder.resolve().name)
    took = report(new, Run(called, group, tags, crash.struck(session.as_dict()), folder), outcome)
    write_json(folder / TOLD, {**told, **dict.fromkeys(took, key)})


def outcome_of(comparison: Comparison, page: Path | None = None) -> Outcome:
    """Return what trackers take of a comparison."""
    from preflab.eval.report.table import markdown_table

    found = [
        (name, key, figure)
        for name, method in comparison.methods.items()
        for key, figure in method.figures.items()
        if figure is not None
    ]
    figures = {UNUSUAL.sub("_", f"{name}/{key}"): figure.mean for name, key, figure in found}
    rows = [[name, key, figure.mean, figure.low, figure.high, figure.n] for name, key, figure in found]
    said = [comparison.headline, *comparison.verdict]
    return Outcome(figures, COLUMNS, rows, "\n\n".join([*said, markdown_table(comparison)]), page)


def _told(path: Path) -> dict[str, object]:
    try:
        return read_object(path) if path.is_file() else {}
    except UserError:  # whatever it says, telling again does no harm
        return {}
