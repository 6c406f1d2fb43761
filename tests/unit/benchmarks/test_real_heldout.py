"""Real models on real held-out preferences, against a few lines of transformers that know nothing of this project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from preflab.disk.stages import Run
from preflab.eval.records.columns import needed
from preflab.eval.settings import EvalConfig
from preflab.eval.subjects import Ground, PolicySubject, RewardSubject, open_subject
from preflab.experiment.experiment import Experiment
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings
from preflab.worlds import WorldConfig

SHARED = Path(__file__).parents[4] / "shared"
STORIES, TINY = SHARED / "models" / "stories260K", SHARED / "models" / "tinystories-656k"
DATA = {"hh": SHARED / "data" / "hh_heldout.jsonl.gz", "llmbar": SHARED / "data" / "llmbar_processed_human.jsonl.gz"}
PAIRS = 20

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"real models and data are not at {SHARED}")


@pytest.fixture(scope="module", params=DATA)
def ground(request, tmp_path_factory):
    """The real held-out pairs that fit the small model, drawn by seed, and adapters that say something."""
    limits = {"max_prompt_tokens": 250, "max_response_tokens": 250, "max_pairs": PAIRS}
    config = WorldConfig(model=str(STORIES), heldout=str(DATA[request.param]), **limits)
    folder = tmp_path_factory.mktemp(request.param)
    experiment = Experiment(Run(folder / "run"), config, LoraSettings(lora_rank=4, dtype="float32"), folder)
    roles = Roles(experiment.load_base(), experiment.lora, ("policy", "reward"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for role in ("policy", "reward"):
            for parameter in roles.parameters_of(role):
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
            roles.save(role, folder / role)
    return Ground(experiment, EvalConfig(eval_batch_size=8), generate=False)


def folder_of(ground):
    return ground.experiment.run.folder.parent


def texts(ground, records, side):
    rows = [ground.experiment.world.heldout[row["row"]] for row in records.preferences]
    return [(row["prompt"], row[side]) for row in rows]


@torch.no_grad()
def independent_logp(model, tokenizer, prompt, response):
    """log π(y|x) with the end token, one text at a time, in float64."""
    start, ids = tokenizer(prompt).input_ids, [*tokenizer(prompt + response).input_ids, tokenizer.eos_token_id]
    assert ids[: len(start)] == start
    logps = model(torch.tensor([ids])).logits[0, len(start) - 1 : -1].log_softmax(-1)
    return logps.gather(1, torch.tensor(ids[len(start) :])[:, None]).sum().item()


def load(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64), AutoTokenizer.from_pretrained(folder)


def check(ground, records, chosen, rejected, names):
    assert len(records.preferences) == PAIRS
    for name, expected in zip(names, (chosen, rejected), strict=True):
        # Float32 here, float64 there; an implicit reward is the difference of two log-probabilities.
        assert np.abs(needed([records.preferences], name)[0] - expected).max() < (2e-4 if "score" in name else 1e-4), (
            name
        )
    scores, others = (needed([records.preferences], name)[0] for name in names)
    right = scores > others
    assert right.tolist() == (np.array(chosen) > np.array(rejected)).tolist()
    assert 0 < right.mean() < 1


@pytest.mark.parametrize("source", [None, TINY], ids=["base", "other-tokenizer"])
def test_plain_likelihood(ground, source):
    subject = open_subject(str(source)) if source else PolicySubject(None)
    records = subject.evaluate(ground, "model")
    model, tokenizer = load(source or STORIES)
    found = [
        [independent_logp(model, tokenizer, *text) for text in texts(ground, records, side)]
        for side in ("chosen", "rejected")
    ]
    check(ground, records, *found, ("chosen_logp", "rejected_logp"))


def test_implicit_reward(ground):
    from peft import PeftModel

    records = open_subject(str(folder_of(ground) / "policy")).evaluate(ground, "policy")
    base, tokenizer = load(STORIES)
    adapted = PeftModel.from_pretrained(load(STORIES)[0], folder_of(ground) / "policy").double()
    found = [
        [
            independent_logp(adapted, tokenizer, *text) - independent_logp(base, tokenizer, *text)
            for text in texts(ground, records, side)
        ]
        for side in ("chosen", "rejected")
    ]
    check(ground, records, *found, ("chosen_score", "rejected_score"))


def test_reward_model(ground):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = folder_of(ground) / "reward"
    records = RewardSubject(str(folder)).evaluate(ground, "reward")
    base = AutoModelForSequenceClassification.from_pretrained(STORIES, num_labels=1, dtype=torch.float64)
    model, tokenizer = PeftModel.from_pretrained(base, folder).double(), AutoTokenizer.from_pretrained(STORIES)

    @torch.no_grad()
    def score(prompt, response):
        return model(torch.tensor([[*tokenizer(prompt + response).input_ids, tokenizer.eos_token_id]])).logits.item()

    found = [[score(*text) for text in texts(ground, records, side)] for side in ("chosen", "rejected")]
    check(ground, records, *found, ("chosen_score", "rejected_score"))


def test_subsets_are_those_of_the_data(ground):
    records = PolicySubject(None).evaluate(ground, "model")
    given = ground.experiment.world.heldout
    subsets = {row["subset"] for row in records.preferences}
    if "subset" not in given.column_names:
        assert subsets == {None}
    else:
        assert [row["subset"] for row in records.preferences] == given["subset"]
        assert len(subsets) > 1
