"""The page: one file that needs nothing else, runs nothing but its own script, and shows untrusted text as text."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from jinja2 import ChainableUndefined, Environment
from markupsafe import Markup

from preflab.eval.comparison.finding import Heading, heading
from preflab.eval.metrics import columns_of
from preflab.eval.metrics.kl_to_reference import KL
from preflab.eval.records.comparison import Comparison
from preflab.eval.report import checks, sections, spending, terms
from preflab.eval.report.differences import first_figure
from preflab.eval.report.figures import Plot, csv_text, page_svg
from preflab.eval.report.inline import inline_svg
from preflab.eval.report.measures import measure_table
from preflab.eval.report.samples import sample_data
from preflab.eval.report.style import MARKS, css_colours, method_styles
from preflab.eval.report.text import embedded, visible

if TYPE_CHECKING:
    from preflab.eval.comparison.across import Across


class Drawn(NamedTuple):
    """A plot as the page has it: what it is, its SVG, and the address that holds its data."""

    plot: Plot
    svg: Markup
    data: Markup


def render(
    comparison: Comparison, samples: Mapping[str, Any], plots: Sequence[Plot], across: Across | None = None
) -> str:
    """Return the page's HTML.

    Args:
        comparison: cleaned by `eval.report.text.clean`.
        samples: rows of samples by method and training seed.
        plots: of `eval.report.drawings`.
        across: where the methods are of several runs, what differs between these; cleaned too.
    """
    css, script = css_colours() + _file("page.css"), _file("page.js")
    answers = sample_data(samples, list(comparison.methods))
    content = _content(comparison)
    figures = {plot.name: _drawn(plot) for plot in plots}
    styles = method_styles(comparison)
    training = [figure.plot for name, figure in figures.items() if name.startswith("training-")]
    return (
        _environment()
        .from_string(_file("page.html"))
        .render(
            css=Markup(css),
            script=Markup(script),
            policy=_policy(css, script),
            styles=styles,
            figures=figures,
            curves=[plot for plot in training if plot.main],
            more_curves=[plot for plot in training if not plot.main],
            drawn=[name for name in styles if any(name in plot.methods for plot in training)],
            across=across,
            finding=_finding(comparison, across),
            marks=MARKS.values(),
            terms=terms.glossary(comparison),
            abouts=terms.columns(),
            headed=_headings(content),
            answers=answers,
            data=embedded(
                {**answers, "baseline": comparison.baseline, "styles": _looks(comparison)} if answers else None
            ),
            left_out=_left_out(comparison, content, figures, answers),
            **content,
        )
    )


def _drawn(plot: Plot) -> Drawn:
    svg = inline_svg(page_svg(plot), plot.name, _label(plot))
    # Every character that HTML or an address reads is quoted.
    return Drawn(plot, svg, Markup("data:text/csv;charset=utf-8," + quote(csv_text(plot.data), safe=",")))


def _finding(comparison: Comparison, across: Across | None) -> Heading:
    return across.heading if across else heading(comparison, comparison.baseline or "")


def _headings(content: Mapping[str, Any]) -> set[str]:
    """Return the headings of figures that the page's tables have, so that no other is explained."""
    tables = [content["ranking"], content["generations"], content["sampling"], content["preferences"]["table"]]
    return {text for table in tables if table for text in table["headings"]}


def _content(comparison: Comparison) -> dict[str, Any]:
    figures = {name: row.figures for name, row in comparison.methods.items()}
    return {
        "headline": sections.headline(comparison),
        "first": first_figure(comparison),
        "sentences": sections.sentences(comparison),
        "judge": sections.judge(comparison),
        "baseline": comparison.baseline,
        "seeds": comparison.seeds,
        "ranking": sections.ranking(comparison),
        "pairwise": sections.pairwise(comparison),
        "sources": sections.sources(comparison),
        "frontier": sections.frontier(comparison),
        "learning": sections.learning(comparison),
        "tuning": sections.tuning(comparison),
        "laws": sections.overoptimisation(comparison),
        "preferences": sections.preferences(comparison),
        "generations": measure_table(figures, columns_of("generations")),
        "sampling": measure_table(figures, (KL.column, *columns_of("sampling"))),
        "diagnosis": checks.diagnosis(comparison),
        "budgets": spending.budgets(comparison),
        "settings": sections.settings(comparison),
        "provenance": sections.provenance(comparison),
    }


def _left_out(
    comparison: Comparison, content: Mapping[str, Any], figures: Mapping[str, Any], answers: Any
) -> list[tuple[str, str]]:
    """Return each section that the page lacks, and why."""
    reasons = (
        ("Ranking", content["ranking"], "no method was evaluated."),
        ("Pairwise tests", content["pairwise"], "they need a judge and two methods."),
        ("Frontier", "frontier" in figures, "it needs gold rewards and KL of the same answers."),
        (
            "Over-optimisation",
            "overoptimisation" in figures,
            "gold reward was not followed over training; --snapshots 8 does that.",
        ),
        ("Training curves", any(name.startswith("training-") for name in figures), "no metrics were recorded."),
        ("Reliability", "reliability" in figures, "no calibrated preferences were recorded."),
        ("Length bias", "length-bias" in figures, "no preferences by length were recorded."),
        ("Samples", answers, "no responses were recorded."),
        ("Diagnosis", content["diagnosis"], "no run was examined."),
        ("Budgets", content["budgets"], "nothing was trained."),
    )
    return [(name, why) for name, there, why in reasons if not there]


def _looks(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Return the class and the mark of every method, for the script."""
    return {name: (style.css, style.mark) for name, style in method_styles(comparison).items()}


def _label(plot: Plot) -> str:
    return f"{plot.title}: {', '.join(plot.methods)}. {plot.caption}".strip()


def _environment() -> Environment:
    """Return a Jinja environment that escapes everything and prints no control characters."""
    return Environment(
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else visible(value),
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _policy(css: str, script: str) -> str:
    """Return the content security policy: nothing is loaded, and these two texts alone are obeyed."""
    return (
        f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(css)}'; script-src '{_hash(script)}'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _file(name: str) -> str:
    return (resources.files("preflab.eval.report") / name).read_text(encoding="utf-8")
