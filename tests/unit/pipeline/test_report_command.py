"""preflab report: a finished run printed and drawn again, several of them side by side."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from run_folder import write_run

from preflab.errors import UserError
from preflab.recipes import command


def report(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["preflab", "report", *map(str, words)])
    command.main()


def test_one_run_is_printed_and_its_page_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run")
    before = (folder / "comparison.json").read_bytes()
    report(monkeypatch, folder)
    said = capsys.readouterr().out
    assert "gold" in said
    assert "Against sft: dpo better." in said
    assert f"report at {folder / 'report' / 'report.html'}" in said
    page = (folder / "report" / "report.html").read_text()
    assert "dpo beats sft" in page
    assert '"dpo 1"' in page  # an answer of the second seed
    assert (folder / "comparison.json").read_bytes() == before
    report(monkeypatch, folder, "--output", tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "report.html").read_text() == page


def test_what_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no run folder"):
        report(monkeypatch, tmp_path / "none")
    with pytest.raises(UserError, match="arguments are required: RUN"):
        report(monkeypatch)
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    with pytest.raises(UserError, match="--output FOLDER"):
        report(monkeypatch, one, two)


def test_several_runs_say_first_what_differs_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", seeds=(0, 1, 2), better=0.5)
    report(monkeypatch, one, two, "--output", tmp_path / "both")
    said = capsys.readouterr().out
    assert said.index("run.seeds") < said.index("put side by side") < said.index("two/dpo")
    assert "run.output" not in said
    assert "two/dpo beats one/dpo: gold reward +0." in said
    page = (tmp_path / "both" / "report.html").read_text()
    assert page.index("What differs between the runs</h2>") < page.index('id="ranking"')
    assert '<h1 dir="auto">two/dpo beats one/dpo</h1>' in page
    assert "exploratory: runs chosen afterwards" in page
    assert page.index("The runs differ in training seeds, run.seeds.") < page.index('<table class="forest">')
    assert {path.name for path in (tmp_path / "both" / "figures").iterdir()} >= {"differences.csv", "differences.svg"}


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"about": "q"}, r"they were tested on different prompts \(40 and 40, 0 of them shared\)"),
        ({"prompts": 20}, r"they were tested on different prompts \(40 and 20, 20 of them shared\)"),
        ({"judge": "another"}, "their judges are not the same"),
        ({"judge": None}, "what judged two is not on record"),
    ],
)
def test_runs_that_cannot_be_compared_are_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: dict[str, object],
    why: str,
) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", better=0.5, **how)
    report(monkeypatch, one, two, "--output", tmp_path / "both")
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(f"one and two are not compared: {why}", said)
    assert "beats" not in said
    page = (tmp_path / "both" / "report.html").read_text()
    assert "These runs cannot be compared</h1>" in page
    assert "forest" not in page.partition("</style>")[2]
