"""Results with figures that are no numbers: written, named, shown."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hostile import poisoned
from report_fixture import comparison, typed

from preflab.disk.files import write_result
from preflab.errors import UserError
from preflab.errors.terminal import console
from preflab.eval.pipeline.showing import preference_tables, show
from preflab.eval.report import write_report


def strict(path):
    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_what_json_cannot_hold_is_null_and_named_once(tmp_path, caplog):
    given = {
        "a": {"mean": math.nan, "n": np.int64(3), "std": np.float32(0.5), "high": np.float64("inf")},
        "b": [1, -math.inf, {"c": True}],
        "d": {1: Path("x"), "e": (1, 2)},
    }
    expected = {
        "a": {"mean": None, "n": 3, "std": 0.5, "high": None},
        "b": [1, None, {"c": True}],
        "d": {"1": "x", "e": [1, 2]},
    }
    assert write_result(tmp_path / "r.json", given) == expected
    assert strict(tmp_path / "r.json") == expected
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "JSON cannot hold all of it: a.mean is nan; a.high is inf; b.1 is -inf; written as null or text"
    ]
    caplog.clear()
    write_result(tmp_path / "r.json", [math.nan] * 9)
    assert "4 is nan and 4 more" in caplog.text


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "r.json").mkdir()
    with pytest.raises(UserError, match=r"r.json cannot be written: Is a directory"):
        write_result(tmp_path / "r.json", {})


def spoilt(value, draw, share):
    """Return `value` with some of its numbers replaced by NaN and infinities."""
    if isinstance(value, dict):
        return {key: spoilt(part, draw, share) for key, part in value.items()}
    if isinstance(value, list):
        return [spoilt(part, draw, share) for part in value]
    if isinstance(value, float) and draw.random() < share:
        return draw.choice([math.nan, math.inf, -math.inf])
    return value


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_a_comparison_of_figures_that_are_none_is_shown_and_reported(share, tmp_path, capsys):
    figures = typed(spoilt(comparison(), random.Random(3), share))
    show(figures, tmp_path / "comparison.json")
    assert strict(tmp_path / "comparison.json")["methods"]
    assert "written to" in capsys.readouterr().out
    assert write_report(figures, {}, tmp_path / "report")[0].stat().st_size > 1000


def test_names_steer_no_terminal_and_are_no_markup(tmp_path, capsys):
    hostile = "\x1b]0;t\x07[bold red]:smile:[/]\u202e"
    figures = poisoned(comparison(), hostile)
    figures["headline"], figures["verdict"] = hostile, [hostile]
    show(typed(figures), tmp_path / "comparison.json")
    out = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert "\\x1b]0;t\\x07[bold red]:smile:[/]\\u202e" in out
    for table in preference_tables({hostile: typed(comparison()).methods["dpo"]}):
        console(200).print(table)
    assert "[bold red]:smile:[/]" in (out := capsys.readouterr().out)
    assert all(c.isprintable() or c == "\n" for c in out)
