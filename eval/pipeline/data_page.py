"""What `preflab data check` prints: its report as text, everything of the data made harmless."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from preflab.data.lengths import QUANTILES
from preflab.errors.terminal import one_line, printable, shortened
from preflab.eval.pipeline.checking import DataReport, File, Text

LONGEST = 1200
"""Characters of a text that are shown."""


def page(report: DataReport) -> str:
    """Return the report as text."""
    parts = [
        *(_file(file) for file in report.files),
        _listed("A run says of it:", report.said),
        _lengths(report),
        _splits(report),
        _listed("Worth a look:", (_doubt(doubt.message, doubt.rows) for doubt in report.doubts)),
        *(_example(number, texts) for number, texts in enumerate(report.examples, 1)),
        f"A run would not begin: {one_line(report.refused)}" if report.refused else "",
    ]
    return "\n\n".join(filter(None, parts))


def _file(file: File) -> str:
    layouts = " and ".join(
        f"{name} ({count:,})" if len(file.layouts) > 1 else name for name, count in file.layouts.items()
    )
    share = f", the largest of {file.largest_group:,} rows" if file.largest_group > 1 else ""
    lines = [
        f"{one_line(file.name)}: {file.read:,} rows read, {file.usable:,} usable",
        f"  layout: {layouts}; columns {', '.join(map(one_line, file.columns))}",
        f"  {file.prompts:,} different prompts in {file.groups:,} groups that no split parts{share}",
        *([f"  ties: {file.ties:,} rows of which some responses are as good as each other"] if file.ties else []),
        *(f"  dropped: {count:,}, {reason}" for reason, count in file.dropped.items()),
        *(f"  shortened: {count:,} {how}" for how, count in file.cut.items()),
    ]
    return "\n".join(lines)


def _listed(title: str, lines: Iterable[str]) -> str:
    found = [f"- {one_line(line)}" for line in lines]
    return "\n".join([title, *found]) if found else ""


def _doubt(message: str, rows: Sequence[int]) -> str:
    return f"{message} (such as row{'s' * (len(rows) > 1)} {', '.join(map(str, rows))})" if rows else message


def _lengths(report: DataReport) -> str:
    if not report.lengths:
        return ""
    unit = "characters (tokens with --model)" if report.model is None else f"tokens of {one_line(report.model)}"
    limited = report.model is not None
    head = ["", *QUANTILES, *(["limit", "over it"] if limited else [])]
    rows = [
        [
            found.of,
            *(f"{value:,}" for value in found.quantiles.values()),
            *([f"{found.limit:,}", f"{found.over:,} of {found.count:,}"] if limited else []),
        ]
        for found in report.lengths
    ]
    lines = [f"Lengths in {unit}:", *_table([head, *rows])]
    if report.bias is not None:
        bias, side = report.bias, "longer" if report.bias.difference >= 0 else "shorter"
        lines.append(
            f"  chosen is {abs(bias.difference):,.1f} {side} on average; of unequal pairs it is the longer one in "
            f"{bias.longer_chosen:.1%}"
        )
    return "\n".join(lines)


def _splits(report: DataReport) -> str:
    rows = [["", "rows", "prompts", "groups"]]
    rows += [[one.name, f"{one.rows:,}", f"{one.prompts:,}", f"{one.groups:,}"] for one in report.splits]
    lines = ["Splits:", *_table(rows)]
    if report.leaked:
        lines.append(f"  {report.leaked:,} held-out rows are left out: their prompt is learnt from")
    return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for first, *others in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([f"  {first:{widths[0]}}", *cells])


def _example(number: int, texts: Sequence[Text]) -> str:
    lines = [
        f"Row {number} of those used"
        + ("" if texts[0].tokens is None else ", as the model reads it (⟦ ⟧: special tokens)")
    ]
    for text in texts:
        scored = "" if text.of == "prompt" else ", scored"
        size = f" ({text.tokens:,} tokens{scored})" if text.tokens is not None else ""
        lines.append(f"  {text.of}{size}:")
        lines += (f"    │{line}" for line in printable(shortened(text.text, LONGEST)).split("\n"))
    return "\n".join(lines)
