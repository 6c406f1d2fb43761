"""RewardBench's own command makes our harness's decisions: of adapters and classifiers, with templates and without."""

from __future__ import annotations

import math

import numpy as np
import pytest
from peers import HERE, LORA, export, python_of, read_lines, run_in

from preflab.disk.files import write_json
from preflab.disk.stages import Run
from preflab.eval.exports.as_read import read_pairs
from preflab.eval.exports.rewardbench import rewardbench_texts
from preflab.eval.harness.evaluate import evaluate_reward_model
from preflab.eval.settings import EvalConfig
from preflab.experiment.experiment import Experiment
from preflab.model.roles import Roles
from preflab.tokens.portable import portable, write_tokenizer
from preflab.worlds import WorldConfig

pytestmark = pytest.mark.timeout(600)

NOISE = 1e-4
"""Pairs whose scores are closer are set aside, and counted."""

PADDED = 5e-4
"""Of scores: RewardBench pads on the left, which moves those of these models by 1.8e-4; without padding it is 7e-6."""


@pytest.fixture(scope="module")
def judged(kind, tmp_path_factory):
    """What our harness says of the pairs, by the texts that the model reads; and these as RewardBench's rows."""
    folder = tmp_path_factory.mktemp("run")
    limits = {"max_prompt_tokens": 1000, "max_response_tokens": 1000}
    experiment = Experiment(
        Run(folder), WorldConfig(model=str(kind.base), heldout=str(kind.pairs), **limits), LORA, folder
    )
    roles = Roles(experiment.load_base(), LORA, ("reward",))
    roles.start("reward", kind.reward)
    rows = evaluate_reward_model(experiment, roles, EvalConfig(eval_batch_size=8), title="reward").preferences
    texts = rewardbench_texts(read_pairs(experiment.world.heldout, experiment.encoder), rows)
    assert len(rows) == len(texts) == len(read_lines(kind.pairs)), "none is left out"
    return {(row["chosen"][0]["content"], row["chosen"][1]["content"], row["rejected"][1]["content"]): scores
            for row, scores in zip(texts, rows, strict=True)}  # fmt: skip


@pytest.fixture(scope="module")
def classifier(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged")
    export(kind.reward, "--classifier", folder / "classifier", cwd=folder)
    return folder / "classifier"


def rewardbench(folder, model, dataset, *, tokenizer=None, adapter=False, batch_size=8):
    """Return what RewardBench saves of each pair, having run it where the model lies."""
    python_of("rewardbench")
    request = {"model": model.name, "dataset": str(dataset), "tokenizer": tokenizer and str(tokenizer)}
    write_json(folder / "request.json", {**request, "adapter": adapter, "batch_size": batch_size})
    (folder / model.name).symlink_to(model)
    run_in("rewardbench", [HERE / "in_rewardbench.py", folder / "request.json"], cwd=folder, seconds=500)
    return read_lines(folder / "results" / f"{model.name}_outputs.jsonl")


def check(found, ours):
    """See that all decisions are the same, by scores that are, and that they are not all of one kind."""
    scores = np.array([[row["chosen_score"], row["rejected_score"]] for row in ours])
    theirs = np.array([[np.ravel(row[f"scores_{name}"])[0] for name in ("chosen", "rejected")] for row in found])
    gaps = scores[:, 0] - scores[:, 1]
    clear = abs(gaps) >= NOISE
    same = (gaps > 0) == np.array([row["results"] == 1 for row in found])
    print(
        f"{same[clear].sum()} of {clear.sum()} decisions, {(~clear).sum()} set aside, {abs(scores - theirs).max():.1e}"
    )
    assert same[clear].all()
    assert clear.sum() >= 0.95 * len(found) >= 0.95 * 120
    assert 0.1 < (gaps > 0).mean() < 0.9
    assert scores.std() > 0.1
    np.testing.assert_allclose(theirs, scores, atol=PADDED, rtol=NOISE)


@pytest.mark.parametrize("opened", ["classifier", "adapter"])
def test_pairs_as_the_model_reads_them(kind, judged, classifier, opened, tmp_path):
    export(kind.pairs, "--rewardbench", "pairs.jsonl", "--model", kind.reward, cwd=tmp_path)
    model = classifier if opened == "classifier" else kind.reward
    data, tokenizer = tmp_path / "pairs.jsonl", tmp_path / "pairs.tokenizer"
    found = rewardbench(tmp_path, model, data, tokenizer=tokenizer, adapter=opened == "adapter")
    rows = read_lines(data)
    keys = [(row["chosen"][0]["content"], row["chosen"][1]["content"], row["rejected"][1]["content"]) for row in rows]
    assert len(keys) == len(judged)
    check(found, [judged[key] for key in keys])


def test_messages_by_the_classifiers_own_template(kind, judged, classifier, tmp_path):
    """The way of RewardBench's own data: messages that nobody has written yet, and a template that ends as ours do."""
    if kind.name == "text":
        pytest.skip("has no template")
    export(kind.pairs, "--rewardbench", "pairs.jsonl", cwd=tmp_path)
    found = rewardbench(tmp_path, classifier, tmp_path / "pairs.jsonl")
    assert len(found) == len(judged)
    check(found, list(judged.values()))


def test_a_template_that_goes_on_leads_to_other_decisions(kind, judged, classifier, tmp_path):
    """What closed templates are for: the base's own goes on behind the end token, and the score is read there."""
    if kind.name == "text":
        pytest.skip("has no template")
    (tmp_path / "open").mkdir()
    write_tokenizer(tmp_path / "open", portable(kind.tokenizer, adds=False), kind.tokenizer.chat_template)
    export(kind.pairs, "--rewardbench", "pairs.jsonl", cwd=tmp_path)
    found = rewardbench(tmp_path, classifier, tmp_path / "pairs.jsonl", tokenizer=tmp_path / "open")
    others = [
        row["results"] != (ours["chosen_score"] > ours["rejected_score"])
        for row, ours in zip(found, judged.values(), strict=True)
    ]
    print(f"{kind.name}: {sum(others)} of {len(others)} decisions are others by the base's own template")
    assert sum(others) > len(others) / 20


def test_what_is_checked_can_fail(kind, judged):
    """Scores of another token, and two swapped decisions, are seen."""
    ours = list(judged.values())
    found = [{"results": int(row["chosen_score"] > row["rejected_score"]), "scores_chosen": row["chosen_score"],
              "scores_rejected": row["rejected_score"]} for row in ours]  # fmt: skip
    check(found, ours)
    at = max(range(len(ours)), key=lambda i: ours[i]["chosen_score"] - ours[i]["rejected_score"])
    with pytest.raises(AssertionError):
        check([{**row, "results": row["results"] ^ (i == at)} for i, row in enumerate(found)], ours)
    with pytest.raises(AssertionError):
        check([{**row, "scores_chosen": row["scores_chosen"] + 0.01 * math.pi} for row in found], ours)
