"""Write docs/metrics.md from what the metrics say of themselves.

python docs/make_metric_page.py                 docs/metrics.md
python docs/make_metric_page.py page.md         another file
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from preflab.eval.comparison import preferences
from preflab.eval.metrics import METRICS, base, measures_of
from preflab.eval.metrics.measures import Measure, Of
from preflab.eval.metrics.words import words

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
DIRECTION = {True: "higher is better", False: "lower is better", None: "neither is better by itself"}
PLACES = {
    "table": "the table of terminal and papers",
    "ranking": "the page's ranking",
    "generations": "the page's table of answers",
    "preferences": "the page's table of preferences",
    "sampling": "the page's check of the sampling",
}
ROWS: dict[Of, str] = {
    "games": "Of a method's answers against the baseline's, among a method's own figures (`methods.<name>`)",
    "samples": "Of a policy's answers, among a method's own figures",
    "heldout": "Of held-out pairs, among a method's own figures",
}
INTRODUCTION = """<!-- Made by python docs/make_metric_page.py from the code; change that, not this. -->

# Metrics

A metric is one file in `eval/metrics/`: a pure function, and a class that says everything of it. The pipeline that
writes `comparison.json`, the tables for terminal, papers and page, and this page are made from what these classes say.

Each is an `evaluate.Metric` too, and needs no hub: `preflab.eval.metrics.load("win_rate")`, or by path
`evaluate.load("eval/metrics/win_rate.py")`. `compute` takes one value per prompt for each input and, as an option,
the `level` of the interval. Beside each class stands `per_prompt`, a pure function on arrays whose values have the
metric as their mean; arranged as training seeds × prompts `[S, N]`, they are what
`preflab.eval.statistics.interval` takes.
Of a figure that is no mean by nature (an area, a share of distinct types) they are its values to first order, with
the same mean and the same sampling error.

A value that is NaN or missing is refused with the number of its row; no figure is made of the rest.

Metrics of texts count words, not tokens, so that models with different tokenizers compare.
{words}
"""
NEW = """
## A new metric

It is one file, and nothing else is edited. This one counts answers that ask something back:

<!-- file: eval/metrics/questions.py -->
```python
\"\"\"How often a response asks something.\"\"\"

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from preflab.eval.metrics import base
from preflab.eval.metrics.measures import PERCENT, Measure


def per_prompt(response: Sequence[str]) -> NDArray[np.float64]:
    \"\"\"Return ``[N]``: 1 where a response has a question mark, else 0.\"\"\"
    return np.array([float("?" in text) for text in base.texts(response=response)])


class Questions(base.PromptMetric):
    \"\"\"Share of responses that ask something; a model that asks back need not be the worse one.\"\"\"

    of = "samples"
    version = "1.0.0"
    inputs = base.RESPONSES
    measures: ClassVar = (
        Measure(
            "questions",
            "share of responses with a question mark",
            per_prompt,
            ("response",),
            PERCENT,
            higher_is_better=None,
            heading="ask",
            shown=("table", "generations"),
            rate=True,
        ),
    )
    source = "@misc{mine, title={Questions}, author={Me}, year={2026}}"
```

From then on every comparison has `questions` among a policy's figures, with its 95 % interval over prompts and seeds;
the terminal's table, `table.md`, `table.tex` and the page's table of answers have the column "ask", last since the
file names no `order`; `preflab.eval.metrics.load("questions")` computes it alone; and
`python docs/make_metric_page.py` gives it a section on this page.
`preflab.eval.metrics.measures` explains each field. With three answers "Why?", "No." and
"Who, me?" of one seed the figure is 2/3.
"""


def page() -> str:
    """Return the page as Markdown."""
    *_, splitting = (inspect.getdoc(words) or "").split("\n\n")
    lines = [INTRODUCTION.format(words=splitting), "| metric | what | direction | version |", "|---|---|---|---|"]
    for name, metric in METRICS.items():
        first = _cell((sys.modules[metric.__module__].__doc__ or "").splitlines()[0])
        lines.append(f"| [`{name}`](#{name}) | {first} | {DIRECTION[metric.higher_is_better]} | {metric.version} |")
    lines += [NEW, "## The figures of a method", ""]
    lines += ["`preflab.eval.comparison.record.summarise` returns them by name; each is an estimate, or null."]
    for of, what in ROWS.items():
        lines += ["", f"{what}:", "", *_measures(measures_of(of))]
    lines += ["", "## The summary of preferences", ""]
    lines += ["`preflab.eval.comparison.preferences.summarise_preferences` returns it by name."]
    lines += ["", *(inspect.getdoc(preferences) or "").splitlines(), "", *_table("key", preferences.KEYS)]
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
        f"Value of a prompt: {_sentence(metric.measures[metric.main].values)}",
        "",
        f"Version {metric.version}. In `comparison.json`:",
        "",
        *_measures((*metric.measures, *metric.details)),
        "",
        "Of `compute`:",
        "",
        *_table("input", inputs),
        "",
        *_table("result", metric.outputs),
        "",
        f"Source: {reference(metric.source)}",
    ]


def _measures(measures: Iterable[Measure]) -> list[str]:
    rows = [
        f"| `{measure.key}` | {_cell(measure.what)} | {measure.unit.name} | {DIRECTION[measure.higher_is_better]} | "
        f"{', '.join(f'`{name}`' for name in measure.reads)} | {', '.join(PLACES[place] for place in measure.shown)} |"
        for measure in measures
    ]
    return ["| figure | what | unit | direction | reads | has a column in |", "|---|---|---|---|---|---|", *rows]


def _table(heading: str, rows: Mapping[str, str]) -> list[str]:
    cells = [f"| {', '.join(f'`{key}`' for key in name.split(', '))} | {_cell(text)} |" for name, text in rows.items()]
    return [f"| {heading} | what |", "|---|---|", *cells]


def _sentence(function: Callable[..., Any]) -> str:
    """Return the first paragraph of a docstring, less the opening that all of them share."""
    plain = function.func if isinstance(function, partial) else function
    first = " ".join((inspect.getdoc(plain) or "").split("\n\n")[0].split())
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
