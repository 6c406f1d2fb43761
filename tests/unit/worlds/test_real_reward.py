"""The real world with a reward of one's own: columns carried, the reward tried, and who judges."""

from __future__ import annotations

from typing import Any

import pytest
from real_rows import open_rows, pair

from preflab.errors import UserError
from preflab.worlds import WorldConfig

REWARD = """
import itertools
counter = itertools.count()
def right(response, answer): return float(answer in response)
def restless(response): return float(next(counter))
def plain(response): return 1 / (not response.startswith("Good"))
def seen(response, **columns): return float(sorted(columns) == ["answer", "prompt"])
def broken(response, answer): return answer["x"]
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "mine.py").write_text(REWARD)
    return lambda name: f"{tmp_path / 'mine.py'}:{name}"


def rows(**more: Any) -> list[dict[str, Any]]:
    return [pair(i, answer=str(i), **more) for i in range(60)]


def test_a_function_judges_and_takes_no_rows_for_a_judge(model, tmp_path, place):
    world = open_rows(model, tmp_path, rows(), reward=place("right"))
    assert not len(world.gold_pairs)
    assert world.gold is world.reward
    first = world.pairs[0]
    assert world.gold([first["prompt"]] * 2, [first["chosen"], first["rejected"]]) == [1.0, 0.0]
    assert world.gold([world.eval_prompts[0]["prompt"]], [""]) == [0.0]
    assert world.gold_key == world.reward.key


def test_other_parts_leave_the_judge_to_a_model_of_its_own(model, tmp_path, place):
    world = open_rows(model, tmp_path, rows(), reward=f"{place('right')},model=0.5")
    assert len(world.gold_pairs)
    assert world.gold is None
    assert world.reward.model == 0.5


def test_a_changed_column_changes_the_data(model, tmp_path, place):
    worlds = [open_rows(model, tmp_path, found, reward=place("right")) for found in (rows(), rows(other=1))]
    changed = [{**row, "answer": "x"} if i == 3 else row for i, row in enumerate(rows())]
    worlds.append(open_rows(model, tmp_path, changed, reward=place("right")))
    assert worlds[0].fingerprints == worlds[1].fingerprints != worlds[2].fingerprints


def test_keywords_take_the_columns_that_mean_nothing_else(model, tmp_path, place):
    world = open_rows(model, tmp_path, rows(), reward=place("seen"))
    assert world.gold([world.pairs[0]["prompt"]], ["x"]) == [1.0]


def test_it_is_tried_on_answers_as_policies_give_them_and_on_none_of_the_data(model, tmp_path, place):
    assert open_rows(model, tmp_path, rows(), reward=place("plain")).gold(["p"], ["Bad."]) == [1.0]


def test_chance_is_said(model, tmp_path, place, caplog):
    open_rows(model, tmp_path, rows(), reward=place("restless"))
    assert "gives two values for the same texts: no run of it can be repeated" in caplog.text


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "right",
            [pair(i, awnser="1") for i in range(60)],
            r"'answer', and .*data.jsonl has none \(did you mean",
        ),
        ("right", [*rows(), pair(99)], r"column 'answer', and prompt 'Question 99\?' has none"),
        ("right", [*rows(), pair(5, answer="6")], "rows 6 and 61 ask the same, and their column 'answer' differs"),
        ("broken", rows(), r"raised TypeError: .*mine.py, line 8\), for prompt"),
    ],
)
def test_what_could_not_be_scored_is_refused_beforehand(name, data, message, model, tmp_path, place):
    with pytest.raises(UserError, match=message):
        open_rows(model, tmp_path, data, reward=place(name))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"world": "reviews", "reward": "a:f"}, "reviews world has a planted reward"),
        (
            {"dataset": "a/b", "model": "m", "reward": "a:f", "gold_fraction": 0.2},
            "reward judges; leave it out",
        ),
        ({"dataset": "owner/name", "model": "m", "reward": "a:f", "prompts": "x"}, "takes no prompts"),
    ],
)
def test_options_without_meaning_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        WorldConfig(**values)
