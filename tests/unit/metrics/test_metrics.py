"""Metric modules and the tables made of them."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import evaluate
import numpy as np
import pytest
import torch
from report_fixture import of_methods

from docs.make_metric_page import PAGE, page
from preflab.errors import UserError
from preflab.eval.metrics import (
    METRICS,
    columns_of,
    declared,
    in_order,
    kl_log_ratio,
    load,
    preference_accuracy,
    response_length,
    reward,
    win_rate,
)
from preflab.eval.report.table import comparison_table, markdown_table
from preflab.eval.statistics import interval

ROOT = Path(__file__).parents[3]
# One valid input per metric, three prompts each.
INPUTS: dict[str, dict[str, list[Any]]] = {
    "preference_accuracy": {"chosen_score": [1.0, 2.0, 3.0], "rejected_score": [0.0, 2.0, 4.0]},
    "preference_margin": {"chosen_score": [1.0, 2.0, 3.0], "rejected_score": [0.0, 2.0, 4.0]},
    "preference_auc": {"chosen_score": [1.0, 2.0, 3.0], "rejected_score": [0.0, 2.0, 4.0]},
    "preference_log_loss": {"logit": [1.0, 0.0, -3.0], "preference": [1.0, 1.0, 0.5]},
    "preference_brier": {"logit": [1.0, 0.0, -3.0], "preference": [1.0, 1.0, 0.5]},
    "preference_calibration": {"logit": [1.0, 0.0, -3.0], "preference": [1.0, 1.0, 0.5]},
    "preference_ties": {"chosen_score": [1.0, 2.0, 3.0], "rejected_score": [0.0, 2.0, 4.0]},
    "heldout_accuracy": {"chosen_score": [1.0, 2.0, 3.0], "rejected_score": [0.0, 2.0, 4.0]},
    "likelihood_accuracy": {
        "chosen_logp": [-3.0, -4.0, -2.0],
        "rejected_logp": [-4.0, -3.0, -2.0],
        "chosen_length": [3.0, 8.0, 2.0],
        "rejected_length": [3.0, 2.0, 2.0],
    },
    "demonstration_logp": {"chosen_logp": [-3.0, -4.0, -2.0], "chosen_length": [3.0, 8.0, 2.0]},
    "length_controlled_win_rate": {"games": [1.0, 0.5, 0.0], "longer": [1.0, -2.0, 0.0]},
    "win_rate": {"reward": [1.0, 2.0, 3.0], "baseline_reward": [0.0, 2.0, 4.0]},
    "kl_to_reference": {"kl": [0.5, 0.0, 0.2]},
    "kl_log_ratio": {"log_ratio": [0.5, -0.1, 0.2]},
    "entropy": {"entropy": [0.5, 0.0, 0.2]},
    "distinct_n": {"response": ["a b c d", "a b", ""]},
    "repetition": {"response": ["a b c d a b c d", "a b", ""]},
    "self_similarity": {"response": ["a b c d", "a b", "a b"]},
    "reward": {"reward": [1.0, 2.0, 6.0]},
    "proxy_reward": {"proxy": [1.0, 2.0, 6.0]},
    "response_length": {"length": [3, 4, 8], "ended": [True, False, True]},
}


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_documents_itself(name: str) -> None:
    metric = load(name)
    assert metric.name == name
    assert metric.higher_is_better in (True, False, None)
    assert metric.version.count(".") == 2
    assert metric.description
    assert metric.citation.startswith("@")
    assert list(metric.features) == list(metric.inputs) == list(INPUTS[name])
    assert all(key in metric.inputs_description for key in [*metric.inputs, *metric.outputs])


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_loads_by_path_and_writes_no_values(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    by_path = evaluate.load(f"eval/metrics/{name}.py", cache_dir=str(tmp_path))
    assert by_path.name == name
    assert by_path.compute(**INPUTS[name]) == load(name).compute(**INPUTS[name])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", METRICS)
def test_keys_are_those_documented_and_batches_add_up(name: str) -> None:
    metric = load(name)
    whole = metric.compute(**INPUTS[name])
    documented = {key for text in metric.outputs for key in text.split(", ")}
    assert set(whole) == documented
    for row in range(3):
        metric.add_batch(**{key: values[row : row + 1] for key, values in INPUTS[name].items()})
    assert metric.compute() == whole


@pytest.mark.parametrize("name", METRICS)
def test_bad_input_is_refused_and_leaves_the_metric_usable(name: str) -> None:
    metric = load(name)
    first = next(iter(INPUTS[name]))
    empty: dict[str, list[Any]] = {key: [] for key in INPUTS[name]}
    with pytest.raises(ValueError, match="no values"):
        metric.compute()
    with pytest.raises(ValueError, match="no values"):
        metric.compute(**empty)
    bad = ["a", None, "a"] if first == "response" else [1.0, float("nan"), 1.0]
    with pytest.raises(ValueError, match=rf"{first}\[1\] is (nan; all values must be finite|None; each must be text)"):
        metric.compute(**INPUTS[name] | {first: bad})
    if len(INPUTS[name]) > 1:
        with pytest.raises(ValueError, match="needs exactly"):
            metric.compute(**{first: [1.0]})
        with pytest.raises(ValueError, match="differ in length"):
            metric.compute(**INPUTS[name] | {first: [1.0]})
    assert metric.compute(**INPUTS[name])["n"] == 3


@pytest.mark.parametrize("name", METRICS)
def test_every_measure_says_what_tables_and_documentation_need(name: str) -> None:
    metric = METRICS[name]
    for measure in (*metric.measures, *metric.details):
        assert re.fullmatch(r"[a-z0-9_]+", measure.key)
        assert measure.what == measure.what.strip().rstrip(".")
        assert measure.unit.name
        assert measure.reads
        assert bool(measure.heading) or not measure.shown
        assert measure.unit.number(0.5)


def test_every_metric_has_a_place_of_its_own() -> None:
    orders = [metric.order for metric in METRICS.values()]
    assert orders == sorted(set(orders))
    assert [column.key for column in columns_of("table")] == [
        "win_rate",
        "gold_reward",
        "proxy_reward",
        "heldout_accuracy",
        "kl",
        "response_length",
    ]


def test_a_file_with_two_metrics_and_a_name_that_is_taken_are_refused() -> None:
    class Other(METRICS["entropy"]):  # type: ignore[misc, valid-type]
        pass

    module = ModuleType(Other.__module__)
    vars(module).update(One=Other, Two=type("Two", (Other,), {"__module__": Other.__module__}))
    with pytest.raises(ValueError, match="defines Other and Two; a metric is one file"):
        declared(module)
    assert declared(ModuleType("empty")) == []
    with pytest.raises(ValueError, match="metrics entropy and other both give 'entropy'"):
        in_order({**METRICS, "other": Other})


def test_unknown_metric_gets_near_misses() -> None:
    with pytest.raises(UserError, match="did you mean 'win_rate'"):
        load("winrate")


def test_accuracy_counts_ties_as_half() -> None:
    # right, tie, wrong, right: (1 + 0.5 + 0 + 1) / 4; margins 1, 0, -1, 4 have mean 1
    result = load("preference_accuracy").compute(chosen_score=[1, 2, 3, 5], rejected_score=[0, 2, 4, 1])
    assert result["accuracy"] == 0.625
    assert result["margin"] == 1.0
    assert result["n"] == 4


def test_swapping_sides_mirrors_the_result() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(5, size=(2, 300)).astype(float)
    for name, (left, right), key in (
        ("preference_accuracy", ("chosen_score", "rejected_score"), "accuracy"),
        ("win_rate", ("reward", "baseline_reward"), "win_rate"),
    ):
        forward = load(name).compute(**{left: first, right: second})
        backward = load(name).compute(**{left: second, right: first})
        assert backward[key] == pytest.approx(1 - forward[key])
        assert backward["low"] == pytest.approx(1 - forward["high"])
        assert forward[key] == (np.sum(first > second) + np.sum(first == second) / 2) / 300


def test_inputs_may_be_arrays_or_tensors_and_keep_float64() -> None:
    close = 1.0 + 1e-12  # equal to 1 in float32
    result = load("win_rate").compute(reward=np.array([close]), baseline_reward=torch.ones(1))
    assert result["win_rate"] == 1.0
    # One win of one: the interval must say how little that is. Clopper and Pearson: low = 0.025^(1/1)
    assert result["low"] == pytest.approx(0.025)


def test_a_class_computes_the_interval_of_its_per_prompt_values() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 40))
    result = load("win_rate").compute(reward=first, baseline_reward=second, level=0.9)
    expected = interval(win_rate.per_prompt(first, second), level=0.9, rate=True)
    assert (result["win_rate"], result["low"], result["high"], result["n"]) == expected


def test_per_prompt_values() -> None:
    np.testing.assert_array_equal(win_rate.per_prompt([2, 1, 0], [1, 1, 1]), [1.0, 0.5, 0.0])
    np.testing.assert_array_equal(preference_accuracy.per_prompt([2, 1, 0], [1, 1, 1]), [1.0, 0.5, 0.0])
    np.testing.assert_array_equal(reward.per_prompt([2, -1]), [2.0, -1.0])
    np.testing.assert_array_equal(kl_log_ratio.per_prompt([0.5, -0.1]), [0.5, -0.1])
    with pytest.raises(ValueError, match="cannot be negative"):
        response_length.per_prompt([3, -1])
    with pytest.raises(ValueError, match="differ in length"):
        win_rate.per_prompt([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="at least one value"):
        reward.per_prompt([])


def test_kl_is_signed_and_k3_is_not() -> None:
    result = load("kl_log_ratio").compute(log_ratio=[math.log(2), -math.log(4)])
    assert result["kl_log_ratio"] == pytest.approx((math.log(2) - math.log(4)) / 2)  # negative, not clamped
    # exp(-l) - 1 + l: 1/2 - 1 + log 2 and 4 - 1 - log 4; their mean is (2.5 - log 2) / 2
    assert result["k3"] == pytest.approx((2.5 - math.log(2)) / 2)


def test_kl_estimates_agree_with_the_exact_kl() -> None:
    policy, reference = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    exact = float(np.sum(policy * np.log(policy / reference)))
    drawn = np.random.default_rng(0).choice(3, p=policy, size=20_000)
    result = load("kl_log_ratio").compute(log_ratio=np.log(policy / reference)[drawn])
    assert result["low"] < exact < result["high"]
    # The log ratio has a standard deviation of 0.7: 4 standard errors of 20,000 samples are 0.02.
    assert result["k3"] == pytest.approx(exact, abs=0.02)


def test_kl_of_the_reference_is_exactly_zero_and_an_exploding_k3_is_left_out() -> None:
    assert load("kl_log_ratio").compute(log_ratio=[0.0] * 8) == {
        "kl_log_ratio": 0.0,
        "low": 0.0,
        "high": 0.0,
        "n": 8,
        "k3": 0.0,
    }
    assert "k3" not in load("kl_log_ratio").compute(log_ratio=[-800.0, 1.0])


def test_response_length_reports_the_share_that_ended() -> None:
    result = load("response_length").compute(length=torch.tensor([3, 4, 8]), ended=torch.tensor([True, False, True]))
    assert result["response_length"] == 5.0
    assert result["ended"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"ended\[1\] is missing"):
        load("response_length").compute(length=[3, 4], ended=[True, None])


def test_the_page_is_what_the_metrics_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python docs/make_metric_page.py"
    for name, metric in METRICS.items():
        section = page().split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert all(f"`{key}`" in section for key in metric.inputs)
        assert section.count("Source: ") == 1


# ---- tables ----

HOSTILE = "[red]x[/red]|<script>\x1b[31m\n![i](http://e.vil)"


def _estimate(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high, "n": 512}


def _record(**estimates: Any) -> dict[str, Any]:
    keys = ("win_rate", "gold_reward", "proxy_reward", "heldout_accuracy", "kl", "response_length")
    train = {"seconds": 42.3, "tokens": 81_234, "peak_memory_bytes": int(1.2 * 2**30)}
    return dict.fromkeys(keys) | {"train": train} | estimates


@pytest.fixture
def comparison() -> dict[str, Any]:
    return {
        "methods": {
            "sft": _record(gold_reward=_estimate(-0.001, -0.1, 0.1), kl=_estimate(0.0, 0.0, 0.0)),
            "dpo": _record(
                win_rate=_estimate(0.612, 0.579, 0.644),
                gold_reward=_estimate(1.23, 1.1, 1.36),
                heldout_accuracy=_estimate(0.7, 0.66, 0.74),
                kl=_estimate(4.2, 3.9, 4.5),
                response_length=_estimate(31.24, 30.1, 32.4),
            ),
            "ppo": _record(win_rate=_estimate(0.51, 0.472, 0.549)),
            "trl-dpo": _record(win_rate=_estimate(0.42, 0.38, 0.48)),
            HOSTILE: _record(heldout_accuracy=_estimate(0.7, 0.6, 0.8), train=None),
        },
        "reward_model": {"heldout_accuracy": _estimate(0.701, 0.66, 0.74)},
    }


def _rendered(comparison: dict[str, Any], width: int) -> str:
    from rich.console import Console

    output = io.StringIO()
    Console(file=output, width=width, color_system="truecolor", force_terminal=True).print(
        comparison_table(of_methods(**comparison))
    )
    return output.getvalue()


def test_terminal_table_is_readable_on_100_columns(comparison: dict[str, Any]) -> None:
    del comparison["methods"][HOSTILE]
    text = re.sub(r"\x1b\[[0-9;]*m", "", _rendered(comparison, 100))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    starts = [line.split()[0] for line in lines if line[0].isalpha()]
    assert starts[:6] == ["method", "sft", "dpo", "ppo", "trl-dpo", "Mean"]
    for part in ("61.2 %", "[57.9, 64.4]", "1.23", "[1.10, 1.36]", "42 s", "81 ktok", "1.2 GiB", "31.2"):
        assert part in text
    assert "-0.00" not in text
    assert "proxy" not in text  # no method has one
    assert "Reward model: held-out accuracy 70.1 % [66.0, 74.0] on 512 pairs." in " ".join(text.split())


def test_hostile_names_are_shown_and_not_obeyed(comparison: dict[str, Any]) -> None:
    text = _rendered(comparison, 200)
    assert "\x1b[31m" not in text
    assert "[red]x[/red" in text
    markdown = markdown_table(of_methods(**comparison))
    assert "\x1b" not in markdown
    assert r"\[red\]x\[/red\]\|&lt;script&gt;" in markdown
    assert "![i](" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 5
    assert len({row.replace(r"\|", "").count("|") for row in rows}) == 1


def test_markdown_table(comparison: dict[str, Any]) -> None:
    lines = markdown_table(of_methods(**comparison)).splitlines()
    assert lines[0] == "| method | win rate | gold reward | held-out accuracy | KL to ref. | length | training |"
    assert lines[3] == (
        "| dpo | 61.2 % [57.9, 64.4] | 1.23 [1.10, 1.36] | 70.0 % [66.0, 74.0] | 4.20 [3.90, 4.50] "
        "| 31.2 [30.1, 32.4] | 42 s, 81 ktok, 1.2 GiB |"
    )
    assert lines[2].startswith("| sft | – | 0.00 [-0.10, 0.10] | – |")


def test_tables_of_nothing() -> None:
    assert "method" in markdown_table(of_methods({}))
    assert "method" in _rendered({"methods": {}}, 100)


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"seconds": 4.24}, "4.2 s"),
        ({"seconds": 9.97, "tokens": 999}, "10 s, 999 tok"),
        ({"tokens": 999_900, "peak_memory_bytes": 812 * 2**20}, "1.0 Mtok, 812 MiB"),
        ({"tokens": 12_340_000}, "12 Mtok"),
        ({}, "–"),
    ],
)
def test_costs(train: dict[str, float], expected: str) -> None:
    row = markdown_table(of_methods({"dpo": {"train": train}})).splitlines()[2]
    assert row == f"| dpo | {expected} |"
