"""No token id goes into a model that has no embedding for it."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
from transformers import AutoTokenizer

from preflab.data.encoding import Encoder, load_tokenizer
from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.eval.settings import EvalConfig
from preflab.eval.subjects import Ground, open_subject
from preflab.experiment.experiment import Experiment
from preflab.settings.training import LoraSettings
from preflab.worlds import WorldConfig

LORA = LoraSettings(lora_rank=2, lora_alpha=4)
TEMPLATE = "{% for m in messages %}<|says|>{{ m['content'] }}<|over|>{% endfor %}"


@pytest.fixture
def added(tiny_model_path, tmp_path):
    """A model with 28 embeddings, whose tokenizer has 30 tokens."""
    folder = tmp_path / "added"
    shutil.copytree(tiny_model_path, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|says|>", "<|over|>"]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def pairs(path, messages):
    def wrap(text, role):
        return [{"role": role, "content": text}] if messages else text

    rows = [
        {
            "prompt": wrap(f"word{i}", "user"),
            "chosen": wrap(f" word{i}", "assistant"),
            "rejected": wrap(" word0", "assistant"),
        }
        for i in range(1, 24)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def open_experiment(model, data, folder, **options):
    world = WorldConfig(model=str(model), heldout=str(data), max_prompt_tokens=16, max_response_tokens=8, **options)
    return Experiment(Run(folder), world, LORA, folder)


def test_data_with_such_ids_are_refused_when_they_are_read(added, tmp_path):
    with pytest.raises(
        UserError, match=r"no embedding for \(it has 28\): 28 '<\|says\|>', 29 '<\|over\|>'; use"
    ) as error:
        open_experiment(added, pairs(tmp_path / "d.jsonl", True), tmp_path / "run")
    assert "\n" not in str(error.value)


def test_a_tokenizer_may_have_more_than_its_texts_use(added, tmp_path):
    # Its chat template writes them, so that the texts must stay texts.
    experiment = open_experiment(added, pairs(tmp_path / "d.jsonl", False), tmp_path / "run", dialogues="text")
    assert experiment.ends == (2,), "what cannot be drawn ends nothing"
    assert len(experiment.heldout) == 23


def test_a_policy_of_its_own_is_held_to_the_same(added, tiny_model_path, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(added)
    tokenizer.add_tokens(["word7"], special_tokens=True)
    tokenizer.add_tokens(["word9x"])
    tokenizer.save_pretrained(added)
    data = tmp_path / "d.jsonl"
    data.write_text(
        "".join(json.dumps({"prompt": f"word{i}", "chosen": " word9x", "rejected": " word1"}) + "\n" for i in range(20))
    )
    ground = Ground(open_experiment(tiny_model_path, data, tmp_path / "run"), EvalConfig(eval_prompts=4, eval_pairs=4))
    with pytest.raises(UserError, match=r"added.* no embedding .*'word9x'"):
        open_subject(str(added)).evaluate(ground, "own")


def test_a_base_with_fewer_embeddings_than_its_config_says_nothing_of(added, tmp_path, monkeypatch):
    monkeypatch.setattr("preflab.tokens.tokenising.embedding_rows", lambda name: None)
    monkeypatch.setattr("preflab.tokens.endings.embedding_rows", lambda name: None)
    experiment = open_experiment(added, pairs(tmp_path / "d.jsonl", True), tmp_path / "run")
    assert experiment.heldout
    with pytest.raises(UserError, match="no embedding"):
        experiment.load_base()


def test_padding_without_an_embedding_is_replaced_and_said(tiny_model_path, tmp_path, caplog):
    folder = tmp_path / "m"
    shutil.copytree(tiny_model_path, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    with caplog.at_level(logging.WARNING):
        loaded = load_tokenizer(str(folder))
    assert loaded.pad_token == "<unk>"
    assert "'[PAD]'" in caplog.text
    assert Encoder(loaded).prompt("word1") == [5]


def test_an_end_token_without_an_embedding_is_refused(tiny_model_path, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(tiny_model_path, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": "<|over|>"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="28 '<\\|over\\|>'"):
        Encoder(load_tokenizer(str(folder)))
