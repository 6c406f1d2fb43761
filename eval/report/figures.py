"""The report's plots, drawn by Matplotlib once for the page and once, with a legend, for files."""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.eval.report.style import LIGHT, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SETTINGS = {
    "font.size": 10,
    "text.parse_math": False,  # a name may hold dollar signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.6,
    "text.color": LIGHT["ink"],
    "axes.linewidth": 0.7,
    "xtick.color": LIGHT["muted"],
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "ytick.color": LIGHT["muted"],
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "svg.hashsalt": "preflab",  # the same figure is the same file
}
WIDE, PANEL = (7.2, 4.4), (4.2, 2.8)  # inches; text of 10 points is then about 13 pixels on the page
LONGEST_NAME = 40


class Plot(NamedTuple):
    """One plot.

    Attributes:
        name: of its files and of its place on the page; letters, digits and dashes.
        title: what is plotted, in a few words.
        caption: how to read it.
        size: width and height in inches.
        methods: those drawn, for the legend.
        draw: draws on axes.
        data: what is drawn, number by number, a row each, all with the same columns.
        main: whether it is written to files too, and stands open on the page; others are folded away there.
    """

    name: str
    title: str
    caption: str
    size: tuple[float, float]
    methods: Sequence[str]
    draw: Callable[[Axes], None]
    data: Sequence[Mapping[str, Any]]
    main: bool = True


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a heading: numbers to six digits, what is not known empty, no text that is a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(rows[0] if rows else ())
    writer.writerows([_field(value) for value in row.values()] for row in rows)
    return buffer.getvalue()


def _field(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    # A spreadsheet runs what begins like a formula, and names are anybody's.
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def page_svg(plot: Plot) -> str:
    """Return the plot as SVG with text as text, without a legend."""
    return str(_saved(plot, {}, "svg", {"svg.fonttype": "none"}).decode("utf-8"))


def file_bytes(plot: Plot, styles: Mapping[str, Style], kind: str) -> bytes:
    """Return the plot with a legend, as ``svg`` (text as outlines) or ``png``."""
    return _saved(plot, styles, kind, {"svg.fonttype": "path"})


def _saved(plot: Plot, styles: Mapping[str, Style], kind: str, extra: Mapping[str, Any]) -> bytes:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**SETTINGS, **extra}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name may be in any script
        figure = Figure(figsize=plot.size, layout="constrained")
        plot.draw(figure.add_subplot())
        if styles:
            _legend(figure, plot, styles)
        buffer = io.BytesIO()
        inked = {"facecolor": "none"} if kind == "svg" else {"facecolor": "white", "dpi": 200}
        figure.savefig(buffer, format=kind, metadata=_undated(kind), **inked)  # type: ignore[arg-type]
    return buffer.getvalue()


def _undated(kind: str) -> dict[str, Any]:
    """Return metadata that keep the file the same from day to day."""
    return {"Date": None} if kind == "svg" else {"Software": None}


def _legend(figure: Figure, plot: Plot, styles: Mapping[str, Style]) -> None:
    from matplotlib.lines import Line2D

    drawn = [name for name in plot.methods if name in styles]
    handles = [
        Line2D([], [], color=styles[n].colour, marker=styles[n].marker, linestyle=styles[n].dashes) for n in drawn
    ]
    # A space in front: Matplotlib leaves out labels that begin with an underscore.
    labels = [" " + (name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…") for name in drawn]
    if drawn:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(drawn), 4))
