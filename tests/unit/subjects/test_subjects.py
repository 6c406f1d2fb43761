"""What can be evaluated: all kinds, on the same rows, with the same columns."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ground_files import CONFIG, close, open_experiment, read, rows, spec_of

from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.eval.comparison.contestant import Contestant
from preflab.eval.comparison.preferences import summarise_preferences
from preflab.eval.comparison.record import summarise
from preflab.eval.subjects import (
    Ground,
    RewardSubject,
    open_subject,
)
from preflab.experiment.experiment import Experiment
from preflab.settings.training import LoraSettings

SAMPLE_COLUMNS = ["prompt", "response", "length", "ended", "log_ratio", "kl", "entropy", "gold", "proxy"]
PAIR_COLUMNS = {
    "group",
    *("row", "subset", "chosen_score", "rejected_score", "chosen_logp", "rejected_logp"),
    *("chosen_length", "rejected_length"),
}


def merged_folder(folder, experiment, name):
    """A plain model with the weights of an adapter folded in, beside its tokenizer."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(experiment.load_base(), folder / name).merge_and_unload()
    model.save_pretrained(folder / f"{name}-merged")
    experiment.tokenizer.save_pretrained(folder / f"{name}-merged")
    return folder / f"{name}-merged"


def test_soft_labels_of_held_out_pairs_reach_the_figures(folder, tiny_model_path, tmp_path):
    pairs = tmp_path / "soft.jsonl"
    given = [{**row, **({"preference": 0.6 + i / 100} if i % 2 else {})} for i, row in enumerate(rows(10))]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in given))
    ground = Ground(open_experiment(pairs, tiny_model_path, tmp_path / "run"), CONFIG, generate=False)
    for subject in (RewardSubject(str(folder / "scorer")), RewardSubject(str(folder / "other"))):  # roles; a classifier
        found = subject.evaluate(ground, "scorer").preferences
        assert [row["preference"] for row in found] == [row.get("preference", 1.0) for row in given]
        margins = np.array([row["chosen_score"] - row["rejected_score"] for row in found])
        labels = np.array([row["preference"] for row in found])
        expected = np.mean(np.logaddexp(0, -margins) + (1 - labels) * margins)
        summary = summarise_preferences([found], "reward")
        assert summary["log_loss"]["mean"] == pytest.approx(expected, rel=1e-9)


SCORES = ("chosen_score", "rejected_score")
POLICY_FIGURES = (*SCORES, "chosen_logp", "rejected_logp", "log_ratio", "kl", "entropy", "gold", "proxy", "length")


# ---- the same figures by every road ------------------------------------------------------------------


def test_a_policy_gives_every_column(ground, folder):
    records = open_subject(str(folder / "policy")).evaluate(ground, "policy")
    assert [list(row) for row in records.samples] == [SAMPLE_COLUMNS] * 6
    assert [set(row) for row in records.preferences] == [PAIR_COLUMNS] * 10
    assert all((read(records, name) is not None) for name in SAMPLE_COLUMNS[2:])
    assert [row["row"] for row in records.preferences] == list(range(10))
    assert [row["subset"] for row in records.preferences] == ["easy", "hard"] * 5
    assert read(records, "kl").min() > 0
    assert read(records, "entropy").min() > 0
    assert (read(records, "chosen_logp") < 0).all()
    assert read(records, "rejected_length").tolist() == [6.0] * 10  # five words and the end
    tax = summarise(Contestant("policy", [records])).figures["demonstration_logp"]
    assert tax.mean == pytest.approx(np.mean(read(records, "chosen_logp") / 4))


def test_an_adapter_and_the_model_it_is_folded_into_are_one_policy(ground, experiment, folder):
    for name in ("policy", "rank2"):  # of the settings' shape, and of another
        adapter = open_subject(str(folder / name)).evaluate(ground, name)
        model = open_subject(str(merged_folder(folder, experiment, name))).evaluate(ground, name)
        assert [r["response"] for r in adapter.samples] == [r["response"] for r in model.samples]
        close(adapter, model, POLICY_FIGURES)


def test_a_reward_model_is_the_same_as_adapter_and_as_classifier(ground, experiment, folder):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    adapter = open_subject(str(folder / "scorer")).evaluate(ground, "adapter")
    assert adapter.samples == []
    assert not (read(adapter, "chosen_logp") is not None)
    base = AutoModelForSequenceClassification.from_pretrained(experiment.world.model, num_labels=1)
    model = PeftModel.from_pretrained(base, folder / "scorer").merge_and_unload()
    for pad in (0, None):  # without a padding token, texts are read one by one
        model.config.pad_token_id = pad
        model.save_pretrained(folder / "classifier")
        experiment.tokenizer.save_pretrained(folder / "classifier")
        found = open_subject(str(folder / "classifier")).evaluate(ground, "classifier")
        close(found, adapter, SCORES)


def test_a_reward_adapter_of_another_shape_is_read_as_it_is(ground, experiment, folder, tiny_model_path):
    found = open_subject(str(folder / "other")).evaluate(ground, "other")
    lora = LoraSettings(lora_rank=2, lora_alpha=8)
    fitting = Experiment(Run(folder / "rank2-run"), experiment.world_config, lora, folder / "rank2-run")
    close(found, RewardSubject(str(folder / "other")).evaluate(ground._replace(experiment=fitting), "other"), SCORES)


def test_any_reward_model_can_give_the_proxy_and_the_gold_reward(ground, experiment, folder):
    policy = open_subject(str(folder / "policy"))
    records = []
    for name in ("other", "scorer"):
        subject = RewardSubject(str(folder / name))
        changed = ground._replace(reward=subject.play(experiment), judge=spec_of(subject.judge(experiment, CONFIG)))
        records.append(policy.evaluate(changed, name))
    for found in records:
        close(found, found, ("proxy",))
        assert np.allclose(read(found, "gold"), read(found, "proxy"), atol=1e-4)
    assert not np.allclose(read(records[0], "proxy"), read(records[1], "proxy"), atol=0.01)


def test_best_of_n_raises_the_proxy_and_defines_no_exact_kl(ground, folder):
    one = open_subject(str(folder / "policy")).evaluate(ground, "one")
    best = open_subject(f"best-of-8:{folder / 'policy'}").evaluate(ground, "best")
    assert read(best, "proxy").mean() > read(one, "proxy").mean()
    assert not any((read(best, name) is not None) for name in ("kl", "entropy", "chosen_logp"))
    assert read(best, "log_ratio") is not None
    scorer = open_subject(str(folder / "scorer")).evaluate(ground, "scorer")
    for name in SCORES:  # the normalised reward, which the samples were chosen by
        assert np.allclose(read(best, name), (read(scorer, name) - 0.3) / 0.7, atol=1e-4)
    with pytest.raises(UserError, match="--reward-model"):
        open_subject(f"best-of-8:{folder / 'policy'}").evaluate(ground._replace(reward=None), "best")


def test_best_of_n_works_for_a_model_of_its_own(ground, experiment, folder):
    adapter = open_subject(f"best-of-4:{folder / 'policy'}").evaluate(ground, "best")
    model = open_subject(f"best-of-4:{merged_folder(folder, experiment, 'policy')}").evaluate(ground, "best")
    close(adapter, model, (*SCORES, "log_ratio", "proxy", "gold"))


# ---- files of responses ------------------------------------------------------------------------------


def test_responses_are_judged_like_samples(ground, folder, tmp_path):
    policy = open_subject(str(folder / "policy")).evaluate(ground, "policy")
    policy.write(tmp_path)
    found = open_subject(str(tmp_path)).evaluate(ground, "again")  # an evaluation's own folder
    assert found.preferences == []
    assert [row["response"] for row in found.samples] == [row["response"] for row in policy.samples]
    assert np.array_equal(read(found, "gold"), read(policy, "gold"))
    assert not any((read(found, name) is not None) for name in ("ended", "log_ratio", "kl", "entropy"))
    outputs = [{"instruction": r["prompt"], "output": r["response"], "generator": "x"} for r in policy.samples[::-1]]
    (tmp_path / "outputs.json").write_text(json.dumps(outputs))
    again = open_subject(str(tmp_path / "outputs.json")).evaluate(ground, "outputs")
    assert again.samples == found.samples


def test_responses_must_answer_every_prompt(ground, tmp_path):
    (tmp_path / "few.jsonl").write_text('{"prompt": "word1", "response": "word2"}\n')
    with pytest.raises(UserError, match="0 of 6 evaluation prompts"):
        open_subject(str(tmp_path / "few.jsonl")).evaluate(ground, "few")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "word1"}\n')
    with pytest.raises(UserError, match=r"bad.jsonl, row 1"):
        open_subject(str(tmp_path / "bad.jsonl")).evaluate(ground, "bad")
