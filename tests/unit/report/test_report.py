"""The report's files: what they say, what they leave out, and that no text in them is obeyed."""

from __future__ import annotations

import base64
import copy
import hashlib
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from report_fixture import METHODS, bare, comparison, typed
from report_page import Page, page

from preflab.errors import UserError
from preflab.eval.report import write_report
from preflab.eval.report.drawings import plots
from preflab.eval.report.figures import page_svg
from preflab.eval.report.page import render
from preflab.eval.report.samples import sample_data
from preflab.eval.report.sections import command, pairwise, ranking
from preflab.eval.report.text import clean, embedded


def test_writes_page_tables_and_figures(report: Any) -> None:
    folder, files = report
    names = [path.relative_to(folder).as_posix() for path in files]
    assert names[:3] == ["report.html", "table.md", "table.tex"]
    stems = {
        "differences",
        "frontier",
        "overoptimisation",
        "reliability",
        "length-bias",
        "training-reward",
        "training-kl",
    }
    stems |= {
        "training-loss",
        "training-entropy",
        "training-response-length",
        "training-accuracy",
        "learning",
        "tuning",
    }
    folded = {"training-0", "training-1", "training-2", "training-3", "training-4", "training-5", "training-6"}
    drawn = {f"figures/{stem}.{kind}" for stem in stems for kind in ("svg", "png")}
    assert set(names[3:]) == drawn | {f"figures/{stem}.csv" for stem in stems | folded}
    assert sorted(p for p in folder.rglob("*") if p.is_file()) == sorted(files)  # no temporary files are left
    for path in files:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
        if path.suffix == ".svg":
            assert ElementTree.fromstring(path.read_text()).tag.endswith("svg")


def test_the_same_comparison_is_the_same_bytes(report: Any, tmp_path: Any) -> None:
    folder, _ = report
    files = write_report(typed({**comparison(), "training": {}, "overoptimisation": None}), {}, tmp_path)
    assert len(files) == 3 + 3 * 6
    for path in files[1:]:
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path.name


def test_the_verdict_comes_first_and_every_section_follows(report: Any) -> None:
    read = Page((report[0] / "report.html").read_text())
    assert read.text.index(comparison()["headline"]) < read.text.index("Best first;")
    ids = [attrs["id"] for tag, attrs in read.elements if tag in ("section", "header") and "id" in attrs]
    assert ids == [
        "verdict", "ranking", "pairwise", "frontier", "overoptimisation", "learning", "tuning", "training",
        "preferences", "generations", "samples", "diagnosis", "costs", "provenance", "terms",
    ]  # fmt: skip
    links = [a["href"] for tag, a in read.elements if tag == "a" and a.get("class") not in ("term", "csv")]
    assert links == ["#verdict", *(f"#{name}" for name in ids)]
    every = [attrs["id"] for _, attrs in read.elements if "id" in attrs]
    assert len(every) == len(set(every))
    for part in ("75.4 %", "[72.4, 78.4]", "2–3", "no detectable difference (could have seen 0.15)", "p = 0.002"):
        assert part in read.text
    for part in ("share of replications", "0.310", "410", "30.00 %", "learning_rate 70.0 %, beta 30.0 %"):
        assert part in read.text
    assert "python recipes/compare.py" in read.text
    assert "commit f989d30c" in read.text
    assert "sft : no symptoms found in 20 checks" in read.text


def test_no_figure_shows_markup_for_mathematics() -> None:
    drawn = [page_svg(plot) for plot in plots(typed(comparison()))]
    assert not [svg for svg in drawn if "mathdefault" in svg]
    assert any("1,229" in svg for svg in drawn), "counts of preferences are written out"


def test_the_page_needs_nothing_but_itself(report: Any) -> None:
    html = (report[0] / "report.html").read_text()
    read = Page(html)
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"^\s*//.*$", "", html, flags=re.M))
    for tag, attrs in read.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base", "audio", "video", "image", "foreignobject")
        assert attrs.get("src") is None
        assert (attrs.get("href") or "#").startswith(("#", "data:,", "data:text/csv;"))
        assert not any(name == "style" or name.startswith("on") for name in attrs)


def test_the_policy_allows_the_pages_own_style_and_script_alone(report: Any) -> None:
    read = Page((report[0] / "report.html").read_text())
    policy = next(a["content"] or "" for t, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"

    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    assert [digest(text) for text in read.inside["style"]] == [rules["style-src"]]
    assert digest(read.inside["script"][-1]) == rules["script-src"]
    assert len(read.inside["script"]) == 2  # the data, which no browser runs, and the page's own
    assert "innerHTML" not in read.inside["script"][-1]


def test_a_huge_response_is_cut_and_said_to_be() -> None:
    rows = [{"prompt": "p", "response": "x" * 1_000_000, "gold": 1.0, "length": 5, "ended": False}]
    data = sample_data({"dpo": {0: rows}}, ["dpo"])
    assert data is not None
    answer = data["prompts"][0]["answers"]["dpo"]["0"]
    assert len(answer["text"]) < 7_000
    assert answer["text"].endswith("… (994,000 more characters)")
    assert answer["ended"] is False


def test_many_samples_stay_light_and_keep_the_disagreements() -> None:
    def rows(gold: float) -> list[dict[str, Any]]:
        return [
            {"prompt": f"{i}", "response": "y" * 5_000, "gold": gold * i, "length": 9, "ended": True}
            for i in range(900)
        ]

    data = sample_data({"dpo": {0: rows(1.0)}, "ppo": {0: rows(-1.0)}}, ["dpo", "ppo"])
    assert data is not None
    kept = [prompt["at"] for prompt in data["prompts"]]
    assert data["total"] == 900
    assert kept == list(range(899, 899 - len(kept), -1))
    assert len(embedded(data)) < 5_000_000
    html = render(clean(typed(comparison())), {"dpo": {0: rows(1.0)}, "ppo": {0: rows(-1.0)}}, [])
    assert f"the {len(kept)} of 900 prompts on which the methods disagree most" in Page(html).text


def test_samples_without_a_judge_keep_the_order_of_the_data() -> None:
    rows = [
        {"prompt": f"{i}", "response": "r", "gold": None, "proxy": None, "length": 1, "ended": True} for i in range(4)
    ]
    data = sample_data({"dpo": {3: rows, 11: rows[:2]}}, [])
    assert data is not None
    assert [prompt["at"] for prompt in data["prompts"]] == [0, 1, 2, 3]
    assert data["seeds"] == ["3", "11"]
    assert data["prompts"][0]["answers"]["dpo"]["3"] == {"text": "r", "ended": True, "length": 1}
    assert list(data["prompts"][3]["answers"]["dpo"]) == ["3"]  # the other seed's records are shorter
    assert sample_data({"dpo": {0: []}}, []) is None


def test_a_comparison_of_little() -> None:
    read = page(bare())
    ids = [attrs.get("id") for tag, attrs in read.elements if tag == "section"]
    assert ids == ["ranking", "generations", "costs", "provenance", "terms", "left-out"]
    for reason in ("Frontier: it needs gold rewards", "Pairwise tests: they need", "Samples: no responses"):
        assert reason in read.text
    assert "judge: gold" in read.text


@pytest.mark.parametrize("key", comparison())
def test_any_part_may_be_empty(key: str) -> None:
    empty: dict[type, Any] = {str: "", list: [], dict: {}, int: 0}
    needed = {"schema": 3, "budgets": None, "reward_model": None, "judge": None, "frontier": None}
    compared = comparison()
    compared[key] = needed.get(key, empty[type(compared[key])])
    if key == "budgets":
        lists = {name: [] for name in ("equal", "unequal", "unknown", "untrained")}
        compared[key] = {"matched": "none", "sentence": "", **lists}
    shown = clean(typed(compared))
    assert len(plots(shown)) >= (0 if key == "methods" else 4)
    assert "Provenance" in Page(render(shown, {}, [])).text


def test_nulls_and_infinities_within_methods() -> None:
    compared = comparison()
    for i, record in enumerate(compared["methods"].values()):
        for key in [key for key in record if key not in ("settings", "settings_tried")][i::2]:
            record[key] = None
    compared["methods"]["dpo"]["kl"] = {"mean": float("nan"), "low": None, "high": float("inf"), "n": 3}
    nothing = {"mean": None, "low": None, "high": None, "n": 0}
    compared["frontier"]["points"][0]["kl"] = nothing
    compared["frontier"]["points"][1]["attainable"] = None
    compared["frontier"]["oracle"]["low"][3] = None
    compared["training"]["ppo"]["0"][4]["kl"] = float("nan")
    compared["training"]["dpo"] = {"0": [{"step": 5, "loss": 0.6}]}
    compared["pairwise"][0] |= {"p_adjusted": None, "detectable": None, "difference": nothing}
    shown = clean(typed(compared))
    figures = plots(shown)
    assert {page_svg(plot)[:5] for plot in figures} == {"<?xml"}
    assert sum(plot.main for plot in figures) == 13
    text = Page(render(shown, {}, figures)).text
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", text)


def test_nothing_at_all() -> None:
    read = page({**bare(), "methods": {}, "headline": "", "verdict": []})
    assert "No verdict" in read.text
    assert "Ranking: no method was evaluated." in read.text


def test_pairwise_matrix_is_antisymmetric_and_follows_the_ranking() -> None:
    matrix = pairwise(typed(comparison()))
    assert matrix is not None
    assert matrix["names"] == ["ppo", "dpo", "ipo", "sft"]
    cells = {
        (row["name"], name): cell
        for row in matrix["rows"]
        for name, cell in zip(matrix["names"], row["cells"], strict=True)
    }
    # dpo minus ppo is 1.24 - 1.52; its interval [-.39, -.17] turned round is [.17, .39].
    assert cells["dpo", "ppo"] == {
        "text": "−0.28", "interval": "[−0.39, −0.17]", "p": "p\u00a0=\u00a00.002", "verdict": "worse",
        "detectable": "0.15", "outcomes": "won 42\u00a0%, tied 4\u00a0%, lost 54\u00a0%",
    }  # fmt: skip
    assert cells["ppo", "dpo"]["text"] == "+0.28"
    assert cells["ppo", "dpo"]["interval"] == "[0.17, 0.39]"
    assert cells["ppo", "dpo"]["verdict"] == "better"
    assert cells["ipo", "dpo"]["verdict"] == cells["dpo", "ipo"]["verdict"] == "none"
    assert all(cells[name, name] is None for name in METHODS)


def test_ranking_puts_unranked_methods_last_and_ratings_on_one_scale() -> None:
    compared = comparison()
    compared["ranking"].pop(1)
    table = ranking(typed(compared))
    assert table is not None
    assert [row["name"] for row in table["rows"]] == ["ppo", "ipo", "sft", "dpo"]
    assert [row["place"] for row in table["rows"]] == ["1", "2–3", "4", ""]
    assert table["rows"][2]["marks"]["low"] == 3
    assert table["rows"][0]["marks"]["high"] == 97
    assert table["rows"][3]["marks"] is None


def test_the_command_can_be_pasted() -> None:
    import shlex

    words = ["compare.py", "--model", "my model; rm -rf /", "--seeds", "0,1", "--quick"]
    text = command(words)
    assert shlex.split(text.replace("\\\n", "")) == ["python", "recipes/compare.py", *words[1:]]
    assert text.count("\n") == 3
    assert command(["pytest", "x"]) == "pytest x"
    assert command([]) == ""


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(typed(bare()), {}, tmp_path / "file")


def test_the_callers_comparison_is_left_alone(tmp_path: Any) -> None:
    mine = typed({**comparison(), "training": {}, "frontier": None})
    before = copy.deepcopy(mine)
    write_report(mine, {}, tmp_path)
    assert mine == before


def test_many_sentences_are_folded_and_the_judge_speaks_for_itself() -> None:
    report = {"missing": 12, "inconsistent": 0.25, "answers": 40, "prompt_tokens": 900, "completion_tokens": 80}
    compared = {
        **comparison(),
        "verdict": [f"sentence {i}." for i in range(11)],
        "judge": {"name": "m", "kind": "compares", "warning": None, "report": report},
    }
    read = page(compared)
    assert "3 more" in read.text
    assert "sentence 10." in read.text
    assert "12 pairs had no answer" in read.text
    assert "On 25 % of the pairs" in read.text
    assert not any(" more" in text for text in page({**compared, "verdict": ["one.", "two."]}).of("summary"))


def test_wins_ties_and_losses_are_told_from_either_side() -> None:
    matrix = pairwise(clean(typed(comparison())))
    assert matrix is not None
    cells = {(r["name"], c): cell for r in matrix["rows"] for c, cell in zip(matrix["names"], r["cells"], strict=True)}
    assert cells["dpo", "sft"]["outcomes"] == "won 68\u00a0%, tied 4\u00a0%, lost 28\u00a0%"
    assert cells["sft", "dpo"]["outcomes"] == "won 28\u00a0%, tied 4\u00a0%, lost 68\u00a0%"
    unknown = comparison()
    for pair in unknown["pairwise"]:
        pair["ties"]["mean"] = None
    assert "tied 4 %" in page(comparison()).text
    assert "tied 4 %" not in page(unknown).text


def test_a_length_controlled_win_rate_that_is_doubted_says_so() -> None:
    compared = comparison()
    assert "Length-controlled win rate of" not in page(compared).text
    compared["methods"]["dpo"]["length_controlled_win_rate"]["note"] = "all outcomes are equal"
    assert "Length-controlled win rate of dpo : all outcomes are equal." in page(compared).text


def test_differences_at_equal_kl_stand_beside_the_curves(report: Any) -> None:
    text = Page((report[0] / "report.html").read_text()).text
    assert "dpo ppo 4.00 −0.11 [−0.20, −0.02] p = 0.020" in text


def test_the_line_says_how_far_it_is_to_be_trusted() -> None:
    compared = comparison()
    compared["frontier"]["oracle"] |= {"ess": [32.0, 9.5, 3.12], "tolerance": 0.05}
    said = page_with_frontier(compared)
    assert "estimated from reference samples, to 5.0 % of the gain by its own account." in said
    assert "Of each prompt's 32 samples 3.1 are effective at its end. Beyond KL 12.50 it is not to be trusted" in said
    compared["frontier"]["oracle"] |= {"source": "exact", "ess": [], "trusted_kl": None}
    assert "exact: every response of this world was enumerated" in page_with_frontier(compared)


def test_what_lies_above_the_line_is_pointed_out() -> None:
    compared = comparison()
    for point in compared["frontier"]["points"]:
        point["under_the_line"] = {"kl": 1.0, "excess": point["kl"], "holds": None}
    assert "No policy can be" not in page_with_frontier(compared)
    compared["frontier"]["points"][-1]["under_the_line"]["holds"] = False
    assert "its interval included: ppo (beta = 0.05). No policy can be" in page_with_frontier(compared)


def page_with_frontier(compared: dict[str, Any]) -> str:
    shown = clean(typed(compared))
    return Page(render(shown, {}, [plot for plot in plots(shown) if plot.name == "frontier"])).text
