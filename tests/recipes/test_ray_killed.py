"""``compare.py --ray local``: workers and driver killed at random moments, and the same figures each time."""

from __future__ import annotations

import os
import random
import signal
import time

import psutil
import pytest
from recipe_runner import LIMIT, Warm, figures, names_of, read, run_warm, stages

pytest.importorskip("ray", reason="Ray is not installed: pip install 'preflab[ray]'")

ON_RAY = ["--ray", "local", "--workers", "3"]


def workers(driver):
    """Return the processes of the actors that a driver's cluster has at work."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            found += [process] if process.cmdline()[:1] == ["ray::Workplace.build"] else []
        except psutil.Error:
            continue
    return found


def killed(attempt, moments, count):
    """SIGKILL `count` workers of a comparison at random moments, if it lasts so long; return how many it were."""
    done = 0
    while done < count and attempt.process.is_alive():
        attempt.process.join(moments.uniform(0.5, 8.0))
        if attempt.process.is_alive() and (at_work := workers(attempt.process.pid)):
            os.kill(moments.choice(at_work).pid, signal.SIGKILL)
            done += 1
    return done


def same(folder, finished):
    """Hold a run to an uninterrupted one of one process: figures, stages, answers to the byte."""
    assert figures(read(folder / "comparison.json")) == figures(read(finished / "comparison.json"))
    assert set(stages(folder)) == set(stages(finished))
    for path in finished.glob("stages/*/*.jsonl"):
        if path.name != "metrics.jsonl":  # whose lines hold times
            assert (folder / path.relative_to(finished)).read_bytes() == path.read_bytes(), path
    for path in finished.glob("stages/*/*/adapter_model.safetensors"):
        assert (folder / path.relative_to(finished)).read_bytes() == path.read_bytes(), path
    assert not list(folder.glob("stages/.*"))


def kill_and_compare(finished, options, tmp_path, kills, seed):
    moments, left, number = random.Random(seed), kills, 0
    while left:
        number += 1
        folder = f"run{number}"
        attempt = Warm("compare.py", *options, *ON_RAY, "--output", folder, cwd=tmp_path)
        left -= killed(attempt, moments, left)
        answer = attempt.wait()
        while answer.status == 2 and "4 times" in answer.err:  # one stage was hit too often; the same command again
            answer = run_warm("compare.py", *options, *ON_RAY, "--output", folder, cwd=tmp_path)
        assert answer.status == 0, answer.err
        same(tmp_path / folder, finished[0])


@pytest.mark.timeout(900)
def test_workers_killed_at_two_moments_change_nothing(finished, options, tmp_path):
    kill_and_compare(finished, options, tmp_path, kills=2, seed=3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_workers_killed_at_ten_moments_change_nothing(finished, options, tmp_path):
    kill_and_compare(finished, options, tmp_path, kills=10, seed=11)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_driver_takes_its_workers_along_and_the_same_command_goes_on(finished, options, tmp_path):
    attempt = Warm("compare.py", *options, *ON_RAY, "--output", "run", cwd=tmp_path)
    attempt.kill_when(tmp_path / "run", "stages/.reward-*.partial.*/checkpoint-3/trainer_state.json")
    until = time.monotonic() + LIMIT
    while any("ray::Workplace" in " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])):
        assert time.monotonic() < until, "workers outlive their driver"
        time.sleep(0.5)
    answer = run_warm("compare.py", *options, *ON_RAY, "--output", "run", cwd=tmp_path)
    assert answer.status == 0, answer.err
    same(tmp_path / "run", finished[0])


def test_options_that_contradict_each_other_are_said_in_one_line(options, tmp_path):
    for more, said in (
        (["--ray", "local", "--slurm", "slurm_partition=gpu"], "ray and slurm both say who builds"),
        (["--ray", "local", "--match", "time"], "--ray local: --match time measures training"),
        (["--ray", "http://head:6379"], "it takes local, auto"),
        (["--ray", "local", "--workers", "0"], "workers"),
    ):
        answer = run_warm("compare.py", *options, *more, "--output", "run", cwd=tmp_path)
        assert answer.status == 2, answer.err
        assert said in answer.err.strip().splitlines()[-1]
    assert names_of(set(stages(tmp_path / "run"))) == set() if (tmp_path / "run").exists() else True
