"""Write docs/metrics.md from what the metrics say of themselves.

python docs/make_metric_page.py                 docs/metrics.md
python docs/make_metric_page.py page.md         another file
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eval.comparison import generations, preferences
from eval.metrics import METRICS, base
from eval.metrics.words import words

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
DIRECTION = {True: "higher is better", False: "lower is better", None: "neither direction is better by itself"}
INTRODUCTION = """<!-- Made by python docs/make_metric_page.py from the code; change that, not this. -->

# Metrics

Every metric is an `evaluate.Metric` that needs no hub: `eval.metrics.load("win_rate")`, or by path
`evaluate.load("eval/metrics/win_rate.py")`. `compute` takes one value per prompt for each input and, as an option,
the `level` of the interval. Beside each class stands `per_prompt`, a pure function on arrays whose values have the
metric as their mean; arranged as training seeds × prompts `[S, N]`, they are what `eval.statistics.interval` takes.
Of a figure that is no mean by nature (an area, a share of distinct types) they are its values to first order, with
the same mean and the same sampling error.

A value that is NaN or missing is refused with the number of its row; no figure is made of the rest.

Metrics of texts count words, not tokens, so that models with different tokenizers compare.
{words}
"""


def page() -> str:
    """Return the page as Markdown."""
    *_, splitting = (inspect.getdoc(words) or "").split("\n\n")
    lines = [INTRODUCTION.format(words=splitting), "| metric | what | direction | version |", "|---|---|---|---|"]
    for name, metric in METRICS.items():
        first = _cell((sys.modules[metric.__module__].__doc__ or "").splitlines()[0])
        lines.append(f"| [`{name}`](#{name}) | {first} | {DIRECTION[metric.higher_is_better]} | {metric.version} |")
    for title, module in (("preferences", preferences), ("generations", generations)):
        lines += ["", f"## The summary of {title}", "", f"`eval.{title}.summarise_{title}` returns them by name."]
        lines += ["", *(inspect.getdoc(module) or "").splitlines(), "", *_table("key", module.KEYS)]
    for name, metric in METRICS.items():
        lines += ["", *_section(name, metric)]
    return "\n".join(lines) + "\n"


def _section(name: str, metric: type[base.PromptMetric]) -> list[str]:
    inputs = {key: f"{text} ({kind})" for key, (kind, text) in metric.inputs.items()}
    return [
        f"## {name}",
        "",
        *(inspect.getdoc(metric) or "").splitlines(),
        "",
        f"Value of a prompt: {_sentence(sys.modules[metric.__module__].per_prompt)}",
        "",
        f"Direction: {DIRECTION[metric.higher_is_better]}. Version {metric.version}.",
        "",
        *_table("input", inputs),
        "",
        *_table("result", metric.outputs),
        "",
        f"Source: {reference(metric.source)}",
    ]


def _table(heading: str, rows: Mapping[str, str]) -> list[str]:
    cells = [f"| {', '.join(f'`{key}`' for key in name.split(', '))} | {_cell(text)} |" for name, text in rows.items()]
    return [f"| {heading} | what |", "|---|---|", *cells]


def _sentence(function: Callable[..., Any]) -> str:
    """Return the first paragraph of a docstring, less the opening that all of them share."""
    first = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
    return re.sub(r"^Return ``\[N\]``:? ?", "", first)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def reference(bibtex: str) -> str:
    """Return a BibTeX entry as one line: authors, title, where, year; arXiv numbers as links."""
    fields = dict(re.findall(r"(\w+)=\{(.*?)\}", " ".join(bibtex.split())))
    where = fields.get("journal") or fields.get("howpublished")
    text = ", ".join(
        filter(None, [fields["author"].replace(" and ", "; "), f"*{fields['title']}*", where, fields["year"]])
    )
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    path.write_text(page(), encoding="utf-8")
    print(f"written to {path}")
