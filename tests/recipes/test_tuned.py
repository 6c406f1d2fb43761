"""`--tune`: settings found on prompts set aside, the same number of trials for every method, then fresh seeds."""

import json

import pytest
from recipe_runner import run_warm

TUNED = ["--algorithms", "dpo,ppo", "--validation-fraction", "0.4", "--interpolate", "1"]


def read(path):
    return json.loads(path.read_text())


def prompts(run, name):
    rows = (next(run.glob(f"stages/eval-{name}-*")) / "samples.jsonl").open()
    return {json.loads(row)["prompt"] for row in rows}


@pytest.fixture(scope="module")
def tuned(options, tmp_path_factory):
    """A comparison after three trials of each method, and the options that it was made by."""
    folder = tmp_path_factory.mktemp("tuned")
    answer = run_warm("compare.py", *options, "--output", "run", *TUNED, "--tune", "3", cwd=folder)
    assert answer.status == 0, answer.err
    return folder, answer


def test_every_method_is_tried_as_often_and_the_best_trial_is_compared(tuned):
    folder, answer = tuned
    comparison = read(folder / "run" / "comparison.json")
    assert set(comparison["tuning"]) == {"dpo", "ppo"}
    for name, strength in (("dpo", "beta"), ("ppo", "kl_coefficient")):
        found = comparison["tuning"][name]
        trials, settings = found["trials"], comparison["methods"][name]["settings"]
        assert [trial["number"] for trial in trials] == [0, 1, 2]
        assert all(set(trial["settings"]) == {"learning_rate", strength} for trial in trials)
        assert len({json.dumps(trial["settings"]) for trial in trials}) == 3
        best = max(trials, key=lambda trial: trial["objective"])
        assert found["chosen"] == best["number"]
        assert {key: settings[key] for key in best["settings"]} == pytest.approx(best["settings"])
        assert comparison["methods"][name]["settings_tried"] == 3
        assert comparison["budgets"]["charged"][name]["flops"]["alone"] > sum(trial["flops"] for trial in trials)
        assert "tuning" in comparison["budgets"]["stands_on"][name]
    assert "3 trials each" in answer.out
    assert len(list((folder / "run" / "tuning").glob("*.jsonl"))) == 2


def test_no_trial_sees_a_test_prompt_or_a_compared_seed(tuned):
    run = tuned[0] / "run"
    tested, tried = prompts(run, "dpo-seed0"), prompts(run, "tune-dpo-0")
    assert len(tried) >= 2
    assert not tried & tested
    assert tried == prompts(run, "tune-ppo-2")
    seeds = {
        path.name.split("-")[1]: read(path / "stage.json")["inputs"]["seed"] for path in run.glob("stages/dpo-seed0-*")
    }
    trials = [read(path / "stage.json")["inputs"]["seed"] for path in run.glob("stages/tune-*")]
    assert set(seeds.values()) == {0}
    assert set(trials) == {1_000_003}


def test_trials_are_found_again_and_more_can_be_asked_for(tuned, options):
    folder, answer = tuned
    before = {path.name for path in (folder / "run" / "stages").glob("tune-*")}
    again = run_warm("compare.py", *options, "--output", "run", *TUNED, "--tune", "3", cwd=folder)
    assert again.out == answer.out
    more = run_warm("compare.py", *options, "--output", "run", *TUNED, "--tune", "4", cwd=folder)
    assert more.status == 0, more.err
    after = {path.name for path in (folder / "run" / "stages").glob("tune-*")}
    assert before < after
    assert len(after - before) == 2
    trials = read(folder / "run" / "comparison.json")["tuning"]["ppo"]["trials"]
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]


def test_a_kill_between_trial_and_study_changes_nothing(tuned, options):
    folder, _ = tuned
    before = read(folder / "run" / "comparison.json")["tuning"]
    for journal in (folder / "run" / "tuning").glob("*.jsonl"):
        kept = journal.read_text().splitlines(keepends=True)
        journal.write_text("".join(kept[: len(kept) // 2]))
    again = run_warm("compare.py", *options, "--output", "run", *TUNED, "--tune", "4", cwd=folder)
    assert again.status == 0, again.err
    assert read(folder / "run" / "comparison.json")["tuning"] == before


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--tune", "1"], "take 2 or more"),
        (["--tune", "2", "--validation-fraction", "0"], "--tune looks at training rows set aside"),
        (["--tune", "2", "--seeds", "1000003"], "is that of the trials"),
        (["--tune", "2", "--sweep", "beta=0.1,1"], "keep one of the two"),
    ],
)
def test_what_cannot_be_tuned_is_refused_at_once(wrong, said, options, tmp_path):
    answer = run_warm("compare.py", *options, "--output", "new", "--algorithms", "dpo", *wrong, cwd=tmp_path)
    assert answer.status == 2
    assert said in answer.err
