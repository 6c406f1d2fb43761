"""Specs are told apart; what cannot be evaluated is refused, and said why."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from ground_files import read

from preflab.errors import UserError
from preflab.eval.subjects import (
    PolicySubject,
    ResponsesSubject,
    RewardSubject,
    open_subject,
)


def characters(path, positions=128):
    """Save a GPT-2 that reads characters."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    letters = dict.fromkeys(["</s>", "<unk>", " ", *"word0123456789"])
    tokenizer = Tokenizer(models.WordLevel({x: i for i, x in enumerate(letters)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>").save_pretrained(path)
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": positions}
    GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0, bos_token_id=0)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return characters(tmp_path_factory.mktemp("foreign"))


def test_a_model_with_another_tokenizer_has_no_kl_and_says_so_once(ground, foreign, folder, caplog):
    records = open_subject(str(foreign)).evaluate(ground, "foreign")
    assert [m for m in caplog.messages if "tokens" in m and "foreign" in m] == [
        "foreign writes other tokens than the reference: no log-ratio, KL or implicit reward for it"
    ]
    undefined = ("log_ratio", "kl", "chosen_score", "rejected_score")
    assert not any((read(records, name) is not None) for name in undefined)
    assert all(
        (read(records, name) is not None)
        for name in ("entropy", "gold", "proxy", "chosen_logp", "rejected_logp", "ended")
    )
    ours = open_subject(str(folder / "policy")).evaluate(ground, "policy")
    assert records.fingerprint == ours.fingerprint, "the same rows"
    assert (read(records, "chosen_length") > read(ours, "chosen_length")).all()
    best = open_subject(f"best-of-4:{foreign}").evaluate(ground, "best")
    assert read(best, "proxy").mean() > read(records, "proxy").mean()
    assert read(best, "log_ratio") is None


def test_a_model_that_cannot_hold_the_rows_is_refused(ground, tmp_path):
    with pytest.raises(UserError, match=r"reads 20 tokens, .* takes \d+ in its tokenizer"):
        open_subject(str(characters(tmp_path, positions=20))).evaluate(ground, "short")


def test_a_model_whose_weights_are_of_other_shapes_is_refused(ground, tmp_path):
    characters(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_positions": 20}))
    with pytest.raises(UserError, match="cannot be loaded"):
        open_subject(str(tmp_path)).evaluate(ground, "torn")


# ---- what a person may name --------------------------------------------------------------------------


def test_specs_are_told_apart(folder, foreign, tmp_path):
    assert open_subject(str(folder / "policy")) == PolicySubject(str(folder / "policy"))
    assert open_subject(str(folder / "scorer")) == RewardSubject(str(folder / "scorer"))
    assert open_subject(str(foreign)) == PolicySubject(str(foreign), "causal language model", adapter=False)
    best = open_subject(f"best-of-16:{foreign}")
    assert (best.best_of, best.kind, best.role) == (16, "best of 16", "policy")
    assert isinstance(open_subject(str(folder / "pairs.jsonl")), ResponsesSubject)


@pytest.mark.parametrize(
    ("make", "spec", "part"),
    [
        (None, "nowhere", "adapter_config.json"),
        ("", "empty", "nothing that can be evaluated"),
        ("notes.txt", "empty/notes.txt", "no known kind"),
        ("config.json", "best-of-1:empty", "takes 2 to"),
        ("config.json", "best-of-4:best-of-4:empty", "policy"),
        (None, "best-of-4:nowhere", "nowhere"),
    ],
)
def test_what_names_nothing_is_refused_with_what_was_looked_for(tmp_path, monkeypatch, make, spec, part):
    monkeypatch.chdir(tmp_path)
    if make is not None:
        (tmp_path / "empty").mkdir()
    if make:
        (tmp_path / "empty" / make).write_text("{}")
    with pytest.raises(UserError, match=part):
        open_subject(spec)


def test_a_classifier_with_more_labels_is_no_reward_model(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForSequenceClassification"]}')
    with pytest.raises(UserError, match="2 labels"):
        open_subject(str(tmp_path))


def test_pickled_weights_are_not_read(ground, folder, tmp_path):
    import shutil

    shutil.copytree(folder / "rank2", tmp_path / "pickled")
    (tmp_path / "pickled" / "adapter_model.safetensors").rename(tmp_path / "pickled" / "adapter_model.bin")
    with pytest.raises(UserError, match="only safetensors"):
        open_subject(str(tmp_path / "pickled")).evaluate(ground, "pickled")


def test_an_adapter_of_which_a_part_finds_no_place_is_refused(ground, folder, tmp_path):
    """The library would load the rest, and say nothing."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / "rank2", tmp_path / "deeper")
    path = tmp_path / "deeper" / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file({**weights, name.replace("layers.0", "layers.7"): weights[name].clone()}, path)
    with pytest.raises(UserError, match=r"weights for .*layers\.7.*, which it does not name"):
        open_subject(str(tmp_path / "deeper")).evaluate(ground, "deeper")


def test_the_library_needs_no_method_and_no_trainer_of_another():
    """Evaluating is possible without training anything."""
    code = """
import sys
from preflab.eval import judges, metrics, statistics, subjects
import preflab.eval.harness.evaluate, preflab.eval.subjects.models
bad = sorted(m for m in sys.modules if m.startswith(('preflab.algorithms', 'preflab.recipes', 'trl')))
sys.exit(f'imported {bad}' if bad else 0)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_naming_subjects_needs_no_torch(folder):
    code = f"""
import sys
from preflab.eval.subjects import open_subject
open_subject({str(folder / "policy")!r})
sys.exit('torch' in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
