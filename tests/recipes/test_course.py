"""``compare.py --snapshots``: methods of every kind followed over training, killed and gone on with."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from recipe_runner import Warm, check_record, figures, names_of, read, run_warm, stages
from safetensors.torch import load_file

from preflab.disk.files import read_jsonl
from preflab.training.snapshots import snapshots

FOLLOW = ["--algorithms", "dpo,trl-dpo,ppo", "--snapshots", "2", "--snapshot-prompts", "8"]
STEPS = {"dpo": [1, 2], "trl-dpo": [1, 2], "ppo": [1, 4]}  # the first past 1/9 and 4/9 of 4 and of 8


def followed(comparison):
    return figures(comparison["overoptimisation"])


@pytest.mark.slow
def test_every_kind_of_trainer_is_followed_and_a_kill_changes_nothing(finished, copy, options, tmp_path):
    before = stages(copy)
    answer = run_warm("compare.py", *options, "--output", copy, *FOLLOW, cwd=tmp_path)
    assert answer.status == 0, answer.err
    after = stages(copy)
    assert {name: after[name] for name in before} == before
    trained = {f"{name}-seed0" for name in STEPS}
    ways = {f"eval-{name}-seed0-step{step}" for name, steps in STEPS.items() for step in steps}
    assert names_of(set(after) - set(before)) == trained | {f"eval-{name}" for name in trained} | ways

    check_record(copy / "comparison.json")
    comparison = read(copy / "comparison.json")
    for name, steps in STEPS.items():
        found = comparison["overoptimisation"][name]
        assert (found["over"], found["law"]) == ("training", "rl")
        assert [point["step"] for point in found["points"]] == [0, *steps, 8 if name == "ppo" else 4]
        assert found["points"][0]["kl"]["mean"] == pytest.approx(0, abs=1e-6)
        # The last point is the evaluation that the method is compared by, on the same prompts.
        rows = [
            read_jsonl(folder / "samples.jsonl")[:8]
            for folder in copy.glob(f"stages/eval-{name}-seed0-*")
            if folder.name not in before and "-step" not in folder.name
        ]
        for column in ("kl", "gold", "proxy"):
            assert found["points"][-1][column]["mean"] == pytest.approx(np.mean([row[column] for row in rows[0]]))
            assert found["points"][-1][column]["n"] == 8
    assert comparison["methods"]["dpo"]["kl"] == read(finished[0] / "comparison.json")["methods"]["dpo"]["kl"]
    assert '<section id="overoptimisation"' in (copy / "report" / "report.html").read_text()
    assert all((fit["beta"] is None) == (fit["note"] is not None) for fit in comparison["overoptimisation"].values())

    other = shutil.copytree(finished[0], tmp_path / "other")
    killed = Warm("compare.py", *options, "--output", other, *FOLLOW, cwd=tmp_path)
    killed.kill_when(other, "stages/.ppo-seed0-*.partial/snapshots/2-step4")
    answer = run_warm("compare.py", *options, "--output", other, *FOLLOW, cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert followed(read(other / "comparison.json")) == followed(comparison)


@pytest.mark.slow
def test_trls_snapshots_are_those_of_the_native_trainer(copy, options, tmp_path):
    answer = run_warm("compare.py", *options, "--output", copy, *FOLLOW, cwd=tmp_path)
    assert answer.status == 0, answer.err
    ours, theirs = (
        snapshots(folder)
        for name in ("dpo", "trl-dpo")
        for folder in copy.glob(f"stages/{name}-seed0-*")
        if (folder / "snapshots").is_dir()
    )
    assert len(ours) == len(theirs) == 2
    for mine, other in zip(ours, theirs, strict=True):
        one, two = (load_file(at.folder / "policy" / "adapter_model.safetensors") for at in (mine, other))
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_allclose(one[name], two[name], atol=1e-3)


def test_one_snapshot_makes_no_law(options, tmp_path):
    answer = run_warm("compare.py", *options, "--snapshots", "1", cwd=tmp_path)
    assert answer.status == 2
    assert "2 snapshots or more" in answer.err
