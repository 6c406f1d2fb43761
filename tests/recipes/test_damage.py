"""Finished runs whose files are damaged: each is noticed, said in one line and built again, to the same figures."""

from __future__ import annotations

import os
import shutil

import pytest
from recipe_runner import figures, read, run_warm, stages


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def delete(path):
    path.unlink()


def link_to_itself(path):
    path.unlink()
    path.symlink_to(path.name)


def as_folder(path):
    path.unlink()
    path.mkdir()


# Of every kind of file that a run is made of, and of every kind of damage.
DAMAGES = (
    ("sft", "policy/adapter_model.safetensors", flip),
    ("reward", "reward/normalisation.json", flip),
    ("judge", "reward/adapter_config.json", as_folder),
    ("reference", "reference_logps.safetensors", flip),
    ("reference-samples", "rewards.npy", cut),
    ("dpo-seed0", "stage.json", flip),
    ("ppo-seed0", "policy/adapter_model.safetensors", cut),
    ("eval-baseline", "samples.jsonl", cut),
    ("eval-sft", "samples.jsonl", flip),
    ("eval-reward", "preferences.jsonl", delete),
    ("eval-dpo-seed0", "preferences.jsonl", flip),
    ("eval-ppo-seed0", "SHA256SUMS", link_to_itself),
)


def folder_of(run, name):
    return next(f for f in sorted((run / "stages").iterdir()) if f.name.rpartition("-")[0] == name)


@pytest.mark.slow
def test_damaged_stages_are_built_again_to_the_same_figures(finished, copy, options, tmp_path):
    damaged = []
    for name, file, damage in DAMAGES:
        folder = folder_of(copy, name)
        damage(folder / file)
        damaged.append(folder.name)
    (folder_of(copy, "reward") / "reward" / "note.txt").write_text("left by somebody")
    answer = run_warm("compare.py", *options, "--output", copy, cwd=tmp_path)
    assert answer.status == 0, answer.err
    said = [line for line in answer.err.splitlines() if "is damaged" in line]
    assert sorted(next(name for name in damaged if name in line) for line in said) == sorted(damaged), answer.err
    assert figures(read(copy / "comparison.json")) == figures(read(finished[0] / "comparison.json"))
    assert set(stages(copy)) == set(stages(finished[0]))
    for path in finished[0].glob("stages/*/*.jsonl"):
        if path.name != "metrics.jsonl":  # whose lines hold times
            assert (copy / path.relative_to(finished[0])).read_bytes() == path.read_bytes(), path
    assert sorted(path.name for path in (copy / "damaged").iterdir()) == sorted(damaged)

    shutil.rmtree(copy / "damaged")
    before = stages(copy)
    answer = run_warm("compare.py", *options, "--output", copy, cwd=tmp_path)
    assert "is damaged" not in answer.err
    assert stages(copy) == before, "nothing is built a third time"
