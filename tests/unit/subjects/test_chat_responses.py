"""Answers to dialogues: what evaluations write of them, and the ways in which a file may put a prompt."""

from __future__ import annotations

import json

import pytest
from ground_files import CONFIG, open_experiment, rows, spec_of

from preflab.data.asked import conversation
from preflab.errors import UserError
from preflab.eval.exports import alpaca_outputs
from preflab.eval.pipeline.judging import ByAnswers
from preflab.eval.subjects import Ground, open_subject

TEMPLATE = (
    "{% for m in messages %}{{ {'user': 'word1', 'assistant': 'word2', 'system': 'word3'}[m['role']] }} "
    "{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}word2 {% endif %}"
)


@pytest.fixture(scope="module")
def ground(tmp_path_factory, tiny_model_path):
    folder = tmp_path_factory.mktemp("chat")
    (folder / "chat.jinja").write_text(TEMPLATE)
    asked = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    options = {"chat_template": str(folder / "chat.jinja"), "system": "word9"}
    experiment = open_experiment(folder / "pairs.jsonl", tiny_model_path, folder / "run", **options)
    return Ground(experiment, CONFIG, judge=spec_of(lambda roles: lambda batch, prompts, texts: [[1.0]] * len(prompts)))


@pytest.fixture(scope="module")
def samples(ground, tiny_model_path):
    return open_subject(str(tiny_model_path)).evaluate(ground, "own").samples


def test_records_hold_the_messages_and_readers_see_them(samples):
    for row in samples:
        words = row["messages"][1]["content"]
        assert row["prompt"] == f"word3 word9</s>word1 {words}</s>word2 "
        assert conversation(row["prompt"], row["messages"]) == f"System: word9\n\nUser: {words}"
        assert "</s>" not in row["response"]
    assert alpaca_outputs(samples, "g", "d")[0]["instruction"].startswith("System: word9\n\nUser: word")


def test_judges_that_compare_read_what_was_said(samples):
    class Asked:
        name, sees_position = "asked", False

        def prefer(self, prompts, first, second):
            self.prompts = prompts
            return [1.0] * len(prompts)

        def report(self):
            return {}

    judge = Asked()
    one, other = (type("Records", (), {"samples": [{**row, "response": r} for row in samples]}) for r in "ab")
    ByAnswers(judge)(one, other)
    assert judge.prompts == [f"System: word9\n\nUser: {row['messages'][1]['content']}" for row in samples]


@pytest.mark.parametrize(
    "put",
    [
        lambda row: row["prompt"],
        lambda row: row["messages"],
        lambda row: row["messages"][1:],
        lambda row: row["messages"][1]["content"],
        lambda row: json.dumps(row["messages"]),
    ],
)
def test_a_file_may_put_a_prompt_in_many_ways(ground, samples, put, tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps({"prompt": put(row), "response": row["response"]}) + "\n" for row in samples))
    found = open_subject(str(file)).evaluate(ground, "file").samples
    assert [row["response"] for row in found] == [row["response"] for row in samples]


def test_answers_to_something_else_are_refused_by_what_was_asked(ground, tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"prompt": "word1", "response": "word2"}\n')
    with pytest.raises(UserError, match="0 of 6 evaluation prompts; first missing: 'word"):
        open_subject(str(file)).evaluate(ground, "file")
    file.write_text('{"prompt": [{"role": "x", "content": "y"}], "response": "word2"}\n')
    with pytest.raises(UserError, match="row 1: prompt holds no messages that can be read"):
        open_subject(str(file)).evaluate(ground, "file")
