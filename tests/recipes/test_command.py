"""The command `preflab`: what it says of itself, how it answers mistakes, what shells complete."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress

import pytest
from recipe_runner import run_warm

from preflab.errors import Shown, UserError
from preflab.method import registry
from preflab.recipes import command
from preflab.recipes.completion import SCRIPTS, fitting

PATH = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), *filter(None, sys.path)])

SCRIPT = """
import json, sys
from preflab.recipes import command

for words in json.loads(sys.argv[1]):
    sys.argv = ["preflab", *words]
    try:
        status = command.run()
    except SystemExit as left:
        status = left.code
    print(json.dumps([status, sorted({"torch", "transformers", "datasets"} & sys.modules.keys())]))
    print("---", file=sys.stderr, flush=True)
"""


def test_the_overview_fits_a_screen_and_names_every_command(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["preflab", "--help"])
    command.main()
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 40
    assert all(f"  {name} " in shown for name in command.COMMANDS)


@pytest.mark.parametrize(
    "words", [["power", "--help"], ["help", "power"], ["train", "--help"], ["help", "train"], ["train", "dpo", "-h"]]
)
def test_each_command_has_its_help(words, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["preflab", *words])
    with suppress(Shown):
        command.main()
    name = words[1] if words[0] == "help" else words[0]
    assert capsys.readouterr().out.startswith(f"usage: preflab {name} ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["comprae"], "there is no command 'comprae' .did you mean 'compare'"),
        (["DPO", "--model", "m"], "'DPO' is a method, and no command: write `preflab train dpo`"),
        (["mine.py:Mine"], "write `preflab train mine.py:Mine`"),
        (["--model", "m"], "name a command before the options"),
        (["train", "dop"], "unknown method 'dop' .did you mean 'dpo'"),
        (["train", "--model", "m"], "name the method first"),
        (["compare", "--beta", "0.2"], r"unknown option '--beta': it is a setting of a method; write --dpo\.beta$"),
        (["compare", "--algorithms", "ipo", "kto", "--beta", "1"], r"write --ipo\.beta or --kto\.beta$"),
        (["compare", "--variant", "1"], "it is a setting of apo, and not of sft and reward and dpo and ppo"),
        (["train", "DPO", "--kl-coefficient", "1"], "it is a setting of a2c, grpo, ppo, .* and not of dpo"),
        (["compare", "--kl-coeficient", "1"], r"did you mean '--ppo\.kl-coefficient'"),
        (["compare", "--kto.beta", "1"], "settings of kto are given, and what is trained here is sft, reward, dpo and"),
        (["evaluate", "--beta", "1"], "unknown option '--beta': it is a setting of apo"),
        (["compare", "--world", "rael"], "choose one of auto, reviews, exact, function, real"),
        (["compare", "--device", "gpu"], "choose one of auto, cpu, cuda"),
    ],
)
def test_mistakes_are_answered_with_what_to_write(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["preflab", *words])
    with pytest.raises(UserError, match=message) as refused:
        command.main()
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_mistakes_in_settings_and_data_are_answered_before_torch_is_imported(tmp_path, tiny_model_path):
    files = {
        "empty.jsonl": "",
        "broken.jsonl": "{no\n",
        "broken.json": "[1, 2",
        "columns.csv": "question,good\na,b\n",
        "good.jsonl": '{"prompt": "a", "chosen": "b", "rejected": "c"}\n',
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    start = ["compare", "--model", str(tiny_model_path), "--output", "made/run", "--dataset"]
    tried = {
        "does not exist": [*start, "missing.jsonl"],
        "it is empty": [*start, "empty.jsonl"],
        "not JSON": [*start, "broken.jsonl"],
        "is not valid JSON": [*start, "broken.json"],
        "it has question, good": [*start, "columns.csv"],
        "has no column 'text'": [*start, "good.jsonl", "--columns", "prompt=text"],
        "missing.csv' does not exist": [*start, "good.jsonl", "--heldout", "missing.csv"],
        "unknown option": [*start, "good.jsonl", "--bta", "1"],
        "choose one of": [*start, "good.jsonl", "--dtype", "float8"],
        "settings of kto": [*start, "good.jsonl", "--kto.beta", "1"],
        "model './nowhere' does not exist": ["train", "dpo", "--model", "./nowhere", "--dataset", "good.jsonl"],
        "empty.jsonl has no usable row": ["train", "ppo", *start[1:], "empty.jsonl"],
        "columns.csv has no usable row": [
            "evaluate",
            "--models",
            "a=good.jsonl",
            *start[1:5],
            "--heldout",
            "columns.csv",
        ],
        "broken.jsonl has no usable row": ["plan", *start[1:], "broken.jsonl"],
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(list(tried.values()))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": PATH},
        capture_output=True,
        text=True,
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[2, []]] * len(tried), done.stderr
    for message, said in zip(tried, done.stderr.split("---\n"), strict=False):
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert message in errors[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


@pytest.mark.parametrize("kind", ["data", "model", "device", "few prompts"])
def test_what_is_refused_later_leaves_nothing_behind_either(kind, tmp_path, tiny_model_path):
    rows = [{"prompt": f"word{i}", "chosen": " word1 word2", "rejected": " word3"} for i in range(40)]
    model, more = tiny_model_path, []
    if kind == "data":
        rows = rows[:1]
    elif kind == "model":
        model = tmp_path / "model"
        shutil.copytree(tiny_model_path, model)
        (model / "model.safetensors").write_bytes(b"no weights")
    elif kind == "device":
        more = ["--device", "mps"]
    else:
        more = ["--max-prompt-tokens", "1", "--heldout-fraction", "0.05"]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--model", model, "--dataset", tmp_path / "pairs.jsonl", "--output", tmp_path / "made" / "run"]
    answer = run_warm("compare.py", *given, "--quick", *more, cwd=tmp_path)
    assert answer.status == 2, answer.err
    assert answer.err.count("error: ") == 1
    assert not (tmp_path / "made").exists()


# ---- completion --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (["comp"], ["compare", "completion"]),
        (["train", "plack"], ["plackett-luce"]),
        (["plan", "t"], ["train"]),
        (["plan", "train", "plack"], ["plackett-luce"]),
        (["methods", "sim"], ["simpo"]),
        (["completion", "f"], ["fish"]),
        (["compare", "--dpo.label"], ["--dpo.label-smoothing"]),
        (["compare", "--dp"], ["--dpo."]),
        (["compare", "--pair.label"], ["--pair.label-smoothing"]),
        (["train", "dpo", "--label"], ["--label-smoothing"]),
        (["plan", "train", "dpo", "--label"], ["--label-smoothing"]),
        (["compare", "--world", "re"], ["reviews", "real"]),
        (["compare", "--world", "=", "re"], ["reviews", "real"]),
        (["compare", "--ppo.kl-in", ""], ["reward", "loss"]),
        (["compare", "--quick", "t"], ["true"]),
        (["compare", "--algorithms", "dpo", "pp"], ["ppo"]),
        (["compare", "--sft-method", "trl-s"], ["trl-sft"]),
        (["compare", "--help", "al"], ["all"]),
        (["compare", "--dataset", ""], []),
        (["compare", "--dataset", "pa"], []),
        (["power", "--diff"], ["--difference"]),
        (["annotate", "--lim"], ["--limit"]),
        (["data", "check", "--mod"], ["--model"]),
        (["nothing", "--x"], []),
    ],
)
def test_words_that_fit(line, found):
    assert fitting(line) == found


def test_all_commands_and_methods_fit_where_nothing_is_begun():
    assert fitting([""]) == [*(name.split()[0] for name in command.COMMANDS), "--help", "--version"]
    assert fitting(["data", ""]) == ["check"]
    assert fitting(["train", ""]) == list(registry.registered())


@pytest.fixture
def shells(tmp_path):
    """Return what runs a line in a shell that finds the command."""
    (tmp_path / "preflab").write_text(f'#!/bin/sh\nexec {sys.executable} -m preflab "$@"\n')
    (tmp_path / "preflab").chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": PATH, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def run(shell, script):
        done = subprocess.run([shell, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    return run


def test_bash_completes(shells):
    asks = '_preflab; printf "%s\\n" "${COMPREPLY[@]}"'
    script = f"""set -e
source <(preflab completion bash)
COMP_WORDS=(preflab compare --dpo.label); COMP_CWORD=2; {asks}
COMP_WORDS=(preflab compare --algorithms dpo pp); COMP_CWORD=4; {asks}
COMP_WORDS=(preflab compare --world = ""); COMP_CWORD=4; {asks}
complete -p preflab
"""
    found = shells("bash", script)
    assert found[:7] == ["--dpo.label-smoothing", "ppo", "auto", "reviews", "exact", "function", "real"]
    assert found[7:] == ["complete", "-o", "bashdefault", "-o", "default", "-F", "_preflab", "preflab"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_their_script(shell, shells):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    if shell == "fish":
        assert shells(shell, "preflab completion fish | source; complete -C 'preflab compare --dpo.label'") == [
            "--dpo.label-smoothing"
        ]
    else:
        assert shells(shell, "source <(preflab completion zsh); print $_comps[preflab]") == ["_preflab"]


def test_other_shells_are_refused(monkeypatch):
    monkeypatch.setattr("sys.argv", ["preflab", "completion", "tcsh"])
    with pytest.raises(UserError, match=f"name one of {', '.join(SCRIPTS)}"):
        command.main()
