"""Pairs as one model reads them: text that gives its very tokens, in a task and for RewardBench; and folders."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from preflab.data.encoding import Encoder
from preflab.errors import UserError
from preflab.eval.exports.as_read import Opened, open_pairs, read_pairs, same_tokens
from preflab.eval.exports.command import main
from preflab.eval.exports.folders import for_older, whole_folder, write_classifier
from preflab.eval.exports.lm_eval import lm_eval_rows, task_name
from preflab.eval.exports.rewardbench import AS_IT_STANDS, reads_with, rewardbench_texts
from preflab.model.base import load_base
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings
from preflab.tokens.portable import portable, write_tokenizer

LORA = LoraSettings(lora_rank=4, lora_alpha=8, dtype="float32")
TEMPLATE = (
    "{% for m in messages %}{{ '<s> ' + m['role'] + ' ' + m['content'] + ' </s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s> assistant ' }}{% endif %}"
)
ROWS = [
    {"prompt": "word1 word2", "chosen": " word3", "rejected": " word4 word5", "subset": "s"},
    {"prompt": "word1 word6", "chosen": " word7 </s>", "rejected": " word8"},
    {"prompt": "word1 word9", "chosen": " word3", "rejected": " word4", "preference": 0.5},
    {"prompt": "word9", "response": " word3", "desirable": True},
]


@pytest.fixture
def folders(tmp_path, tiny_model_path, tiny_tokenizer):
    """A base that names no padding and counts positions its own way, with a template or without; a reward model."""

    def make(template=None):
        base, reward = tmp_path / "base", tmp_path / "reward"
        torch.manual_seed(0)
        model = load_base(str(tiny_model_path), LORA, device="cpu")
        model.config.pad_token_id = None
        model.config.rope_parameters["rope_theta"] = 77.0
        model.save_pretrained(base)
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(base)
        roles = Roles(load_base(str(base), LORA, device="cpu"), LORA, ("reward",))
        with torch.no_grad():
            for parameter in roles.parameters_of("reward"):
                parameter.add_(0.3 * torch.randn(parameter.shape))
        roles.save("reward", reward)
        return base, reward

    return make


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["preflab export", *map(str, arguments)])
    main()


def test_texts_up_to_the_end_token_and_what_is_no_pair(tiny_tokenizer, caplog):
    encoder = Encoder(tiny_tokenizer)
    found = read_pairs(ROWS, encoder, "x")
    assert [(pair.row, pair.prompt, pair.responses, pair.subset) for pair in found] == [
        (0, "word1 word2", (" word3</s>", " word4 word5</s>"), "s"),
        (1, "word1 word6", (" word7 </s>", " word8</s>"), None),
    ]
    assert "x: 2 of 4 rows are left out" in caplog.text
    assert found[0].ids == [encoder.prompt("word1 word2") + ids for ids in found[0].response_ids]
    assert all(ids[-1] == tiny_tokenizer.eos_token_id for pair in found for ids in pair.response_ids)
    with pytest.raises(UserError, match="no pair to export: neither response"):
        read_pairs(ROWS[2:3], encoder)


def test_what_a_program_reads_otherwise_is_left_out(tiny_tokenizer, caplog):
    pairs = read_pairs(ROWS[:2], Encoder(tiny_tokenizer))
    # The text is words between blanks, to which "word3</s>" is one that is not known.
    assert not any(map(reads_with(tiny_tokenizer), [pair._replace(prompt="word2") for pair in pairs]))
    assert same_tokens(pairs, lambda pair: pair.row == 1, "P", "x") == pairs[1:]
    assert "x: 1 of 2 pairs are left out: P would read other tokens" in caplog.text
    with pytest.raises(UserError, match="x: P would read other tokens than the model in all 2 pairs"):
        same_tokens(pairs, lambda pair: False, "P", "x")


def test_rewardbench_texts_of_an_evaluation_are_those_it_scored(tiny_tokenizer):
    pairs = read_pairs(ROWS[:2], Encoder(tiny_tokenizer))
    found = rewardbench_texts(pairs, [{"row": 1}, {"row": 0}])
    assert [row["id"] for row in found] == [1, 0]
    assert found[0]["chosen"] == [
        {"role": "user", "content": "word1 word6"},
        {"role": "assistant", "content": " word7 </s>"},
    ]
    with pytest.raises(UserError, match="scored pair 2, which is none of these 2 pairs"):
        rewardbench_texts(pairs, [{"row": 2}])


def test_a_tie_counts_half_in_the_task(tiny_tokenizer):
    rows = lm_eval_rows(read_pairs(ROWS[:2], Encoder(tiny_tokenizer)))
    assert [row["label"] for row in rows] == [0, 1]
    assert rows[0]["choices"] == [" word3</s>", " word4 word5</s>"]
    assert rows[1]["choices"] == [" word8</s>", " word7 </s>"]


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["text", "messages"])
def test_rewardbench_as_a_model_reads_them(folders, template, tmp_path, monkeypatch, capsys):
    base, reward = folders(template)
    source = lines(tmp_path / "pairs.jsonl", ROWS[:2])
    run(monkeypatch, source, "--rewardbench", tmp_path / "out.jsonl", "--model", reward)
    assert "rewardbench --model CLASSIFIER --tokenizer" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out.tokenizer")
    pairs, encoder = open_pairs(str(source), Opened.of(str(reward)))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == len(pairs) == 2
    for row, pair in zip(rows, pairs, strict=True):
        for name, ids in zip(("chosen", "rejected"), pair.ids, strict=True):
            text = tokenizer.apply_chat_template(row[name], tokenize=False)
            assert tokenizer(text)["input_ids"] == ids
            assert ids[-1] == encoder.eos
    assert tokenizer(text).keys() == {"input_ids", "attention_mask"}, "no types of tokens, which classifiers refuse"
    with pytest.raises(UserError, match="is there already"):
        run(monkeypatch, source, "--rewardbench", tmp_path / "out.jsonl", "--model", base)


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["text", "messages"])
def test_a_task_says_how_it_is_run(folders, template, tmp_path, monkeypatch, capsys):
    base, reward = folders(template)
    source = lines(tmp_path / "pairs.jsonl", ROWS[:2])
    run(monkeypatch, source, "--lm-eval", tmp_path / "held-out 1", "--model", reward)
    said = capsys.readouterr().out
    assert f"pretrained={base},peft={reward},dtype=float32" in said
    assert ("add_bos_token=False" in said) == (template is not None)
    task = yaml.safe_load((tmp_path / "held-out 1" / "held_out_1.yaml").read_text())
    assert task["task"] == task_name(tmp_path / "held-out 1") == "held_out_1"
    (data,) = task["dataset_kwargs"]["data_files"].values()
    rows = [json.loads(line) for line in Path(data).read_text(encoding="utf-8").splitlines()]
    assert [row["label"] for row in rows] == [0, 1]
    assert rows[0]["prompt"].rstrip().endswith("word2" if template is None else "assistant")


def test_a_classifier_that_every_version_opens(folders, tmp_path):
    _, reward = folders(TEMPLATE)
    write_classifier(Opened.of(str(reward)), tmp_path / "classifier")
    config = json.loads((tmp_path / "classifier" / "config.json").read_text())
    assert (config["rope_theta"], config["torch_dtype"]) == (77.0, "float32")
    assert config["pad_token_id"] not in (None, config["eos_token_id"])
    again = AutoConfig.from_pretrained(tmp_path / "classifier")
    assert again.rope_parameters["rope_theta"] == 77.0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "classifier")
    said = json.loads((tmp_path / "classifier" / "tokenizer_config.json").read_text())
    assert said["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer.pad_token_id == config["pad_token_id"]
    dialogue = [{"role": "user", "content": "word1"}, {"role": "assistant", "content": "word2"}]
    text = tokenizer.apply_chat_template(dialogue, tokenize=False)
    assert text.endswith("word2 </s>")
    assert tokenizer(text)["input_ids"].count(tokenizer.bos_token_id) == 2, "what the template wrote, and no more"
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier")
    assert model.config.num_labels == 1
    with pytest.raises(UserError, match="is there already"):
        write_classifier(Opened.of(str(reward)), tmp_path / "classifier")


def test_what_is_no_reward_model_leaves_nothing(folders, tmp_path):
    base, _ = folders()
    with pytest.raises(UserError, match="score"):
        write_classifier(Opened.of(str(base)), tmp_path / "classifier")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "reward"]


def test_an_adapters_own_template_is_read(folders, tmp_path):
    base, reward = folders()
    assert Opened.of(str(reward)).tokenizer.chat_template is None
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(reward)
    opened = Opened.of(str(reward))
    assert (opened.base, opened.adapter, opened.tokenizer.chat_template) == (str(base), reward, TEMPLATE)
    (reward / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(UserError, match="does not say which model"):
        Opened.of(str(reward))


def test_older_names_of_a_config():
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "partial_rotary_factor": 0.5}
    found = for_older({"rope_parameters": rope, "dtype": "float32", "x": 1})
    assert (found["rope_theta"], found["partial_rotary_factor"], found["torch_dtype"], found["x"]) == (
        5e5,
        0.5,
        "float32",
        1,
    )
    assert found["rope_scaling"] == {name: value for name, value in rope.items() if name != "rope_theta"}
    assert "rope_scaling" not in for_older({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}})
    layers = {"full_attention": {"rope_theta": 1e6}}
    assert for_older({"rope_parameters": layers}) == {"rope_parameters": layers}


def test_tokenizers_of_the_general_class(tiny_tokenizer, tmp_path):
    from tokenizers.processors import TemplateProcessing

    starting = copy.deepcopy(tiny_tokenizer)
    starting.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    for adds in (True, False):
        write_tokenizer(tmp_path, portable(starting, adds=adds), AS_IT_STANDS)
        found = AutoTokenizer.from_pretrained(tmp_path)
        assert found("word1")["input_ids"] == [1] * adds + starting("word1", add_special_tokens=False)["input_ids"]
    assert starting("word1")["input_ids"][0] == 1, "the given one stays what it is"
    assert found.apply_chat_template([{"role": "user", "content": " a "}] * 2, tokenize=False) == " a  a "
    write_tokenizer(tmp_path, portable(starting, adds=True), {"default": "A", "tool_use": "B"})
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == {"default": "A", "tool_use": "B"}


def test_a_folder_is_whole_or_not_there(tmp_path):
    def fail():
        with whole_folder(tmp_path / "a" / "b") as place:
            (place / "file").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not any((tmp_path / "a").iterdir())
    (tmp_path / "a" / "b").mkdir()
    with whole_folder(tmp_path / "a" / "b") as place:
        (place / "file").write_text("x")
    assert [path.name for path in (tmp_path / "a").rglob("*")] == ["b", "file"]
