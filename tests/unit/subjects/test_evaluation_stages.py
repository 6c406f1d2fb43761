"""Evaluations of a run's models: killed, finished, reused, and what they read."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from ground_files import close, read

from preflab.errors import UserError
from preflab.eval.records.columns import column, needed
from preflab.eval.subjects import (
    PolicySubject,
    adapter_stage,
    evaluate_subject,
    open_subject,
    open_subjects,
)
from preflab.experiment.experiment import Experiment


def write_stage(run, name, key, role, adapter, **inputs):
    folder = run / "stages" / f"{name}-{key}"
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(json.dumps({"inputs": {"sft": None, **inputs}, "record": {}}))
    (folder / role).symlink_to(adapter, target_is_directory=True)


def test_a_run_gives_each_of_its_models(ground, folder, tmp_path):
    write_stage(tmp_path, "sft", "aa", "policy", folder / "policy", method="sft", config={})
    write_stage(tmp_path, "reward", "bb", "reward", folder / "scorer", method="reward", config={})
    write_stage(tmp_path, "judge-1", "ee", "reward", folder / "scorer", given="x")
    write_stage(tmp_path, "judge", "cc", "reward", folder / "scorer", method="reward", config={})
    write_stage(
        tmp_path, "best-of-n-seed0", "dd", "policy", folder / "policy", method="best-of-n", config={"n": 4}, sft="aa"
    )
    found = open_subjects("mine", str(tmp_path))
    assert list(found) == ["mine.best-of-n-seed0", "mine.reward", "mine.sft"]
    best = found["mine.best-of-n-seed0"]
    assert best.start == str(tmp_path / "stages" / "sft-aa" / "policy")
    # Its method decodes in a way of its own.
    close(
        best.evaluate(ground, "best"), open_subject(f"best-of-4:{folder / 'policy'}").evaluate(ground, "b"), ("proxy",)
    )


def test_the_same_weights_read_otherwise_are_another_adapter(folder, tmp_path):
    copied = shutil.copytree(folder / "scorer", tmp_path / "scorer")
    keys = {adapter_stage(folder / "scorer", "reward").key, adapter_stage(copied, "reward").key}
    assert len(keys) == 1
    config = json.loads((copied / "adapter_config.json").read_text())
    (copied / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 2 * config["lora_alpha"]}))
    keys.add(adapter_stage(copied, "reward").key)
    (copied / "normalisation.json").write_text('{"mean": 1.0, "std": 2.0}')
    assert len(keys | {adapter_stage(copied, "reward").key}) == 3


# ---- killed half-way ---------------------------------------------------------------------------------


def test_a_killed_evaluation_goes_on_and_ends_alike(ground, folder, tmp_path, monkeypatch):
    from preflab.eval.harness import evaluate as harness

    monkeypatch.setattr(harness, "SAMPLED_AT_ONCE", 2)
    subject = open_subject(str(folder / "policy"))
    whole = subject.evaluate(ground, "whole", None)
    asked = []

    def breaking(sampler, calls):
        def sample(*args, **kwargs):
            if len(asked) == calls:
                raise KeyboardInterrupt
            asked.append(kwargs["seed"])
            return sampler(*args, **kwargs)

        return sample

    plain = Experiment.sampler
    monkeypatch.setattr(Experiment, "sampler", lambda self, **options: breaking(plain(self, **options), 2))
    with pytest.raises(KeyboardInterrupt):
        subject.evaluate(ground, "killed", tmp_path)
    assert (tmp_path / "preferences.jsonl").is_file()
    monkeypatch.setattr(Experiment, "sampler", lambda self, **options: breaking(plain(self, **options), 3))
    monkeypatch.setattr(harness, "score_preferences", None)  # done already
    again = subject.evaluate(ground, "killed", tmp_path)
    assert len(asked) == len(set(asked)) == 3, "no part was sampled twice"
    assert (again.samples, again.preferences) == (whole.samples, whole.preferences)


def test_a_finished_evaluation_is_reused_unless_anything_in_it_changes(ground, folder):
    subject = open_subject(str(folder / "policy"))
    first = evaluate_subject("policy", subject, ground)

    def count():
        return len(list((folder / "run" / "stages").glob("eval-policy-*")))

    assert evaluate_subject("policy", subject, ground).samples == first.samples
    assert count() == 1
    changes = [
        (subject, ground._replace(generate=False)),
        (subject, ground._replace(seed=1)),
        (subject, ground._replace(reward=None)),
        (subject, ground._replace(sft=adapter_stage(folder / "policy", "policy"))),
        (subject, ground._replace(judge=ground.judge._replace(key="another"))),
        (open_subject(f"best-of-2:{folder / 'policy'}"), ground),
    ]
    for changed in changes:
        evaluate_subject("policy", *changed)
    assert count() == 1 + len(changes)


def test_without_generating_only_pairs_are_scored(ground, folder):
    full = open_subject(str(folder / "policy")).evaluate(ground, "policy")
    pairs = open_subject(str(folder / "policy")).evaluate(ground._replace(generate=False), "policy")
    assert pairs.samples == []
    assert pairs.preferences == full.preferences


def test_the_reference_is_the_starting_adapter(ground, folder):
    sft = adapter_stage(folder / "policy", "policy")
    same = PolicySubject(None).evaluate(ground._replace(sft=sft), "reference")
    assert np.abs(read(same, "kl")).max() == 0
    assert np.abs(read(same, "chosen_score")).max() == 0
    adapter = open_subject(str(folder / "policy")).evaluate(ground, "policy")
    close(same, adapter, ("chosen_logp", "rejected_logp"))


def test_one_rule_for_missing_values():
    seeds = [[{"kl": None, "gold": 1}, {"kl": 2.0, "gold": 0.5}], [{"gold": True}, {"gold": 3.0, "row": 7}]]
    assert column(seeds, "absent") is None
    assert column(seeds, "gold").tolist() == [[1.0, 0.5], [1.0, 3.0]]
    with pytest.raises(UserError, match=r"^kl of row 0 \(training seed 0\) is missing"):
        column(seeds, "kl")
    for value in (float("nan"), float("-inf"), "3", None):
        seeds[1][1]["gold"] = value
        said = "missing" if value is None else re.escape(repr(value))
        with pytest.raises(UserError, match=rf"^gold of row 7 \(training seed 1\) is {said}"):
            column(seeds, "gold")
    with pytest.raises(UserError, match="no row has 'absent'"):
        needed(seeds, "absent")
