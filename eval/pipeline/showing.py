"""What a recipe ends with: the result's file, the table and the sentences under it, the report."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflab.errors import UserError, speaking
from preflab.errors.terminal import console, one_line, say
from preflab.eval.pipeline.results import Result

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from preflab.eval.records.comparison import Comparison, Judge
    from preflab.eval.records.figures import Figure, Method


WIDTH = 104  # of the table where there is no terminal to fit it to


def check_report(wanted: bool) -> None:
    """Refuse a report that could not be drawn.

    Raises:
        UserError: if matplotlib is not installed.
    """
    if wanted and find_spec("matplotlib") is None:
        raise UserError("the report needs matplotlib; pip install matplotlib, or add --report false")


def show(comparison: Comparison, path: Path) -> Any:
    """Write comparison.json, print the table and what it says, or, after ``--json``, give the file's content.

    Returns:
        What the file holds.
    """
    from preflab.disk.files import write_result
    from preflab.eval.records.typed import to_json

    content = write_result(path, to_json(comparison))
    speaking.result(content)
    if not speaking.answers_in_json():
        print_findings(comparison)
        say(f"written to {path}")
    return content


def print_findings(comparison: Comparison) -> None:
    """Print the table and what it says."""
    from preflab.eval.report.table import comparison_table

    page = console(None if sys.stdout.isatty() else WIDTH)
    page.print(comparison_table(comparison))
    for sentence in (comparison.headline, *comparison.verdict, *judge_lines(comparison.judge)):
        page.print(one_line(sentence))


def judge_lines(judge: Judge | None) -> list[str]:
    """Return what is to be known of the judge: why not to trust it, and what one that compares says of itself."""
    from preflab.eval.judges import judge_sentences

    if judge is None:
        return []
    facts = judge_sentences(judge)
    lines = [f"Warning, judge: {judge.warning}"] if judge.warning else []
    return [*lines, f"Judge: {judge.name}. {' '.join(facts)}"] if facts else lines


def write_pages(result: Result, folder: Path) -> None:
    """Write the page, its figures and tables."""
    from preflab.eval.report import write_report

    write_report(result.comparison, result.samples, folder)
    say(f"report at {folder / 'report.html'}")


def show_preferences(evaluation: Comparison) -> None:
    """Print the tables of held-out accuracy, unless JSON has it all."""
    if speaking.answers_in_json():
        return
    page = console(None if sys.stdout.isatty() else WIDTH)
    for table in preference_tables(evaluation.methods):
        page.print(table)


SCORES = ("score", "likelihood", "likelihood a token")


def preference_tables(methods: Mapping[str, Method]) -> list[RichTable]:
    """Return held-out accuracy by what ranks the responses, and per subset where the data have any."""
    from preflab.eval.metrics.preference_accuracy import ACCURACY

    rows = {name: row.preferences for name, row in methods.items() if row.preferences}
    kinds = {
        name: [
            found.figures.get(ACCURACY.key),
            *(None if by is None else by.accuracy for by in (found.likelihood, found.normalised_likelihood)),
        ]
        for name, found in rows.items()
    }
    tables = [_table("held-out accuracy", "method", SCORES, kinds)] if rows else []
    subsets = {name: found.subsets for name, found in rows.items() if found.subsets}
    if subsets:
        of_subset = {
            part: [found[part].accuracy for found in subsets.values()] for part in next(iter(subsets.values()))
        }
        tables.append(_table("held-out accuracy by subset", "subset", list(subsets), of_subset))
    return tables


def _table(title: str, first: str, columns: Sequence[str], rows: Mapping[str, Sequence[Figure | None]]) -> RichTable:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(first, title=title, box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(Text(one_line(column)), justify="right")
    for name, estimates in rows.items():
        texts = ("–" if e is None else f"{e.mean:.1%} [{e.low:.1%}, {e.high:.1%}]" for e in estimates)
        table.add_row(Text(one_line(name)), *(Text(text.replace("%", " %")) for text in texts))
    return table
