"""The terminal annotator: blind, durable, harmless; what it writes is a judge and a preference data set."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from preflab.data.formats import preference_rows
from preflab.data.reading import read_rows
from preflab.disk.journal import Journal
from preflab.errors import UserError
from preflab.eval.judges import HumanVerdicts

RECIPE = Path(__file__).parents[3] / "recipes" / "annotate.py"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def folder(tmp_path):
    """Two models' samples: eight prompts that differ, and one that both answer alike."""
    for name in ("sft", "ppo"):
        rows = [{"prompt": f"prompt {i}:", "response": f"{name}-{i}", "gold": 0.5} for i in range(8)]
        write(tmp_path / f"{name}.jsonl", [*rows, {"prompt": "prompt 8:", "response": "the same"}])
    return tmp_path


def annotate(folder, keys, *options, status=0, samples="sft=sft.jsonl,ppo=ppo.jsonl"):
    """Run the recipe with these keys on its input; return what it printed."""
    command = [sys.executable, str(RECIPE), *(["--samples", samples] if samples else []), *options]
    answers = "".join(key + "\n" for key in keys)
    done = subprocess.run(command, input=answers, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def shown(out):
    """Return, for each question, the responses in places 1 and 2."""
    return [tuple(re.findall(r"(?:sft|ppo)-\d", part)) for part in out.split("judged ─")[1:]]


def test_an_export_that_cannot_be_written_is_answered(folder):
    annotate(folder, ["1"] * 8)
    judged = (folder / "verdicts.jsonl").read_bytes()
    err = annotate(folder, [], "--export", "absent/out.jsonl", samples="", status=2)
    assert "--export absent/out.jsonl cannot be written" in err
    for samples in ("", "sft=sft.jsonl,ppo=./verdicts.jsonl"):
        err = annotate(folder, [], "--export", "verdicts.jsonl", samples=samples, status=2)
        assert "would overwrite what is read" in err
    assert "would overwrite" in annotate(folder, [], "--export", "./sft.jsonl", status=2)
    assert (folder / "verdicts.jsonl").read_bytes() == judged


# ---- verdicts ----------------------------------------------------------------------------------------


def test_a_verdict_is_for_the_response_that_stood_there(folder):
    keys = ["1", "2", "t", "1", "2", "TIE", " 1 ", "2"]
    out = annotate(folder, keys)
    asked, rows = shown(out), lines(folder / "verdicts.jsonl")
    assert len(asked) == len(rows) == 8
    for (left, right), key, row in zip(asked, keys, rows, strict=True):
        winner = {"1": left, "2": right}.get(key.strip())
        assert (row["first"], row["second"]) == (f"sft-{left[-1]}", f"ppo-{left[-1]}")
        assert row["verdict"] == ("tie" if winner is None else "first" if winner == row["first"] else "second")
        assert row[row["shown"]["1"]] == left
        assert row[row["shown"]["2"]] == right
        assert row["models"] == {"first": "sft", "second": "ppo"}
        assert row["annotator"] == "human"
    assert {left[:3] for left, _ in asked} == {"sft", "ppo"}, "places are drawn by chance"
    assert [left[-1] for left, _ in asked] != sorted(left[-1] for left, _ in asked), "so is the order"
    assert "8 of 8 pairs are judged" in out


def test_the_annotator_sees_no_names(folder):
    for name in ("sft", "ppo"):
        text = (folder / f"{name}.jsonl").read_text().replace(f"{name}-", "answer-" + name[0])
        (folder / f"{name}.jsonl").write_text(text)
    out = annotate(folder, ["1"] * 8)
    assert "answer-s" in out
    assert "sft" not in out
    assert "ppo" not in out


def test_the_seed_decides_order_and_places(folder):
    whole = [shown(annotate(folder, ["s"] * 8, "--seed", seed, "--output", "x")) for seed in ("0", "0", "1")]
    assert whole[0] == whole[1]
    assert [pair[0][-1] for pair in whole[0]] != [pair[0][-1] for pair in whole[2]], "another order"
    assert set(whole[0]) != set(whole[2]), "other places"
    assert sorted(map(sorted, whole[0])) == sorted(map(sorted, whole[2])), "the same pairs"


def test_judged_pairs_are_not_asked_for_again(folder):
    whole = shown(annotate(folder, ["1"] * 8, "--output", "whole.jsonl"))
    first = annotate(folder, ["1"] * 3)  # the input ends
    assert "3 of 8 pairs are judged" in first
    second = annotate(folder, ["1", "1", "q"])
    assert second.startswith("3 of 8 pairs are judged")
    third = annotate(folder, ["1"] * 3)
    assert shown(first)[:3] + shown(second)[:2] + shown(third) == whole
    assert lines(folder / "verdicts.jsonl") == lines(folder / "whole.jsonl")
    assert shown(annotate(folder, [])) == []
    assert len(lines(folder / "verdicts.jsonl")) == 8


def test_turned_about_the_pair_is_the_same(folder):
    annotate(folder, ["1"] * 8)
    assert shown(annotate(folder, [], samples="ppo=ppo.jsonl,sft=sft.jsonl")) == []


def test_another_annotator_judges_the_same_pairs(folder):
    annotate(folder, ["1"] * 8)
    assert "0 of 8" in annotate(folder, ["2"] * 8, "--annotator", "Ada")
    judge = HumanVerdicts(folder / "verdicts.jsonl")
    assert judge.report()["agreement"]["pairs"] == 8
    said = annotate(folder, [], "--agreement", samples=None)
    assert said.startswith("Of 8 pairs that two or more of 2 annotators judged, two of them agree on ")


def test_undo_takes_the_last_verdict_or_skip_back(folder):
    out = annotate(folder, ["u", "1", "2", "u", "s", "u", "t", "s", "1", "u", "u", "1", "q"])
    pairs = shown(out)
    order = list(dict.fromkeys(pairs))
    #       u  1  2  u  s  u  t  s  1  u  u  1  q
    asked = [0, 0, 1, 2, 1, 2, 1, 2, 3, 4, 3, 2, 3]
    assert pairs == [order[i] for i in asked]
    rows = lines(folder / "verdicts.jsonl")
    verdicts = {row["first"]: row["verdict"] for row in rows}
    assert len(rows) == 3
    assert verdicts[f"sft-{order[1][0][-1]}"] == "tie"
    assert {key[-1] for key in verdicts} == {order[i][0][-1] for i in (0, 1, 2)}
    assert "nothing to undo" in out
    assert "3 of 8 pairs are judged" in out.splitlines()[-1]


def test_skipped_pairs_come_back_next_time(folder):
    out = annotate(folder, ["s", *["1"] * 7])
    assert "7 of 8 pairs are judged" in out
    assert shown(annotate(folder, ["1"])) == shown(out)[:1]


def test_other_keys_are_asked_about(folder):
    out = annotate(folder, ["", "12", "x", "\x1b[A", "1", "quit"])
    assert out.count("type one key and Enter") == 4
    assert len(lines(folder / "verdicts.jsonl")) == 1


def test_a_limit_draws_pairs_by_the_seed(folder):
    out = annotate(folder, ["1"] * 9, "--limit", "3")
    assert "3 of 3 pairs are judged" in out
    assert len(shown(out)) == 3


# ---- durability --------------------------------------------------------------------------------------


def test_a_kill_loses_nothing(folder):
    command = [sys.executable, str(RECIPE), "--samples", "sft=sft.jsonl,ppo=ppo.jsonl"]
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for count in range(3):
        out = b""
        while not out.endswith(b"\n> "):
            byte = process.stdout.read(1)
            assert byte, "the annotator ended"
            out += byte
        # The next question is there, so the verdict before it must be.
        assert len(lines(folder / "verdicts.jsonl")) == count
        if count < 2:
            process.stdin.write(b"1\n")
            process.stdin.flush()
    process.kill()
    process.communicate()
    before = lines(folder / "verdicts.jsonl")
    assert annotate(folder, ["1"] * 6).startswith("2 of 8 pairs are judged")
    assert lines(folder / "verdicts.jsonl")[:2] == before
    assert len(lines(folder / "verdicts.jsonl")) == 8


def test_an_unfinished_row_is_dropped_and_an_unended_one_is_kept(tmp_path):
    path = tmp_path / "sub" / "rows.jsonl"
    journal = Journal(path)
    journal.append({"a": "é\u2028\ud800"})
    journal.append({"b": 2})
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + '{"c": "é'.encode()[:-1])
    journal = Journal(path)
    assert journal.rows == [{"a": "é\u2028\ud800"}, {"b": 2}]
    assert path.read_bytes() == whole
    journal.close()
    path.write_bytes(whole[:-1])
    journal = Journal(path)
    assert path.read_bytes() == whole
    assert journal.remove() == {"b": 2}
    journal.append({"d": 4})
    journal.close()
    assert Journal(path).rows == [{"a": "é\u2028\ud800"}, {"d": 4}]


@pytest.mark.parametrize("content", ["my notes", "my notes\n", "my notes\n{half", '{"a": 1}\nnotes'])
def test_a_file_of_something_else_is_left_alone(content, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(UserError, match="not a JSON object"):
        Journal(path)
    assert path.read_text() == content


def test_a_file_of_other_rows_is_left_alone(folder):
    before = (folder / "sft.jsonl").read_text()
    assert "row 1: 'first' is missing" in annotate(folder, ["1"], "--output", "sft.jsonl", status=2)
    assert (folder / "sft.jsonl").read_text() == before


def test_two_cannot_write_at_once(folder):
    with closing(Journal(folder / "verdicts.jsonl")):
        assert "is being written by another process" in annotate(folder, ["1"], status=2)


# ---- text --------------------------------------------------------------------------------------------


def test_responses_cannot_steer_the_terminal_or_pose_as_the_annotator(tmp_path):
    hostile = "nice\x1b]0;title\x07\x1b[2J\r\n╰─ 2 ─╮\n> 1\n[bold]x[/bold] \x9b31m\u202e" + "long " * 60
    for name, text in (("a", hostile), ("b", "plain")):
        write(tmp_path / f"{name}.jsonl", [{"prompt": "p\x1b[31m", "response": text}])
    out = annotate(tmp_path, ["1"], samples="a=a.jsonl,b=b.jsonl")
    assert not [c for c in out if not c.isprintable() and c != "\n"]
    assert "\\x1b[2J" in out
    assert "[bold]x[/bold]" in out
    framed = [line for line in out.splitlines()[:-1] if "2 ─╮" in line or "> 1" in line or "long" in line]
    assert len(framed) > 3
    assert all(line.startswith("│") and line.endswith("│") for line in framed)
    assert lines(tmp_path / "verdicts.jsonl")[0]["first"] == hostile, "written down as it is"


def test_a_terminal_without_unicode_shows_escapes(tmp_path):
    write(tmp_path / "p.jsonl", [{"prompt": "é", "chosen": "日本", "rejected": "b"}])
    command = [sys.executable, str(RECIPE), "--pairs", "p.jsonl"]
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, input=b"\xff\n1\n", cwd=tmp_path, capture_output=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"\\u65e5\\u672c" in done.stdout
    assert len(lines(tmp_path / "verdicts.jsonl")) == 1


# ---- what becomes of the verdicts --------------------------------------------------------------------


def test_verdicts_are_a_judge_and_a_preference_data_set(folder):
    out = annotate(folder, ["1", "2", "t", "1", "2", "t", "1"], "--export", "preferences.jsonl")
    assert "5 preferences written to preferences.jsonl; 2 ties left out" in out
    rows, bad = preference_rows(read_rows(str(folder / "preferences.jsonl")))
    assert bad.total == 0
    judge = HumanVerdicts(folder / "verdicts.jsonl")
    answers = judge.prefer(*zip(*((row["prompt"], row["chosen"], row["rejected"]) for row in rows), strict=True))
    assert answers == [1.0] * 5
    assert judge.prefer(["prompt 8:"], ["the same"], ["other"]) == [None]
    before = (folder / "preferences.jsonl").read_text()
    assert "5 preferences" in annotate(folder, [], "--export", "preferences.jsonl", samples=None)
    assert (folder / "preferences.jsonl").read_text() == before


def test_a_preference_file_is_judged_afresh(tmp_path):
    rows = [{"prompt": f"p{i}:", "chosen": f" good {i}", "rejected": f" bad {i}"} for i in range(6)]
    write(tmp_path / "pairs.jsonl", [*rows, {"prompt": "x"}, rows[0]])
    out = annotate(tmp_path, ["1"] * 9, "--pairs", "pairs.jsonl", "--export", "new.jsonl", samples=None)
    assert "6 of 6 pairs are judged" in out
    found = lines(tmp_path / "verdicts.jsonl")
    assert {row["verdict"] for row in found} == {"first", "second"}
    assert {(row["prompt"], row["first"], row["second"]) for row in found} == {
        (row["prompt"], row["chosen"], row["rejected"]) for row in rows
    }, "texts to the last blank"
    assert "models" not in found[0]
    assert len(lines(tmp_path / "new.jsonl")) == 6


# ---- mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "samples", "message"),
    [
        ((), None, "give either samples or pairs"),
        (("--pairs", "sft.jsonl"), "sft=sft.jsonl,ppo=ppo.jsonl", "give either samples or pairs"),
        ((), "sft=sft.jsonl", "needs the form first=FILE,second=FILE"),
        ((), "sft.jsonl,ppo.jsonl", "needs the form first=FILE,second=FILE"),
        ((), "sft=sft.jsonl,ppo=absent.jsonl", "absent.jsonl cannot be read"),
        ((), "sft=sft.jsonl,ppo=short.jsonl", "sft.jsonl has 9 rows, short.jsonl has 1"),
        ((), "sft=sft.jsonl,ppo=other.jsonl", "row 1 answers another prompt in other.jsonl"),
        ((), "sft=sft.jsonl,ppo=empty.jsonl", "row 1: needs 'prompt' and 'response'"),
        ((), "sft=sft.jsonl,ppo=sft.jsonl", "no two responses differ"),
        (("--export", "p.jsonl"), None, "verdicts.jsonl cannot be read"),
        (("--output", "sft.jsonl/x"), "sft=sft.jsonl,ppo=ppo.jsonl", "cannot be written"),
        (("--annotator", "a\u202eb"), "sft=sft.jsonl,ppo=ppo.jsonl", "a name is one line of characters"),
        (("--limit", "0"), "sft=sft.jsonl,ppo=ppo.jsonl", "limit is 0"),
    ],
    ids=lambda value: None if isinstance(value, tuple) else "".join(c for c in str(value) if c.isalnum())[:24],
)
def test_mistakes_are_answered_in_one_line(options, samples, message, folder):
    write(folder / "short.jsonl", [{"prompt": "prompt 0:", "response": "x"}])
    write(folder / "other.jsonl", [{"prompt": f"question {i}", "response": "x"} for i in range(9)])
    write(folder / "empty.jsonl", [{"prompt": f"prompt {i}:"} for i in range(9)])
    error = annotate(folder, ["1"], *options, samples=samples, status=2)
    assert message in error
    assert error.count("\n") == 1


def test_it_imports_no_torch(folder):
    heavy = ("torch", "transformers", "datasets", "httpx2")
    code = (
        "import runpy, sys; sys.argv = ['annotate.py', '--samples', 'sft=sft.jsonl,ppo=ppo.jsonl'];"
        f"runpy.run_path({str(RECIPE)!r}, run_name='__main__');"
        f"print('heavy', [name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], input="1\nq\n", cwd=folder, capture_output=True, text=True)
    assert done.stdout.endswith("heavy []\n"), done.stderr
