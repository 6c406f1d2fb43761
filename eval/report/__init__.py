"""The report: ``report.html`` (one file, opens offline), figures as SVG and PNG, tables for papers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preflab.eval.comparison.across import Across
    from preflab.eval.records.comparison import Comparison

__all__ = ["write_report"]


def write_report(
    comparison: Comparison, samples: Mapping[str, Any], folder: Path, across: Across | None = None
) -> list[Path]:
    """Write the report of a comparison; each file is there whole or not at all.

    Args:
        comparison: as `eval.records.comparison.read_comparison` reads it. Sections whose data are absent are left out.
        samples: ``{method: {training seed: rows of samples.jsonl}}``; may be empty.
        folder: made if it does not exist.
        across: what differs between runs, where the methods are those of several.

    Returns:
        The files written, the page first.

    Raises:
        UserError: if the folder cannot be written.
    """
    from preflab.disk.files import write_bytes
    from preflab.errors import UserError
    from preflab.eval.report.drawings import plots
    from preflab.eval.report.figures import csv_text, file_bytes
    from preflab.eval.report.page import render
    from preflab.eval.report.style import method_styles
    from preflab.eval.report.table import latex_table, markdown_table
    from preflab.eval.report.text import clean

    shown = clean(comparison)
    drawn, styles = plots(shown), method_styles(shown)
    files = {
        "report.html": render(shown, samples, drawn, across).encode(),
        "table.md": markdown_table(comparison).encode("utf-8", "replace"),
        "table.tex": latex_table(comparison).encode("utf-8", "replace"),
    }
    for plot in drawn:
        files[f"figures/{plot.name}.csv"] = csv_text(plot.data).encode("utf-8", "replace")
        for kind in ("svg", "png") if plot.main else ():
            files[f"figures/{plot.name}.{kind}"] = file_bytes(plot, styles, kind)
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_bytes(folder / name, content)
    except OSError as error:
        raise UserError(f"the report cannot be written to {folder}: {error}; choose another folder") from None
    return [folder / name for name in files]
