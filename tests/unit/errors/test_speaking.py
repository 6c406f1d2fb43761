"""`--json`: one document on stdout however a command ends, and nothing else of whoever writes there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from preflab.errors import UserError, speaking

ROOT = Path(__file__).resolve().parents[3]

COMMAND = r"""
import os, sys
from preflab.errors import UserError, speaking
from preflab.errors.answering import run_recipe
from preflab.errors.terminal import say
from preflab.settings.speaking import SpeakingConfig

def main():
    if "read" in sys.argv:  # as from a YAML file, which nobody has looked into before
        SpeakingConfig(json=True).begin()
    say("a line for people")
    print("a print of a library's")
    os.write(1, b"bytes of a library's\n")
    os.system("echo of another process")
    if "fails" in sys.argv:
        raise UserError("row 7: mend \x1b it")
    if "breaks" in sys.argv:
        raise KeyError("x")
    if "stops" in sys.argv:
        raise KeyboardInterrupt
    speaking.result({"figure": 1.5, "name": "\u2028 \u00fc"})
    return 1 if "complains" in sys.argv else 0

run_recipe(main)
"""


@pytest.fixture
def run(tmp_path):
    def started(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", COMMAND, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return started


@pytest.mark.parametrize("asked", [["--json"], ["--json", "true"], ["--json=yes"], ["read"]], ids=" ".join)
def test_the_result_is_all_of_stdout(asked, run):
    done = run(*asked)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"figure": 1.5, "name": "\u2028 \u00fc"})
    assert done.stdout.isascii()
    for said in ("a print of a library's", "bytes of a library's", "of another process"):
        assert said in done.stderr
    assert "for people" not in done.stderr


def test_a_status_of_its_own_is_kept_beside_a_result(run):
    done = run("--json", "complains")
    assert (done.returncode, json.loads(done.stdout)["figure"]) == (1, 1.5)


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("fails", 2, "row 7: mend \\x1b it"),
        ("breaks", 1, "KeyError: 'x'"),
        ("stops", 130, "interrupted; run the same command again to go on"),
    ],
)
def test_what_goes_wrong_is_the_document_in_its_place(how, status, said, run):
    done = run("--json", how)
    found = json.loads(done.stdout)
    assert (done.returncode, found["status"]) == (status, status)
    assert set(found) == {"error", "status"}
    assert found["error"].startswith(said)
    assert done.stderr.splitlines()[-1].removeprefix("error: ") == found["error"], "people read the same"


@pytest.mark.parametrize("asked", [[], ["--json", "false"], ["--json=no"], ["--help", "--json"]], ids=" ".join)
def test_without_it_stdout_is_as_ever(asked, run):
    done = run(*asked)
    assert "a line for people" in done.stdout
    assert "of another process" in done.stdout
    assert "figure" not in done.stdout


def test_what_has_no_result_refuses_it(monkeypatch):
    speaking.refuse_json("--plan")
    monkeypatch.setattr(speaking, "_stdout", [sys.stdout])
    with pytest.raises(UserError, match="--plan has none"):
        speaking.refuse_json("--plan")
