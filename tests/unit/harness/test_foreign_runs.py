"""Run folders from elsewhere are data: nothing in them is run, followed out of the folder, or believed unread."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from preflab.disk.seals import SUMS, seal
from preflab.errors import UserError
from preflab.eval.pipeline.evaluating import check_methods, named_subjects
from preflab.eval.subjects import PolicySubject, open_subject, open_subjects
from preflab.eval.subjects.kinds import _responses
from preflab.model.adapter_config import CONFIG, WEIGHTS

KEYS = {"sft": "0123456789ab", "reward": "ba9876543210"}


def stage(run, name, key, role="policy", **inputs):
    folder = run / "stages" / f"{name}-{key}"
    (folder / role).mkdir(parents=True)
    (folder / role / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
    (folder / role / WEIGHTS).write_bytes(b"weights")
    given = {"method": "dpo", "config": {}, "sft": None, "reward": None, **inputs}
    (folder / "stage.json").write_text(json.dumps({"inputs": given, "record": {}}))
    return folder


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """Code that must not run, where Python would find it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    return tmp_path


@pytest.mark.parametrize("place", ["evil.py:Loss", "evil:Loss", "os:system", "/etc/passwd:x", "evil.py:"])
def test_code_that_a_folder_names_is_not_imported(evil, caplog, place):
    stage(evil / "run", "mine-seed0", KEYS["sft"], method=place)
    (subject,) = open_subjects("foreign", "run").values()
    assert subject.method is None
    assert subject._decoder() is None
    assert "evil" not in sys.modules
    assert [m for m in caplog.messages if place in m and "not imported" in m and "--methods" in m]


def test_code_that_the_user_names_is(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    source = "from preflab.algorithms.best_of_n import BestOfN\n\n\nclass Mine(BestOfN):\n    pass\n"
    (tmp_path / "own.py").write_text(source)
    stage(tmp_path / "run", "mine-seed0", KEYS["sft"], method="elsewhere/own.py:Mine", config={"n": 3})
    found = named_subjects(["foreign=run"], ["own.py:Mine"])
    check_methods(["own.py:Mine"], found)
    (subject,) = found.values()
    assert subject.method == ("own.py:Mine", {"n": 3})
    assert subject._decoder() is not None
    plain = named_subjects(["foreign=run"])
    assert plain["foreign.mine-seed0"].key != subject.key, "other answers, another evaluation"
    with pytest.raises(UserError, match="leave it out"):
        check_methods(["own.py:Mine"], plain)
    with pytest.raises(UserError, match="does not exist"):
        check_methods(["gone.py:Mine"], plain)


def test_a_registered_method_decodes_as_it_does(tmp_path):
    stage(tmp_path, "best", KEYS["sft"], method="best-of-n", config={"n": 4})
    (subject,) = open_subjects("foreign", str(tmp_path)).values()
    assert subject._decoder() is not None


WRONG = {
    "inputs a list": {"inputs": []},
    "inputs gone": {},
    "method a number": {"inputs": {"method": 5, "config": {}}},
    "method gone": {"inputs": {"config": {}}},
    "config text": {"inputs": {"method": "dpo", "config": "x"}},
    "sft a number": {"inputs": {"method": "dpo", "config": {}, "sft": 5}},
    "sft a list": {"inputs": {"method": "dpo", "config": {}, "sft": ["x"]}},
    "reward an object": {"inputs": {"method": "dpo", "config": {}, "reward": {}}},
    "sft a path": {"inputs": {"method": "dpo", "config": {}, "sft": "../../secret"}},
    "sft a pattern": {"inputs": {"method": "dpo", "config": {}, "sft": "*"}},
    "reward a set of letters": {"inputs": {"method": "dpo", "config": {}, "reward": "[0-9]*"}},
    "reward of a hidden folder": {"inputs": {"method": "dpo", "config": {}, "reward": ".x"}},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_stage_whose_fields_are_none_is_refused(tmp_path, name):
    folder = stage(tmp_path, "mine", "aa")
    (folder / "stage.json").write_text(json.dumps(WRONG[name]))
    for spec in (folder, tmp_path):
        with pytest.raises(UserError, match=r"stage\.json"):
            open_subjects("foreign", str(spec))


TEXTS = {"deep": "[" * 10**5, "no JSON": "{", "empty": "", "a list": "[1]", "no text": "\udcff"}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("file", ["stage.json", f"policy/{CONFIG}"])
def test_files_that_are_no_json_object_are_refused(tmp_path, name, file):
    folder = stage(tmp_path, "mine", "aa")
    target = folder / file if file == "stage.json" else shutil.copytree(folder / "policy", tmp_path / "a") / CONFIG
    target.write_bytes(TEXTS[name].encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=target.name):
        open_subject(str(target.parent))


def test_a_file_of_gigabytes_is_not_read(tmp_path):
    folder = stage(tmp_path, "mine", "aa")
    with (folder / "stage.json").open("wb") as file:
        file.truncate(2**33)  # a hole, which takes no space
    with pytest.raises(UserError, match="at most"):
        open_subject(str(folder))


def test_what_a_stage_stood_on_is_found_in_its_own_run_alone(tmp_path):
    start = stage(tmp_path, "sft", KEYS["sft"], method="sft")
    reward = stage(tmp_path, "reward", KEYS["reward"], "reward", method="reward")
    stage(tmp_path, ".killed", "111111111111")
    folder = stage(tmp_path, "dpo-seed0", "222222222222", sft=KEYS["sft"], reward=KEYS["reward"])
    subject = open_subject(str(folder))
    assert (subject.start, subject.maximised) == (str(start / "policy"), str(reward / "reward"))
    assert sorted(open_subjects("run", str(tmp_path))) == ["run.dpo-seed0", "run.reward", "run.sft"]


@pytest.mark.parametrize("spec", ["", "stages/mine-aa", "stages/mine-aa/policy"])
def test_a_sealed_stage_that_was_changed_is_refused(tmp_path, caplog, spec):
    folder = stage(tmp_path, "mine", "aa")
    open_subjects("run", str(tmp_path / spec))
    assert [m for m in caplog.messages if SUMS in m and "not verified" in m]
    seal(folder)
    caplog.clear()
    open_subjects("run", str(tmp_path / spec))
    assert caplog.messages == []
    (folder / "policy" / WEIGHTS).write_bytes(b"weightz")
    with pytest.raises(UserError, match=rf"mine-aa is damaged: policy/{WEIGHTS} has changed"):
        open_subjects("run", str(tmp_path / spec))


def test_a_damaged_start_is_refused_with_the_stage_that_stands_on_it(tmp_path):
    start = stage(tmp_path, "sft", KEYS["sft"], method="sft")
    seal(start)
    folder = stage(tmp_path, "dpo-seed0", "222222222222", sft=KEYS["sft"])
    (start / "policy" / WEIGHTS).unlink()
    with pytest.raises(UserError, match="is missing"):
        open_subject(str(folder))


@pytest.mark.parametrize(
    "config",
    [{"architectures": 5}, {"architectures": [5]}, {"architectures": "X"}, {"id2label": 7}, {"architectures": {}}],
)
def test_a_models_config_of_odd_types_is_a_model_until_it_is_opened(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert isinstance(open_subject(str(tmp_path)), PolicySubject)


# ---- files of responses ------------------------------------------------------------------------------


def responses(tmp_path, *rows):
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_prompts_that_differ_in_case_or_blanks_are_different_prompts(tmp_path):
    rows = [{"prompt": p, "response": str(n)} for n, p in enumerate(["A b", "a b", "a  b", "a b ", "a\nb"])]
    found = _responses(responses(tmp_path, *rows))
    assert {prompt: response for prompt, (response, _) in found.items()} == {r["prompt"]: r["response"] for r in rows}


ROWS = {
    "twice": ([{"prompt": "a", "response": "1"}, {"prompt": "a", "response": "2"}], ("rows 1 and 2", "'a'")),
    "twice by two names": ([{"prompt": "a", "response": "1"}, {"instruction": "a", "output": "2"}], ("rows 1 and 2",)),
    "no prompt": ([{"response": "1"}], ("row 1",)),
    "null": ([{"prompt": "b", "response": "1"}, {"prompt": "a", "response": None}], ("row 2",)),
    "NaN": ([{"prompt": "a", "response": float("nan")}], ("row 1", "nan", "text")),
    "a number": ([{"prompt": 5, "response": "1"}], ("row 1", "5")),
    "messages": ([{"prompt": "a", "response": [{"role": "assistant"}]}], ("row 1", "must be text")),
    "two prompts": ([{"prompt": "a", "instruction": "b", "response": "1"}], ("row 1", "prompt", "instruction")),
    "half a character": ([{"prompt": "a", "response": "\ud83d"}], ("row 1", "surrogate")),
    "a list": ([["a", "1"]], ("row 1",)),
}


@pytest.mark.parametrize("name", ROWS)
def test_odd_rows_of_responses_are_refused_by_row(tmp_path, name):
    rows, parts = ROWS[name]
    with pytest.raises(UserError) as caught:
        _responses(responses(tmp_path, *rows))
    for part in (str(tmp_path), *parts):
        assert part in str(caught.value)
