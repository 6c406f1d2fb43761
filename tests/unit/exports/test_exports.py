"""What leaves the suite as files: the formats, and the command that writes them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from preflab.data.formats import preference_rows
from preflab.data.reading import read_rows
from preflab.errors import UserError
from preflab.eval.exports import (
    alpaca_annotations,
    alpaca_outputs,
    rewardbench_pairs,
    rewardbench_scores,
    trl_pairs,
)
from preflab.eval.exports.command import main
from preflab.eval.exports.pairs import pairs_of

ODD = 'a\u2028b "quoted" \\ 日本 <script>\n'
SAMPLES = [
    {"prompt": "Say hello.", "response": "Hello!", "length": 2, "gold": None},
    {"prompt": ODD, "response": "", "length": 0, "gold": 1.0},
]
PAIRS = [
    {"prompt": "Q1", "chosen": "good", "rejected": "bad", "subset": "chat"},
    {"prompt": "Q2", "chosen": ODD, "rejected": "bad"},
    {"prompt": "Q3", "chosen": "fine", "rejected": "poor", "subset": "safety"},
]
PREFERENCES = [
    {"row": 2, "subset": "safety", "chosen_score": 1.5, "rejected_score": -0.25, "chosen_logp": None},
    {"row": 0, "subset": None, "chosen_score": 0, "rejected_score": 0},
]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["preflab export", *map(str, arguments)])
    main()


# ---- formats -----------------------------------------------------------------------------------------


def test_alpaca_outputs():
    assert alpaca_outputs(SAMPLES, "dpo", "reviews") == [
        {"instruction": "Say hello.", "output": "Hello!", "generator": "dpo", "dataset": "reviews"},
        {"instruction": ODD, "output": "", "generator": "dpo", "dataset": "reviews"},
    ]


def dialogue(prompt, answer):
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def test_rewardbench_pairs_are_whole_dialogues():
    found = rewardbench_pairs(pairs_of(enumerate(PAIRS, 1)))
    assert [list(row) for row in found] == [["id", "prompt", "chosen", "rejected", "subset"]] * 3
    assert [row["subset"] for row in found] == ["chat", "all", "safety"]
    assert found[1]["prompt"] == "Q2"
    assert found[1]["chosen"] == dialogue("Q2", ODD.strip())
    assert found[1]["rejected"] == dialogue("Q2", "bad")
    human = {"prompt": "\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant:", "chosen": " D", "rejected": " E"}
    (row,) = rewardbench_pairs(pairs_of([(7, human)]))
    assert row["id"] == 7
    assert row["chosen"] == [*dialogue("A", "B"), *dialogue("C", "D")]


def test_what_rewardbench_would_give_other_roles_is_left_out(caplog):
    system = {"role": "system", "content": "Be kind."}
    user, assistant = dialogue("Q", "A")
    rows = [
        {"prompt": [system, user], "chosen": [assistant], "rejected": "no"},
        {"prompt": [user, user], "chosen": [assistant], "rejected": "no"},
        {"prompt": [user, assistant], "chosen": " more", "rejected": " less"},
        {"prompt": [user], "chosen": [assistant], "rejected": "no", "system": "Be kind."},
        {"prompt": [user], "chosen": [assistant], "rejected": "no"},
    ]
    found = rewardbench_pairs(pairs_of(enumerate(rows, 1)), "pairs.jsonl")
    assert [row["id"] for row in found] == [5]
    assert "pairs.jsonl: 4 of 5 rows are left out" in caplog.text
    assert "a system prompt, for which RewardBench has no place" in caplog.text
    assert "2 (rows 2, 3)" in caplog.text
    with pytest.raises(UserError, match="no pair to export: a system prompt"):
        rewardbench_pairs(pairs_of([(1, rows[0])]))


def test_trl_pairs_are_all_text_or_all_messages():
    texts = pairs_of(enumerate(PAIRS, 1))
    assert trl_pairs(texts)[0] == {"prompt": "Q1", "chosen": "good", "rejected": "bad"}
    user, assistant = dialogue("Q", "A")
    rows = [*PAIRS[:1], {"prompt": [user], "chosen": [{**assistant, "id": 3}], "rejected": [*dialogue("Q", "B")]}]
    found = trl_pairs(pairs_of(enumerate(rows, 1)))
    assert found[0] == {
        "prompt": dialogue("Q1", "")[:1], "chosen": dialogue("", "good")[1:], "rejected": dialogue("", "bad")[1:]
    }  # fmt: skip
    assert found[1] == {"prompt": [user], "chosen": [assistant], "rejected": dialogue("", "B")[1:]}


def test_pairs_of_any_layout_and_what_is_none(caplog):
    rows = [
        {"question": "Q", "chosen": "a", "rejected": "b"},
        {"prompt": "Q", "responses": ["b", "c", "a"], "rank": [1, 2, 0]},
        {"prompt": "Q", "chosen": "b", "rejected": "a", "preference": 0.25, "source": "s"},
        {"prompt": "Q", "chosen": "a", "rejected": "b", "preference": 0.5},
        {"prompt": "Q", "completion": "a", "label": True},
        {"prompt": "Q", "chosen": "a", "rejected": "b", "tools": [{"name": "f"}]},
        {"prompt": "Q", "chosen": "a", "rejected": "b", "system": "S"},
        {"chosen": "a"},
    ]
    found = pairs_of(enumerate(rows, 1), "x")
    assert trl_pairs(found[:1]) == [{"prompt": dialogue("Q", "")[:1], "chosen": dialogue("", "a")[1:],
                                     "rejected": dialogue("", "b")[1:]}]  # fmt: skip
    assert [(pair.number, pair.prompt, pair.chosen, pair.rejected, pair.subset) for pair in found[1:]] == [
        (2, "Q", "a", "c", None),
        (3, "Q", "a", "b", "s"),
        (7, "S\n\nQ", "a", "b", None),
    ]
    assert "x: 4 of 8 rows are left out" in caplog.text
    for what in (
        "neither response is preferred",
        "one response, which is no pair",
        "tools",
        "missing field 'rejected'",
    ):
        assert what in caplog.text


def test_annotations_are_the_judges_games_by_prompt():
    reference = [
        {"prompt": ODD, "response": "x", "gold": 1.0},
        {"prompt": "Say hello.", "response": "Hi.", "gold": 2.0},
        {"prompt": "C", "response": "no", "gold": 0.0},
    ]
    samples = [{**SAMPLES[0], "gold": 1.5}, SAMPLES[1], {"prompt": "C", "response": "yes", "gold": 0.5}]
    found = alpaca_annotations(samples, reference, "dpo", "sft")
    assert [row["preference"] for row in found] == [1.0, 1.5, 2.0]
    assert found[0] == {
        "instruction": "Say hello.",
        "output_1": "Hi.",
        "generator_1": "sft",
        "output_2": "Hello!",
        "generator_2": "dpo",
        "annotator": "preflab",
        "preference": 1.0,
    }


def test_rewardbench_scores():
    assert rewardbench_scores(PREFERENCES) == [
        {"id": 2, "subset": "safety", "chosen": 1.5, "rejected": -0.25},
        {"id": 0, "subset": "all", "chosen": 0, "rejected": 0},
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alpaca_outputs([SAMPLES[0], {"prompt": "x"}], "g", "d"), "row 2: 'response' is missing"),
        (lambda: alpaca_outputs([{"prompt": ["x"], "response": ""}], "g", "d"), "row 1: 'prompt' is of type list"),
        (lambda: pairs_of([(1, {"prompt": "x", "chosen": "y"})]), "missing field 'rejected': 1 (row 1)"),
        (lambda: alpaca_annotations(SAMPLES, SAMPLES, "a", "a"), "both called 'a'"),
        (lambda: alpaca_annotations(SAMPLES, SAMPLES[:1], "a", "b"), "answered other prompts (2 and 1, 1 of"),
        (lambda: alpaca_annotations(SAMPLES[1:], SAMPLES[:1], "a", "b"), "answered other prompts (1 and 1, 1 of"),
        (lambda: alpaca_annotations(SAMPLES, SAMPLES, "a", "b"), "gold of row 0 (training seed 0) is missing"),
        (lambda: rewardbench_scores([{"row": 0, "chosen_score": 1.0}]), "no row has 'rejected_score'"),
        (lambda: rewardbench_scores([{"row": 0.5, "chosen_score": 1.0, "rejected_score": 0.0}]), "'row' is 0.5"),
        (
            lambda: rewardbench_scores([{"row": 0, "chosen_score": float("nan"), "rejected_score": 0.0}]),
            "chosen_score of row 0 (training seed 0) is nan",
        ),
    ],
    ids=["missing", "type", "pair", "names", "fewer", "others", "gold", "score", "index", "nan"],
)
def test_rows_that_do_not_fit_are_a_users_error(call, message):
    with pytest.raises(UserError, match=re.escape(message)):
        call()


# ---- the command line --------------------------------------------------------------------------------


def test_an_evaluations_folder_in_both_formats(tmp_path, monkeypatch, capsys):
    write_lines(tmp_path / "samples.jsonl", SAMPLES)
    write_lines(tmp_path / "preferences.jsonl", PREFERENCES)
    alpaca, scores = tmp_path / "model_outputs.json", tmp_path / "scores.jsonl"
    run(monkeypatch, tmp_path, "--alpaca", alpaca, "--scores", scores, "--generator", "dpo", "--dataset", "reviews")
    assert json.loads(alpaca.read_text()) == alpaca_outputs(SAMPLES, "dpo", "reviews")
    lines = scores.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines if line] == rewardbench_scores(PREFERENCES)
    assert "2 rows written to" in capsys.readouterr().out


def test_exported_pairs_are_read_back_as_preferences(tmp_path, monkeypatch):
    """RewardBench's format is one of those that `--dataset` takes."""
    out = tmp_path / "rewardbench.jsonl"
    run(monkeypatch, write_lines(tmp_path / "pairs.jsonl", PAIRS), "--rewardbench", out)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line]
    assert rows == rewardbench_pairs(pairs_of(enumerate(PAIRS, 1)))
    back, _ = preference_rows(read_rows(str(out)), bad_rows="refuse")
    for before, after in zip(PAIRS, back, strict=True):
        assert after["prompt"] == f"Human: {before['prompt']}\n\nAssistant:"
        assert [after[name].strip() for name in ("chosen", "rejected")] == [
            before[name].strip() for name in ("chosen", "rejected")
        ]
        assert after["subset"] == before.get("subset", "all")


def test_a_failed_export_leaves_the_old_file(tmp_path, monkeypatch):
    out = tmp_path / "model_outputs.json"
    out.write_text("old")
    bad = write_lines(tmp_path / "samples.jsonl", [*SAMPLES, {"prompt": "x"}])
    with pytest.raises(UserError):
        run(monkeypatch, bad, "--alpaca", out)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_outputs.json", "samples.jsonl"]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, ["--alpaca", "o.json"], "does not exist"),
        ("", ["--alpaca", "o.json"], "has no rows"),
        ('{"prompt": "x", "response": "y"}\nnonsense\n', ["--alpaca", "o.json"], "row 2 is no JSON object"),
        ('{"prompt": "x"}\n', ["--alpaca", "o.json"], "'response' is missing"),
        ('{"prompt": "x", "response": "y"}\n', ["--alpaca", "no/such/folder/o.json"], "cannot be written"),
        ('{"prompt": "x", "response": "y"}\n', [], "nothing to write"),
        ('{"prompt": "x", "response": "y"}\n', ["--annotations", "o.json"], "--annotations needs --against"),
        ('{"prompt": "x", "response": "y"}\n', ["--alpaca", "o.json", "--model", "m"], "--model goes with"),
        ('{"prompt": "x", "chosen": "y", "rejected": "z"}\n', ["--lm-eval", "t"], "--lm-eval needs --model"),
        ('{"prompt": "x", "chosen": "y"}\n', ["--trl", "o.json"], "has no pair to export: missing field 'rejected'"),
    ],
    ids=["absent", "empty", "not-json", "missing", "folder", "nothing", "against", "model", "lm-eval", "pair"],
)
def test_wrong_input_is_answered_with_status_2(tmp_path, content, arguments, message):
    if content is not None:
        (tmp_path / "rows.jsonl").write_text(content)
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "preflab", "export", str(tmp_path / "rows.jsonl")]
    arguments = [str(tmp_path / a) if a.endswith(".json") else a for a in arguments]
    done = subprocess.run([*command, *arguments], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error:")
    assert done.stderr.count("\n") == 1


def test_start_up_is_light():
    code = "import sys, preflab.eval.exports.command, preflab.eval.comparison.budgets\n"
    code += "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_two_answers_to_one_prompt_and_pairs_without_a_number_are_refused():
    rows = [{"prompt": "A", "response": "1"}, {"prompt": "a", "response": "2"}]
    assert len(alpaca_outputs(rows, "m", "d")) == 2
    with pytest.raises(UserError, match=r"rows 1 and 3 .* 'A'"):
        alpaca_outputs([*rows, {"prompt": "A", "response": "3"}], "m", "d")
    score = {"chosen_score": 1.0, "rejected_score": 0.0}
    for row in (1.5, True, "1"):
        with pytest.raises(UserError, match="'row'"):
            rewardbench_scores([{"row": row, **score}])
