"""The fault benchmark: enough different cases, the same ones each time, and wrong answers told from right ones."""

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import pages
from benchmarks.faults import areas, configs_fields, damages, kit, report, runner
from benchmarks.faults.__main__ import chosen, parse
from benchmarks.faults.cases import CANARY, Accepted, Case, distinct, drawn, files, refused, said, table
from benchmarks.faults.outcomes import Judged, Outcome, names, outcome, raw_characters
from benchmarks.faults.runner import NOT_MADE, Answer, run_all

CULPRIT = refused("data.jsonl", "row 7")
LINE = "error: data.jsonl, row 7: chosen is not text\n"


@pytest.fixture(scope="module")
def every():
    return areas.cases(0)


# ---- cases ----------------------------------------------------------------------------------------


def test_there_are_hundreds_of_cases_of_every_area_and_dozens_of_damages(every):
    counts = Counter(case.area for case in every)
    assert set(counts) == set(areas.AREAS)
    assert min(counts.values()) >= 15
    assert len(every) >= 600
    assert len({damage.name for damage in damages.DAMAGES}) >= 60


def test_the_same_seed_draws_the_same_cases_and_another_one_others(every):
    def shown(cases):
        return [(case.name, case.command, case.right, case.banned) for case in cases]

    assert shown(areas.cases(0)) == shown(every)
    assert shown(areas.cases(1)) != shown(every)


def test_cases_write_the_same_files_each_time(every, tmp_path):
    plain = [
        case for case in every if case.area in ("data", "judges", "rewards", "methods") and "pipe" not in case.name
    ]
    for run in ("run", "evaluated"):
        (tmp_path / "kit" / run / "stages").mkdir(parents=True)
    for case in plain[:: len(plain) // 60]:
        contents = []
        for attempt in ("one", "two"):
            folder = tmp_path / attempt / case.name.replace("/", "-")[:60]
            folder.mkdir(parents=True)
            (folder / "kit").symlink_to(tmp_path / "kit")
            case.make(folder)
            contents.append({p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()})
        # A parquet file or gz header tells the library or the time, not another row.
        same = [name for name in contents[0] if not name.endswith((".gz", ".parquet"))]
        assert contents[0].keys() == contents[1].keys()
        assert all(contents[0][name] == contents[1][name] for name in same), case.name


def test_two_cases_of_one_name_are_a_mistake():
    with pytest.raises(ValueError, match="two cases"):
        distinct([Case("a/b", (), said()), Case("a/b", (), said())])


def test_cases_are_chosen_with_those_they_are_compared_with(every):
    names_ = {case.name for case in chosen(every, "data", "absent/margin is NaN")}
    assert "data/plain/text" in names_
    assert all("absent/margin" in name or name == "data/plain/text" for name in names_)


def test_every_case_that_is_compared_names_one_that_is_there(every):
    known = {case.name for case in every}
    assert {right.like for case in every for right in case.right if isinstance(right, Accepted) and right.like} <= known


def test_draws_keep_the_order():
    assert drawn([3, 1, 2], 5, "a") == [3, 1, 2]
    assert drawn(list(range(99)), 9, "a") == sorted(drawn(list(range(99)), 9, "a"))


def test_every_field_has_values_that_it_must_not_take():
    for field in (*configs_fields.shared_fields(), *configs_fields.method_fields()):
        assert configs_fields.wrong_yaml(field), field


def test_damaged_tables_differ_from_whole_ones_in_two_rows(tmp_path):
    from benchmarks.faults.preferences import damaged

    rows = damaged(kit.text_rows(), {"chosen": None})
    assert [i for i, row in enumerate(rows) if row not in kit.text_rows()] == list(kit.BAD)
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz"):
        table(kit.text_rows())(tmp_path / name)
        from preflab.data.reading import read_rows

        assert [row for _, row in read_rows(str(tmp_path / name))] == kit.text_rows()


def test_harms_change_a_file(tmp_path):
    for name, harm in damages.HARMS.items():
        for stage in ("one", "two"):
            (tmp_path / name / stage).mkdir(parents=True)
            (tmp_path / name / stage / "a.json").write_text(json.dumps({"stage": stage, "values": list(range(9))}))
        path = tmp_path / name / "one" / "a.json"
        before = path.read_bytes()
        harm(path)
        assert (path.is_file() and path.read_bytes() == before) == (name == "nothing"), name


# ---- outcomes -------------------------------------------------------------------------------------


def judged(tmp_path, status=2, out="", err=LINE, right=CULPRIT, banned=(), splits=None):
    case = Case("data/x", ("sft.py",), right, banned=banned)
    return outcome(case, Answer(status, out, err, 1.0, tmp_path), lambda name: (splits or {}).get(name)).kind


def test_right_answers(tmp_path):
    assert judged(tmp_path) == "right"
    assert judged(tmp_path, err="WARNING a: b\n" + LINE) == "right"
    assert judged(tmp_path, 0, err="WARNING 2 bad rows\n", right=said("2 bad")) == "right"
    assert judged(tmp_path, 0, right=(*refused("x"), *said("row 7"))) == "right"


@pytest.mark.parametrize(
    ("kind", "changes"),
    {
        "accepted": ("silent", {"status": 0, "err": ""}),
        "accepted, something else said": ("silent", {"status": 0, "err": "WARNING a\n", "right": said("2 bad")}),
        "half of it said in each of two lines": ("silent", {"status": 0, "err": "2\nbad\n", "right": said("2", "bad")}),
        "a traceback": (
            "traceback",
            {"status": 1, "err": "Traceback (most recent call last):\n  File x\nKeyError: 'a'\n"},
        ),
        "a traceback with status 2": ("traceback", {"err": "Traceback (most recent call last):\n" + LINE}),
        "an unforeseen error": ("traceback", {"status": 1, "err": "error: unforeseen; see crash.log\n"}),
        "a signal": ("traceback", {"status": -11, "err": ""}),
        "a hang": ("hang", {"status": None}),
        "no line": ("unclear", {"err": ""}),
        "two lines": ("unclear", {"err": LINE + LINE}),
        "a line after it": ("unclear", {"err": LINE + "and more\n"}),
        "the culprit is not named": ("unclear", {"err": "error: wrong data\n"}),
        "a result besides": ("unclear", {"out": "written to out/sft.json\n"}),
        "an escape": ("unclear", {"err": LINE.replace("not", "\x1b[2Jnot")}),
        "a turned text": ("unclear", {"err": LINE.replace("not", "\u202enot")}),
        "a banned word": ("unclear", {"err": LINE.replace("not", "SECRET not"), "banned": ("SECRET",)}),
        "a case that could not be made": ("not made", {"status": NOT_MADE}),
    }.values(),
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_wrong_answers(tmp_path, kind, changes):
    assert judged(tmp_path, **changes) == kind


def test_code_that_ran_is_the_worst(tmp_path):
    (tmp_path / CANARY).touch()
    assert judged(tmp_path) == "ran code"


def test_other_rows_are_a_silent_acceptance(tmp_path):
    facts = {"fingerprints": {"pairs": "a"}, "groups": {"pairs": 3, "heldout": 1, "gold_pairs": 1}}
    (tmp_path / "out").mkdir()
    right = said(like="plain")
    assert judged(tmp_path, 0, right=right, splits={"plain": {"pairs": "a"}}) == "silent"  # no record is no proof
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({"data": {"facts": facts}}))
    assert judged(tmp_path, 0, right=right, splits={"plain": {"pairs": "a"}}) == "right"
    assert judged(tmp_path, 0, right=right, splits={"plain": {"pairs": "b"}}) == "silent"
    assert judged(tmp_path, 0, right=right, splits={}) == "silent"
    assert judged(tmp_path, 0, right=(Accepted(groups=5),)) == "right"
    assert judged(tmp_path, 0, right=(Accepted(groups=4),)) == "silent"


def test_parts_of_a_line():
    assert names("Error: FILE.jsonl, row 7", ("file.jsonl", "row 8|row 7"))
    assert not names("error: file.jsonl", ("file.jsonl", "row"))
    assert not raw_characters("a\n\tb \x1b[A\r c")  # bars
    assert raw_characters("a\x07") == "'\\x07'"


# ---- damages --------------------------------------------------------------------------------------


@pytest.fixture
def mended(tmp_path):
    """A whole run, and a folder in which it was built again."""
    for name in ("whole", "again"):
        stage = tmp_path / name / "run" / "stages" / "sft-0123456789ab" / "policy"
        stage.mkdir(parents=True)
        (stage / "adapter_model.safetensors").write_bytes(b"weights")
        (tmp_path / name / "run" / "comparison.json").write_text(json.dumps({"methods": {"dpo": 1}, "command": [name]}))
    return tmp_path / "whole", tmp_path / "again"


def repair(mended, err="", status=0):
    damage = damages.Damage("finished", "run/stages/sft-*/policy/adapter_model.safetensors", "gone")
    answer = Answer(status, "", err, 1.0, mended[1])
    return damages.verdict(Case(damage.name, (), said()), damage, answer, mended[0], mended[0]).kind


def test_a_repair_must_be_said_and_whole(mended):
    word = "WARNING stage sft: adapter_model.safetensors is damaged; built again\n"
    assert repair(mended, word) == "right"
    assert repair(mended) == "silent"
    assert repair(mended, "error: stage sft is damaged\n", 2) == "unclear"
    assert repair(mended, "Traceback (most recent call last):\n", 1) == "traceback"
    (mended[1] / "run/stages/sft-0123456789ab/policy/adapter_model.safetensors").write_bytes(b"Weights")
    assert repair(mended) == "silent"
    assert repair(mended, word) == "other figures"
    (mended[1] / "run/comparison.json").write_text('{"methods": {"dpo": 2}}')
    assert repair(mended, word) == "other figures"


# ---- running --------------------------------------------------------------------------------------

SCRIPT = """
import os, sys, time
from pathlib import Path
what = sys.argv[1]
if what == "hang": time.sleep(60)
if what == "child": os.system("sleep 60 & echo started"); sys.exit(2)
if what == "exit": sys.exit("a word")
if what == "raise": raise ValueError("no")
if what == "die": os.kill(os.getpid(), 9)
print(Path("a.txt").read_text(), what)
"""


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "r.py").write_text(SCRIPT)
    (tmp_path / "kit").mkdir()
    monkeypatch.setattr(runner, "RECIPES", tmp_path / "recipes")
    return tmp_path


def test_commands_run_in_folders_of_their_own_and_end_as_they_end(recipes):
    found = {}
    cases = [
        Case(
            f"x/{what}",
            ("r.py", what, "{more}"),
            said(),
            lambda folder: files({"a.txt": "hello"})(folder) or {"more": "1"},
        )
        for what in ("hang", "child", "exit", "raise", "die", "end")
    ]
    bad = Case("x/bad", ("r.py",), said(), lambda folder: 1 / 0)
    run_all(
        [*cases, bad], recipes / "work", recipes / "kit", 3, lambda case, answer: found.update({case.name: answer}), 2.0
    )
    assert {name.removeprefix("x/"): answer.status for name, answer in found.items()} == {
        "hang": None, "child": 2, "exit": 1, "raise": 1, "die": -9, "end": 0, "bad": NOT_MADE,
    }  # fmt: skip
    assert found["x/end"].out == "hello end\n"
    assert "a word" in found["x/exit"].err
    assert "Traceback" in found["x/raise"].err
    assert (found["x/end"].folder / "kit").is_symlink()
    assert not Path("a.txt").exists()


def test_a_run_can_be_killed_and_goes_on_in_its_folder(recipes):
    case = Case("x/hang", ("r.py", "hang"), said(), files({"a.txt": "a"}))
    assert runner.run_until(case, recipes / "one", recipes / "kit", lambda seconds: seconds > 0.2) is None
    case = Case("x/end", ("r.py", "end"), said(), files({"a.txt": "b"}))
    assert runner.run_until(case, recipes / "one", recipes / "kit", lambda seconds: False) == 0
    assert (recipes / "one" / "out.txt").read_text() == "b end\n"


# ---- the page -------------------------------------------------------------------------------------


def test_the_tables_go_into_the_page(tmp_path, monkeypatch):
    page = tmp_path / "reliability.md"
    page.write_text((Path(report.PAGE)).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(report, "PAGE", page)
    one = [Judged("data/a", "data", Outcome("right"), "", ""), Judged("data/b", "data", Outcome("hang"), "", "")]
    two = [Judged("finished/a", "finished", Outcome("silent"), "", "")]
    report.write(report.tables(one, two, {"kills": 50, "runs": 4, "failed": 0, "equal": True}))
    text = page.read_text(encoding="utf-8")
    assert "| data | 2 | 1 | 0 | 0 | 1 | 0 | 0 |\n| all | 2 | 1 | 0 | 0 | 1 | 0 | 0 |" in text
    assert "| finished | 1 | 0 | 1 | 0 |" in text
    assert "| 50 | 4 | 0 | yes |" in text
    assert pages.kept(page, "faults-kills", ["kills"]) == []


def test_options_are_read():
    options = parse(["--area", "data,models", "--kills", "5", "--limit", "10"])
    assert (options.area, options.kills, options.limit, options.jobs) == ("data,models", 5, 10.0, 2)
