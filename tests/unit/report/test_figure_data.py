"""Every figure's numbers as CSV: beside its files and in the page, the same, and no formula for a spreadsheet."""

from __future__ import annotations

import csv
import io
import math
from typing import Any
from urllib.parse import unquote

import pytest
from report_fixture import comparison, typed
from report_page import Page

from preflab.eval.report.drawings import plots
from preflab.eval.report.figures import csv_text
from preflab.eval.report.text import clean


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def of(name: str) -> list[dict[str, str]]:
    [plot] = [plot for plot in plots(clean(typed(comparison()))) if plot.name == name]
    return read(csv_text(plot.data))


def test_every_figure_has_its_data_on_the_page_and_beside_it(report: Any) -> None:
    folder, files = report
    html = Page((folder / "report.html").read_text())
    links = {a["download"]: a["href"] or "" for tag, a in html.elements if tag == "a" and "download" in a}
    written = {path.name: path.read_text() for path in files if path.suffix == ".csv"}
    assert links.keys() == written.keys()
    assert {path.stem for path in files if path.suffix == ".svg"} <= {name.removesuffix(".csv") for name in written}
    for name, address in links.items():
        kind, _, content = address.partition(",")
        assert kind == "data:text/csv;charset=utf-8"
        assert unquote(content) == written[name], name
        assert len(read(written[name])) > 0, name


def test_the_frontiers_data_are_its_points_the_start_and_the_lines() -> None:
    rows = of("frontier")
    assert [row["method"] for row in rows if row["what"] == "start"] == ["sft"]
    configured = [row for row in rows if row["method"] == "dpo" and not row["setting"]]
    assert [(row["kl"], row["gold_reward"], row["gold_reward_low"]) for row in configured] == [("6.8", "1.24", "1.16")]
    assert sum(row["what"] == "best attainable" for row in rows) == 61
    assert {row["setting"] for row in rows if row["what"] == "setting"} == {"", "beta = 1", "beta = 0.5", "beta = 0.05"}


def test_a_curves_data_are_what_is_drawn() -> None:
    rows = [row for row in of("training-reward") if row["method"] == "ppo"]
    logged = [[row["reward"] for row in seed] for seed in comparison()["training"]["ppo"].values()]
    at = [row["step"] for row in comparison()["training"]["ppo"]["0"]].index(int(float(rows[3]["step"])))
    values = [seed[at] for seed in logged]
    assert float(rows[3]["mean"]) == pytest.approx(sum(values) / len(values), rel=1e-5)
    assert float(rows[3]["lowest"]) == pytest.approx(min(values), rel=1e-5)
    assert float(rows[3]["highest"]) == pytest.approx(max(values), rel=1e-5)


def test_the_proxy_is_counted_from_where_gold_reward_begins() -> None:
    rows = [row for row in of("overoptimisation") if row["method"] == "dpo"]
    assert rows[0]["sqrt_kl"] == "0"
    assert float(rows[0]["proxy_reward_from_the_start"]) == 0.31
    assert abs(float(rows[10]["proxy_reward_from_the_start"]) - (0.31 + 0.6 * 1.5)) < 1e-9


def test_names_are_no_formulas_and_what_is_no_number_is_empty() -> None:
    names = ["=1+1", "+x", "-x", "@x", "\tx", "a,b", 'a"b', "a\nb", "plain"]
    rows = read(csv_text([{"name": name, "value": value} for name, value in zip(names, [-1.5] * 9, strict=True)]))
    assert [row["name"] for row in rows] == ["'=1+1", "'+x", "'-x", "'@x", "'\tx", *names[5:]]
    assert {row["value"] for row in rows} == {"-1.5"}
    [row] = read(csv_text([{"a": math.nan, "b": None, "c": math.inf, "d": 0}]))
    assert row == {"a": "", "b": "", "c": "", "d": "0"}
    assert csv_text([]) == "\n"
