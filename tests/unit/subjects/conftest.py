"""A folder of subjects, and the ground that they are evaluated on."""

from __future__ import annotations

import json

import pytest
from ground_files import CONFIG, open_experiment, random_role, rows, spec_of

from preflab.eval.subjects import Ground, RewardSubject
from preflab.settings.training import LoraSettings


@pytest.fixture(scope="session")
def folder(tmp_path_factory, tiny_model_path):
    """A folder of subjects: adapters of two shapes, models of their own, responses."""
    folder = tmp_path_factory.mktemp("subjects")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(40)))
    experiment = open_experiment(folder / "pairs.jsonl", tiny_model_path, folder / "making")
    for name, rank, role in (
        ("policy", 4, "policy"),
        ("rank2", 2, "policy"),
        ("scorer", 4, "reward"),
        ("other", 2, "reward"),
    ):
        random_role(experiment, LoraSettings(lora_rank=rank, lora_alpha=8), role, folder / name)
    return folder


@pytest.fixture(scope="session")
def experiment(folder, tiny_model_path):
    return open_experiment(folder / "pairs.jsonl", tiny_model_path, folder / "run")


@pytest.fixture(scope="session")
def ground(experiment, folder):
    class CountsWord:
        def __call__(self, batch, prompts, texts):
            assert len(prompts) == len(texts) == len(batch.prompt_ids)
            return [[float(text.count("word1")) for text in row] for row in texts]

    reward = RewardSubject(str(folder / "scorer")).play(experiment)
    return Ground(experiment, CONFIG, reward=reward, judge=spec_of(lambda roles: CountsWord()))
