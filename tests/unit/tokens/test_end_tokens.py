"""Every end token counts, and all who ask agree on them."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from tiny_llama import tiny_llama
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

import preflab.sampling.sampler
from preflab.data.encoding import CUT, Encoder, load_tokenizer
from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.eval.settings import EvalConfig
from preflab.eval.subjects import Ground, open_subject
from preflab.experiment.experiment import Experiment
from preflab.model.roles import Roles
from preflab.sampling.sampler import TransformersSampler
from preflab.settings.training import LoraSettings, TrainConfig
from preflab.tokens.endings import Ends
from preflab.training.task import Task
from preflab.training.trl_model import copy_for_trl
from preflab.worlds import WorldConfig, open_world

PAD, START, END, TURN, STOP, WORDS = 0, 1, 2, 28, 29, 30
TURNS = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <|turn|> \n{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
LORA = LoraSettings(lora_rank=2, lora_alpha=4)


def make_model(folder, tiny_tokenizer, eos=None, template=None):
    """A tiny model whose tokenizer knows a turn's end and a stop, as instruct models do."""

    folder.mkdir()
    tiny_tokenizer.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|stop|>"]})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = tiny_llama(WORDS, layers=2, pad=PAD, start=START, end=END)
    if eos is not None:
        model.generation_config = GenerationConfig(eos_token_id=eos)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory, tiny_tokenizer):
    return make_model(tmp_path_factory.mktemp("ends") / "chat", tiny_tokenizer, eos=[END, STOP], template=TURNS)


# ---- the set -----------------------------------------------------------------------------------------


def test_ends_are_the_tokenizers_the_templates_and_the_models(chat_model, tiny_tokenizer):
    assert Ends.of(tiny_tokenizer) == Ends((END,), END)
    assert Ends.of(load_tokenizer(str(chat_model))) == Ends((END, TURN, STOP), TURN)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[-1]['content'] }}|| and on",  # closed by what is several tokens
        "{% for m in messages %}{{ m['content'] }}{% endfor %}",  # by nothing
        "{{ raise_exception('no') }}",
        "<|turn|>{{ messages[-1]['content'].upper() }}",  # other words than it was given
    ],
)
def test_a_template_that_closes_with_no_token_leaves_the_tokenizers(tiny_tokenizer, chat_model, template):
    tokenizer = load_tokenizer(str(chat_model))
    tokenizer.chat_template = template
    assert Ends.of(tokenizer) == Ends((END, STOP), END)


@pytest.mark.parametrize("wrong", [WORDS, -1, "</s>", [END, None], 2.0, [[2]], True])
def test_an_end_that_is_no_token_is_refused(tmp_path, tiny_tokenizer, wrong):
    folder = make_model(tmp_path / "m", tiny_tokenizer)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": wrong}))
    with pytest.raises(UserError, match=r"generation_config\.json .*names end token .* 30 tokens"):
        Encoder(load_tokenizer(str(folder)))


def test_a_generation_config_that_cannot_be_read_is_refused(tmp_path, tiny_tokenizer):
    folder = make_model(tmp_path / "m", tiny_tokenizer)
    (folder / "generation_config.json").write_text('{"eos_token_id": ')
    with pytest.raises(UserError, match=r"generation_config\.json .* cannot be read"):
        Encoder(load_tokenizer(str(folder)))


def test_what_the_library_filled_in_is_no_mistake_of_the_user(tmp_path, tiny_tokenizer, caplog):
    folder = make_model(tmp_path / "m", tiny_tokenizer)
    (folder / "generation_config.json").write_text(json.dumps({"_from_model_config": True, "eos_token_id": 50256}))
    assert Encoder(load_tokenizer(str(folder))).ends.ids == (END,)
    assert "50256" in caplog.text


def test_an_end_that_was_added_as_an_ordinary_token_is_no_text(tmp_path, tiny_tokenizer):
    folder = make_model(tmp_path / "m", tiny_tokenizer, eos=[END, 5])
    plain = PreTrainedTokenizerFast.from_pretrained(folder)
    plain.add_tokens(["<|bye|>", "<|hi|>"])
    plain.chat_template = TURNS.replace("<|turn|>", "<|bye|>")
    plain.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": WORDS + 2}))
    tokenizer = load_tokenizer(str(folder))
    bye, hi = tokenizer.convert_tokens_to_ids(["<|bye|>", "<|hi|>"])
    assert Ends.of(tokenizer) == Ends((END, bye, 5), bye)
    assert tokenizer.decode([6, hi, 5, bye], skip_special_tokens=True) == "word2 <|hi|> word1", "a word is text"
    assert tokenizer("word2 <|bye|>", add_special_tokens=False)["input_ids"] == [6, bye]


# ---- encoding ----------------------------------------------------------------------------------------


def test_answers_end_as_the_template_ends_them(chat_model):
    encoder = Encoder(load_tokenizer(str(chat_model)), chat=True)
    assert encoder.response("user word1 <|turn|> \nassistant ", "word2 <|turn|> \n") == [6, TURN]
    assert encoder.response("user word1 <|turn|> \nassistant ", "word2") == [6, TURN]
    assert not encoder.noted


def test_raw_answers_keep_the_end_they_have(chat_model, caplog):
    encoder = Encoder(load_tokenizer(str(chat_model)))
    found = [
        encoder.response("word1", f" word2{end}") for end in ("", " </s>", " <|turn|>", " <|stop|>", " <|stop|> </s>")
    ]
    assert found == [[6, END], [6, END], [6, TURN], [6, STOP], [6, STOP]]
    assert not encoder.noted
    for _ in range(2):
        assert encoder.response("word1", " word2 <|stop|> word3") == [6, STOP]
    assert encoder.noted == {CUT: {" word2 <|stop|> word3"}}
    with caplog.at_level(logging.WARNING):
        encoder.report("x.jsonl")
        encoder.report("x.jsonl")
    assert caplog.messages == [f"x.jsonl: 1 {CUT}"]


def test_pairs_that_are_equal_as_tokens_are_dropped_and_counted(chat_model):
    encoder = Encoder(load_tokenizer(str(chat_model)))
    unknown = {"prompt": "word1", "chosen": " this", "rejected": " that"}
    cut = {"prompt": "word1", "chosen": " word1 </s> word2", "rejected": " word1 </s> word3"}
    good = {"prompt": "word1", "chosen": " word1", "rejected": " word2"}
    groups, dropped = encoder.encode_pairs([unknown, good, cut])
    assert [group.row for group in groups] == [1]
    assert dropped["chosen and rejected equal as tokens"] == 2
    assert len(encoder.encode_pairs([unknown, good, cut], equals=True)[0]) == 3
    with pytest.raises(UserError, match="same tokens in all 1 rows"):
        encoder.encode_pairs([unknown])


@pytest.mark.parametrize("bad_rows", ["drop", "refuse"])
def test_the_real_world_says_so(chat_model, tmp_path, caplog, bad_rows):
    data = tmp_path / "d.jsonl"
    rows = [{"prompt": f"word{i}", "chosen": f" odd{i}", "rejected": f" word{i % 2}"} for i in range(12)]
    rows[3] |= {"chosen": " this", "rejected": " that"}
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = WorldConfig(
        model=str(chat_model), heldout=str(data), max_prompt_tokens=8, max_response_tokens=8, bad_rows=bad_rows
    )
    if bad_rows == "refuse":
        with pytest.raises(UserError, match=r"d\.jsonl: 1 of 12 pairs have chosen and rejected equal as tokens"):
            open_world(config, tmp_path)
    else:
        assert len(open_world(config, tmp_path).heldout) == 11
        assert "1 of 12 pairs" in caplog.text


# ---- sampling ----------------------------------------------------------------------------------------


def make_roles(folder):
    return Roles(AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False), LORA)


def answers(samples):
    return [
        ids[mask].tolist()
        for ids, mask in zip(
            samples.batch.response_ids.flatten(0, 1), samples.batch.response_mask.flatten(0, 1), strict=True
        )
    ]


def test_the_loop_stops_at_whichever_end_comes_first(chat_model):
    roles, prompts, ends = make_roles(chat_model), [[1, 5, 6], [1, 7]], (END, TURN, STOP)

    def draw(end_ids):
        return TransformersSampler(end_ids, PAD, 12)(roles, "policy", prompts, k=32, temperature=1.0, seed=0)

    one, all_of_them = draw(END), draw(ends)
    for whole, kept, ended in zip(
        draw((999,)).batch.response_ids.flatten(0, 1).tolist(),
        answers(all_of_them),
        all_of_them.ended.flatten().tolist(),
        strict=True,
    ):
        first = next((i for i, token in enumerate(whole) if token in ends), None)
        assert kept == (whole if first is None else whole[: first + 1])
        assert ended == (first is not None)
    assert {kept[-1] for kept in answers(all_of_them)} >= set(ends)
    assert answers(draw((END,))) == answers(one)


def test_generate_stops_there_too(chat_model, monkeypatch):
    monkeypatch.setattr(preflab.sampling.sampler, "feeder_of", lambda *args: None)
    samples = TransformersSampler((END, TURN, STOP), PAD, 12)(
        make_roles(chat_model), "policy", [[1, 5, 6], [1, 7]], k=32, temperature=1.0, seed=0
    )
    found = answers(samples)
    assert {row[-1] for row in found} >= {END, TURN, STOP}
    assert not any({END, TURN, STOP} & set(row[:-1]) for row in found)
    assert samples.ended.flatten().tolist() == [row[-1] in (END, TURN, STOP) for row in found]


# ---- everybody agrees --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"prompt": f"word{i} word{i + 1}", "chosen": f" word{i % 4} word3 word4", "rejected": f" word{i % 4}"}
        for i in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def open_experiment(model, pairs, run):
    config = WorldConfig(model=str(model), heldout=str(pairs), max_prompt_tokens=16, max_response_tokens=8)
    return Experiment(Run(run), config, LORA, run)


def test_an_experiment_tells_its_samplers_and_trl(chat_model, pairs, tmp_path):
    experiment = open_experiment(chat_model, pairs, tmp_path)
    assert experiment.sampler().end_ids == experiment.ends == (END, TURN, STOP)
    assert experiment.identity()["ends"] == experiment.ends
    roles = make_roles(chat_model)
    task = Task(roles, [], TrainConfig(), experiment.tokenizer, tmp_path, 0, "t", end_ids=experiment.ends)
    assert copy_for_trl(task, "policy", False).generation_config.eos_token_id == [END, TURN, STOP]
    assert task._replace(end_ids=()).ends == (END,)


def test_a_policy_of_its_own_stops_at_its_own_ends(chat_model, pairs, tmp_path):
    """The same tokens, but another generation config: log-ratios still mean something."""
    plain = tmp_path / "plain"
    shutil.copytree(chat_model, plain)
    (plain / "generation_config.json").write_text(json.dumps({"eos_token_id": [END, 9, 10, 11, 12, 13, 14, 15]}))
    experiment = open_experiment(chat_model, pairs, tmp_path / "run")
    ground = Ground(experiment, EvalConfig(eval_prompts=20, eval_pairs=4, eval_batch_size=4))
    samples = open_subject(str(plain)).evaluate(ground, "own").samples
    ids = [experiment.tokenizer(row["response"], add_special_tokens=False)["input_ids"] for row in samples]
    assert any(row and row[-1] in range(9, 16) for row in ids)
    assert not any(set(row[:-1]) & set(range(9, 16)) for row in ids)
    assert all(row["log_ratio"] is not None for row in samples)
    assert [row["ended"] for row in samples] == [
        row["length"] < 8 or bool(row_ids and row_ids[-1] in range(9, 16))
        for row, row_ids in zip(samples, ids, strict=True)
    ]
