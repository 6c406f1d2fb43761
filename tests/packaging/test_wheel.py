"""The wheel, where there is no clone: one name at the top, and the command beside files called as our folders are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = ("pyproject.toml", "README.md", "LICENSE", "preflab", "algorithms", "eval", "recipes")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info")
WHOLE = 900  # seconds for a new environment with all that preflab stands on


def run(*command, cwd, **environment):
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**inherited, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy, as building leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in WRITTEN:
        copy = partial(shutil.copytree, symlinks=True, ignore=LEFT_OUT) if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "source" / name)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    built = run(*pip, "--wheel-dir", folder, folder / "source", cwd=folder)
    assert built.returncode == 0, built.stderr
    [found] = folder.glob("*.whl")
    return found


@pytest.fixture
def crowded(tmp_path):
    """A folder of somebody who has an eval.py, recipes and algorithms too."""
    (tmp_path / "recipes").mkdir()
    for name in ("eval.py", "algorithms.py", "recipes/__init__.py"):
        (tmp_path / name).write_text("raise RuntimeError('this is not what preflab means')\n")
    return tmp_path


def test_a_wheel_has_one_name_at_the_top_and_all_files(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"preflab"}
    folders = ("preflab", "algorithms", "eval", "recipes")
    there = {path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()}
    wanted = {path.relative_to(ROOT).as_posix() for path in there if "__pycache__" not in path.parts}
    wanted = {name if name.startswith("preflab/") else f"preflab/{name}" for name in wanted}
    assert wanted - set(names) == set()


def test_the_command_works_beside_anybodys_files(wheel, crowded, tmp_path_factory):
    target = tmp_path_factory.mktemp("target")
    done = run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel, cwd=crowded)
    assert done.returncode == 0, done.stderr
    where = "import preflab.eval.metrics, preflab; print(preflab.__file__, preflab.eval.__file__)"
    answer = run(sys.executable, "-c", where, cwd=crowded, PYTHONPATH=str(target))
    assert answer.returncode == 0, answer.stderr
    assert all(path.startswith(str(target)) for path in answer.stdout.split())
    for words in (["methods"], ["methods", "ppo"], ["--help"], ["compare", "--help"]):
        answer = run(target / "bin" / "preflab", *words, cwd=crowded, PYTHONPATH=str(target))
        assert (answer.returncode, answer.stderr) == (0, ""), words
    listed = run(target / "bin" / "preflab", "methods", cwd=crowded, PYTHONPATH=str(target)).stdout
    assert {"dpo", "ppo", "reward"} <= {line.split()[0] for line in listed.splitlines() if line.startswith("  ")}


@pytest.mark.slow
@pytest.mark.timeout(WHOLE)
def test_a_new_environment_needs_nothing_but_the_wheel(wheel, crowded):
    made = run(sys.executable, "-m", "venv", "env", cwd=crowded)
    assert made.returncode == 0, made.stderr
    install = (crowded / "env" / "bin" / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt")
    for wanted in ("torch", wheel):
        done = run(*install, wanted, cwd=crowded)
        assert done.returncode == 0, done.stderr
    command = crowded / "env" / "bin" / "preflab"
    answer = run(command, "compare", "--quick", "--output", "out", cwd=crowded)
    assert answer.returncode == 0, answer.stderr
    assert "comparison.json" in answer.stdout
    assert (crowded / "out" / "report" / "report.html").is_file()
    assert run(command, "methods", cwd=crowded).returncode == 0
