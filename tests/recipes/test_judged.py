"""compare.py with judges that compare: an endpoint over HTTP, and people."""

from __future__ import annotations

import json

import pytest
from judge_server import KEY, Server, completion
from preference_files import write_rows
from recipe_runner import check_record, read, run, run_warm, stages

FEW = ["--baseline-draws", "1", "--oracle-samples", "0", "--output", "run"]


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def talkative(body):
    """Prefer whatever was shown first, and give the key away."""
    return completion(f"Your key is {KEY}.\nVERDICT: FIRST", model=f"judge-{KEY}")


def test_an_endpoint_judges_and_its_key_is_left_nowhere(copy, options, server, tmp_path):
    server.answer, trained = talkative, stages(copy)
    command = [*options, *FEW, "--judge", "endpoint", "--judge-url", server.url, "--judge-model", "judge"]
    command += ["--judge-key-variable", "MY_KEY", "--judge-cache", "cache"]
    command += ["--judge-prompt-price", "2", "--judge-completion-price", "10"]
    answer = run("compare.py", *command, cwd=tmp_path, MY_KEY=KEY, NO_PROXY="127.0.0.1")
    assert answer.status == 0, answer.err
    check_record(copy / "comparison.json")
    comparison = read(copy / "comparison.json")
    judge, asked = comparison["judge"], len(server.requests)
    assert (judge["kind"], judge["report"]["answers"], judge["report"]["requests"]) == ("compares", asked, asked)
    assert judge["report"]["cost"] == pytest.approx(asked * (100 * 2 + 20 * 10) / 1e6)
    assert (judge["report"]["shown_first"], judge["report"]["inconsistent"]) == (1.0, 1.0)
    # Whoever always says "first" says nothing: both orders contradict each other, on every pair.
    assert {pair["verdict"] for pair in comparison["pairwise"]} == {"none"}
    assert {pair["ties"]["mean"] for pair in comparison["pairwise"]} == {1.0}
    assert "preferred the answer shown first with 100 %" in " ".join(answer.out.split())
    assert "preferred the answer shown first" in (copy / "report" / "report.html").read_text()

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"comparison.json", "report.html", "manifest.json"} <= {path.name for path in files}
    assert any(path.is_relative_to(tmp_path / "cache") for path in files)
    assert [headers["Authorization"] for _, headers, _ in server.requests] == [f"Bearer {KEY}"] * asked
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in answer.out + answer.err
    assert trained.items() <= stages(copy).items()  # the judge of texts trains and samples nothing anew


def samples_of(run):
    """What the two methods of the finished run answered, prompt by prompt."""
    names = ("dpo-seed0", "ppo-seed0")
    files = [next(run.glob(f"stages/eval-{name}-*")) / "samples.jsonl" for name in names]
    return zip(*([json.loads(line) for line in path.open()] for path in files), strict=True)


def test_people_judge_what_was_sampled(copy, options, tmp_path):
    verdicts = [
        {"prompt": a["prompt"], "first": a["response"], "second": b["response"], "verdict": "first", "annotator": "me"}
        for a, b in samples_of(copy)
        if a["response"] != b["response"]
    ]
    write_rows(tmp_path / "verdicts.jsonl", verdicts)
    answer = run_warm("compare.py", *options, *FEW, "--judge", "verdicts.jsonl", cwd=tmp_path)
    assert answer.status == 0, answer.err
    comparison = read(copy / "comparison.json")
    pair = next(pair for pair in comparison["pairwise"] if (pair["first"], pair["second"]) == ("dpo", "ppo"))
    assert (pair["verdict"], pair["measure"]) == ("first", "win_rate")
    assert pair["wins"]["mean"] * pair["wins"]["n"] == pytest.approx(len(verdicts))
    assert pair["losses"]["mean"] == 0.0
    assert comparison["headline"].startswith("Of these trained models, one training seed each: dpo is better than ppo")
    assert comparison["judge"]["report"]["missing"] > 0
    assert "had no answer and are left out" in " ".join(answer.out.split())


def test_a_judge_is_held_against_people_and_corrected_by_them(copy, options, tmp_path):
    """People say of 12 answers the contrary of what the judge, a reward model, says of them, and of one more."""
    rows = [(a, b) for a, b in samples_of(copy) if a["response"] != b["response"] and a["gold"] != b["gold"]][:12]
    assert len(rows) == 12
    verdicts = [
        {
            **{"prompt": a["prompt"], "first": b["response"], "second": a["response"]},
            "verdict": "first" if a["gold"] > b["gold"] else "second",
        }
        for a, b in rows
    ]
    write_rows(tmp_path / "few.jsonl", [*verdicts, {**verdicts[0], "first": "said by nobody"}])
    before = read(copy / "comparison.json")
    answer = run_warm("compare.py", *options, "--output", "run", "--human-verdicts", "few.jsonl", cwd=tmp_path)
    assert answer.status == 0, answer.err
    check_record(copy / "comparison.json")
    comparison, said = read(copy / "comparison.json"), " ".join(answer.out.split())
    assert comparison["pairwise"] == before["pairwise"], "the judge still decides"
    humans = comparison["humans"]
    assert (humans["verdicts"], humans["unmatched"]) == (13, 1)
    assert humans["agreement"]["n"] == sum(pair["verdicts"] for pair in humans["pairs"])
    assert humans["agreement"]["mean"] == 0.0
    assert humans["kappa"]["mean"] < -0.5
    # The start may have given one of the same answers.
    pair = next(pair for pair in humans["pairs"] if (pair["first"], pair["second"]) == ("dpo", "ppo"))
    assert (pair["verdicts"], pair["seeds"], pair["of_seeds"]) == (12, 1, 1)
    assert pair["weight"] == 0.0, "a judge that people contradict counts for nothing"
    # With nothing but people's verdicts, and equal answers as ties.
    of = [(a["response"].strip() == b["response"].strip()) for a, b in samples_of(copy)]
    share = sum(row["verdict"] == "second" for row in verdicts) / 12
    assert pair["corrected"]["mean"] == pytest.approx((sum(of) / 2 + (len(of) - sum(of)) * share) / len(of))
    assert "The judge agrees with people on 0.0 %" in said
    assert "1 of the 13 pairs in human verdicts (few.jsonl) are no answers of two methods here" in said
    assert "dpo against ppo, win rate:" in (copy / "report" / "report.html").read_text()
    # A reward model judges by pairs of its own, and says how far it agrees with the others' labels.
    labels = comparison["judge"]["heldout_accuracy"]
    assert 0.0 <= labels["mean"] <= 1.0
    assert labels["n"] == 16
    assert f"The judge agrees with the labels of {100 * labels['mean']:.1f} %" in said


def test_what_is_no_verdict_is_answered_before_anything_is_trained(options, tmp_path):
    write_rows(tmp_path / "bad.jsonl", [{"prompt": "p", "first": "a", "second": "b", "verdict": "left"}])
    answer = run_warm("compare.py", *options, "--output", "new", "--human-verdicts", "bad.jsonl", cwd=tmp_path)
    assert answer.status == 2
    assert "bad.jsonl, row 1: verdict 'left'" in answer.err
    assert not (tmp_path / "new").exists()


def test_verdicts_that_correct_nobody_are_answered_before_anything_is_trained(options, tmp_path):
    write_rows(tmp_path / "few.jsonl", [{"prompt": "p", "first": "a", "second": "b", "verdict": "first"}])
    asked = ["--output", "new", "--human-verdicts", "few.jsonl", "--gold-fraction", "0"]
    answer = run_warm("compare.py", *options, *asked, cwd=tmp_path)
    assert answer.status == 2
    assert "nobody judges here: give their file as --judge" in answer.err
    assert not list((tmp_path / "new").glob("stages/*"))
