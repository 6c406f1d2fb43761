"""What the report draws."""

from __future__ import annotations

import re
from typing import Any

from hostile import HOSTILE
from report_fixture import bare, comparison, typed
from report_page import Page

from preflab.eval.report.drawings import plots
from preflab.eval.report.figures import page_svg
from preflab.eval.report.inline import inline_svg
from preflab.eval.report.labels import Label, place
from preflab.eval.report.page import render
from preflab.eval.report.style import COLOURS, MARKS, method_styles
from preflab.eval.report.text import clean


def test_every_method_has_one_colour_and_the_baseline_is_grey() -> None:
    names = [f"m{i}" for i in range(20)]
    styles = method_styles(
        typed({**bare(), "methods": dict.fromkeys(names, bare()["methods"]["dpo"]), "baseline": "m0"})
    )
    assert styles["m0"].css == "base"
    looks = [(style.css, style.marker, style.dashes) for style in styles.values()]
    assert len(set(looks)) == 20
    assert len({light for _, light, _ in COLOURS}) == len(COLOURS)  # colours are found again in the drawing


def test_inline_figures_hold_nothing_that_runs_or_loads() -> None:
    source = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9" '
        'onload="x()">'
        "<style>*{}</style><script>x()</script><foreignObject/><image xlink:href='http://e/'/><!-- c -->"
        '<g id="a" style="fill: #0072B2; stroke: url(http://e/); behavior: x; font: 10px serif"><animate/>'
        '<use xlink:href="#m" clip-path="url(#c)"/><use xlink:href="http://e/#m"/>'
        '<text x="1">&lt;b&gt;</text></g></svg>'
    )
    assert inline_svg(source, "f", 'a "label"') == (
        '<svg viewBox="0 0 9 9" role="img" aria-label="a &quot;label&quot;" stroke-linejoin="round">'
        '<g id="f-a" fill="var(--m0)" font-size="10"><use href="#f-m" clip-path="url(#f-c)" /><use />'
        '<text x="1">&lt;b&gt;</text></g></svg>'
    )


def test_figures_on_the_page_follow_its_colours() -> None:
    shown = clean(typed(comparison()))
    for plot in plots(shown):
        svg = str(inline_svg(page_svg(plot), plot.name, "label"))
        colours = set(re.findall(r'(?:fill|stroke)="([^"]*)"', svg))
        assert all(colour == "none" or colour.startswith("var(--") for colour in colours), (plot.name, colours)


def test_a_legend_names_what_is_drawn() -> None:
    shown = clean(typed({**comparison(), "training": {"ppo": comparison()["training"]["ppo"]}}))
    html = render(shown, {}, [plot for plot in plots(shown) if plot.name == "training-loss"])
    training = html.split('id="training"')[1].split("</ul>")[0]
    assert "ppo" in training
    assert "sft" not in training


def lines_of(name: str, compared: dict[str, Any]) -> tuple[list[Any], Any]:
    from matplotlib.figure import Figure

    [plot] = [plot for plot in plots(clean(typed(compared))) if plot.name == name]
    axes = Figure().add_subplot()
    plot.draw(axes)
    return [s.tolist() for c in axes.collections if hasattr(c, "get_segments") for s in c.get_segments()], axes


def test_a_point_of_the_frontier_has_intervals_both_ways() -> None:
    compared = comparison()
    point = {**compared["frontier"]["points"][0], "kl": {"mean": 2.0, "low": 1.0, "high": 3.0, "n": 9}}
    point["gold_reward"] = {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 9}
    compared["frontier"] |= {"points": [point], "oracle": None, "best_of_n": []}
    segments, _ = lines_of("frontier", compared)
    assert [[1.0, 0.5], [3.0, 0.5]] in segments
    assert [[2.0, 0.25], [2.0, 0.75]] in segments


def test_the_start_is_drawn_where_it_stands_and_every_method_is_named() -> None:
    _, axes = lines_of("frontier", comparison())
    drawn = [(line.get_marker(), *line.get_xydata()[0].tolist()) for line in axes.lines if line.get_marker() == "h"]
    assert drawn == [("h", 0.02, 0.31)]
    texts = [text.get_text() for text in axes.texts]
    assert {"sft", "dpo", "ipo", "ppo", "best attainable", "best of 64"} <= set(texts)
    assert texts.count("0.05") == 3  # at the end of every method's line, where there is room
    unknown = comparison()
    unknown["methods"]["sft"]["gold_reward"] = None
    assert "sft" not in [text.get_text() for text in lines_of("frontier", unknown)[1].texts]


def test_labels_lie_on_no_point_no_line_and_not_on_each_other() -> None:
    from matplotlib.figure import Figure

    axes = Figure(figsize=(7.2, 4.4)).add_subplot()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    crowd = [Label(5 + 0.01 * i, 5, f"setting {i}") for i in range(30)]
    place(axes, [Label(5, 5, "name", strong=True), Label(2, 2, "alone"), *crowd], (7.2, 4.4), [[(0, 2), (10, 2)]])
    written = {text.get_text(): text.xyann for text in axes.texts}
    assert "name" in written
    assert abs(written["alone"][1]) > 4  # beside the point it would lie on the line
    assert len(written) < 12  # for the others there is no room
    assert written["name"] != written["alone"]


def test_curves_are_told_apart_without_colour() -> None:
    _, axes = lines_of("training-accuracy", comparison())
    marks = [(line.get_marker(), tuple(line.get_markevery())) for line in axes.lines]
    assert [mark for mark, _ in marks] == ["o", "s"]
    assert not set(marks[0][1]) & set(marks[1][1])  # where lines coincide, marks do not


def test_every_marker_has_a_mark_of_its_own_on_the_page() -> None:
    styles = method_styles(
        typed({**bare(), "methods": {f"m{i}": bare()["methods"]["dpo"] for i in range(9)}, "baseline": "m0"})
    )
    assert {style.marker for style in styles.values()} == set(MARKS)
    assert len({style.mark for style in styles.values()}) == len({outline for _, outline in MARKS.values()}) == 9


def test_every_metric_that_was_logged_is_drawn_whatever_its_name() -> None:
    names = ("clip_fraction", "tokens/s", "../x", HOSTILE["end"])
    rows = [{"step": step, "loss": 1.0 / step, **dict.fromkeys(names, float(step)), "note": "no number"}
            for step in (1, 2, 3)]  # fmt: skip
    shown = clean(typed({**comparison(), "training": {"dpo": {"0": rows}}}))
    curves = [plot for plot in plots(shown) if plot.name.startswith("training-")]
    assert [plot.title for plot in curves] == ["loss", "clip fraction", "tokens/s", "../x", HOSTILE["end"]]
    assert [plot.main for plot in curves] == [True, False, False, False, False]
    assert len({plot.name for plot in curves}) == len(curves)
    assert all(re.fullmatch("[a-z0-9-]+", plot.name) for plot in curves)
    html = render(shown, {}, curves)
    assert len(Page(html).inside["script"]) == 1
    folded = html.split("Everything else that was logged")[1].split("</details>")[0]
    assert folded.count("<figure") == 4


def test_length_buckets_are_drawn_with_their_intervals() -> None:
    compared = comparison()
    bucket = {"low": -9, "high": -1, "accuracy": {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 9}, "n": 9}
    equal = {"low": 0, "high": 0, "accuracy": {"mean": 0.625, "low": None, "high": None, "n": 9}, "n": 9}
    none = {"low": 1, "high": 2, "accuracy": {"mean": None, "low": None, "high": None, "n": 0}, "n": 0}
    compared["methods"]["ppo"]["preferences"]["length_buckets"] = [equal, bucket, none]
    for name in set(compared["methods"]) - {"ppo"}:
        compared["methods"][name]["preferences"] = None
    segments, axes = lines_of("length-bias", compared)
    assert segments == [[[0, 0.25], [0, 0.75]], [[1, 0.625], [1, 0.625]]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["−9 to −1", "0"]
