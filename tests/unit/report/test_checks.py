"""What was looked for and what was found; lengths by name; budgets, quantity by quantity."""

from __future__ import annotations

from dataclasses import replace

from report_fixture import METHODS, bare, comparison, typed
from report_page import page

from preflab.eval.diagnosis import DETECTORS
from preflab.eval.records.figures import Figure
from preflab.eval.report.checks import NO_DATA, NOT_FOUND, UNSAID, diagnosis, lengths, marked
from preflab.eval.report.spending import budgets
from preflab.eval.report.terms import TERMS, columns, glossary


def test_every_check_says_its_threshold_and_how_it_came_out() -> None:
    compared = comparison()
    compared["diagnosis"]["dpo"][0]["symptom"] = DETECTORS[3].symptom
    found = diagnosis(typed(compared))
    assert found is not None
    assert [check["symptom"] for check in found["checks"]] == [known.symptom for known in DETECTORS]
    outcomes = {check["symptom"]: dict(zip(METHODS, check["outcomes"], strict=True)) for check in found["checks"]}
    assert outcomes[DETECTORS[3].symptom] == dict.fromkeys(METHODS, NOT_FOUND) | {"dpo": "warning"}
    assert outcomes[DETECTORS[-1].symptom] == dict.fromkeys(METHODS, NO_DATA)
    assert {row["name"]: row["checked"] for row in found["methods"]} == {"sft": 20, "dpo": 19, "ipo": 18, "ppo": 17}
    assert [row["found"] for row in found["methods"]] == [0, 1, 0, 2]
    text = page(compared).text
    for known in DETECTORS:
        assert " ".join(known.threshold.replace("`", "").split())[:40] in text, known.symptom
    assert f"17 checks; {len(DETECTORS) - 17} without data" in text


def test_records_that_do_not_say_what_had_data_claim_nothing() -> None:
    found = diagnosis(typed({**comparison(), "examined": {}}))
    assert found is not None
    assert found["checks"][0]["outcomes"] == [UNSAID] * 4
    assert "which had data is not recorded" in page({**comparison(), "examined": {}}).text


def test_names_of_fields_are_set_apart() -> None:
    assert marked("a `kl` b `x`") == [("a ", False), ("kl", True), (" b ", False), ("x", True)]


def test_changes_of_length_are_named() -> None:
    said = {row["name"]: row for row in lengths(typed(comparison()))}
    assert said["ppo"]["text"] == "answers are 39 % longer than the start’s (43.0 against 31.0 tokens)"
    assert said["ppo"]["large"] is True
    assert said["dpo"]["text"] == "answers are 13 % longer than the start’s (35.0 against 31.0 tokens)"
    assert said["dpo"]["large"] is False
    one = typed(comparison())
    near = replace(one.methods["dpo"], figures={"response_length": Figure(20.0, 12.0, 30.0, 9)})
    [found] = [row for row in lengths(replace(one, methods={**one.methods, "dpo": near})) if row["name"] == "dpo"]
    assert "35 % shorter than" in found["text"]
    assert found["text"].endswith("their 95 % intervals overlap)")
    assert found["large"] is False
    assert lengths(replace(one, baseline=None)) == []
    assert "answers are 39 % longer than the start’s" in page(comparison()).text


def test_budgets_are_a_table_that_says_what_was_equal() -> None:
    found = budgets(typed(comparison()))
    assert found is not None
    rows = {row["heading"]: row for row in found["rows"]}
    assert found["names"] == [*METHODS, "reward model"]
    assert [c["text"] for c in rows["tokens through training"]["cells"]] == [
        "900 k",
        "900 k",
        "900 k",
        "2.3 M",
        "900 k",
    ]
    assert rows["steps"]["equal"] == "yes"
    assert rows["FLOPs"]["equal"] == "no, up to 6.1 times"
    assert rows["tokens sampled"]["equal"] == "no, none for some"
    assert rows["compared pairs"]["equal"] == "not counted by all"
    charged = {row["heading"]: [c["text"] for c in row["cells"]] for row in found["charged"]["rows"]}
    assert charged["wall time, with all it stands on"] == ["144 s", "144 s", "618 s"]
    assert found["charged"]["stands_on"] == ["sft", "sft", "sft, reward model"]


def test_what_was_not_trained_has_no_budgets() -> None:
    compared = comparison()
    for record in compared["methods"].values():
        record["train"] = None
    compared["reward_model"] = None
    assert budgets(typed(compared)) is None
    assert "Budgets: nothing was trained." in page(compared).text


def test_every_term_is_explained_and_every_link_to_one_leads_there() -> None:
    read = page(comparison())
    there = {attrs["id"] for _, attrs in read.elements if (attrs.get("id") or "").startswith("term-")}
    assert there == {f"term-{name}" for name in TERMS}
    links = [attrs for tag, attrs in read.elements if tag == "a" and attrs.get("class") == "term"]
    assert {"term-kl", "term-win-rate", "term-gold", "term-holm"} <= {(a["href"] or "")[1:] for a in links}
    for link in links:
        name = (link["href"] or "").removeprefix("#term-")
        assert link["title"] == glossary(typed(comparison()))[name][1]
    assert "The start has 0.31." in read.text


def test_one_estimate_is_called_kl() -> None:
    headings = [heading for heading in columns() if "KL" in heading]
    assert headings == ["KL to ref."]
    text = page(comparison()).text
    assert "log π/π_ref of training answers" not in text
    assert "Where the two part beyond chance" in text  # the other estimate stands apart, by another name


def test_a_comparison_of_little_has_terms_too() -> None:
    assert "Holm’s correction" in page(bare()).text
