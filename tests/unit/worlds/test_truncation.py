"""What is over the token limits: cut in place of dropped, counted and said."""

from __future__ import annotations

import logging

import pytest
from real_rows import open_rows, pair, source, write
from tokenizers import processors

from preflab.data.encoding import LONG_PROMPT, LONG_RESPONSE, Encoder, load_tokenizer
from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.experiment.experiment import Experiment
from preflab.settings.training import LoraSettings
from preflab.worlds import WorldConfig

BOTH = ("prompt", "response")
CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def texts(encoder, ids):
    return encoder.tokenizer.decode(ids)


def test_a_long_prompt_keeps_its_end_and_a_long_response_its_beginning(model):
    """One token a byte: the response goes on from the whole prompt, and bears no end token where it was cut."""
    encoder = Encoder(load_tokenizer(model), 6, 5, truncate=BOTH)
    rows = [pair(0, prompt="0123456789", chosen="abcdefgh", rejected="ab"), pair(1, prompt="short?", rejected="abcd")]
    (long, short), dropped = encoder.encode_pairs(rows)
    assert dropped == {"prompt too long": 0, "response too long": 0}
    assert texts(encoder, long.prompt_ids) == "456789"
    assert [texts(encoder, ids) for ids in long.response_ids] == ["abcde", "ab</s>"]
    assert texts(encoder, short.prompt_ids) == "short?"
    assert [texts(encoder, ids) for ids in short.response_ids] == ["Good ", "abcd</s>"]
    assert {what: len(found) for what, found in encoder.noted.items()} == {LONG_PROMPT: 1, LONG_RESPONSE: 2}
    assert encoder.prompt("0123456789") == long.prompt_ids, "what the policy samples after is what it learns after"
    assert encoder.response("0123456789", "abcdefgh") == long.response_ids[0]
    (alone,), _ = encoder.encode_prompts([{"prompt": "0123456789"}])
    assert alone.prompt_ids == long.prompt_ids


def test_what_fits_is_as_it_was(model):
    plain, cut = (Encoder(load_tokenizer(model), 40, 20, truncate=kinds) for kinds in ((), BOTH))
    rows = [pair(i) for i in range(20)]
    assert plain.encode_pairs(rows) == cut.encode_pairs(rows)
    exactly = pair(0, chosen="x" * 19)  # and the end token
    assert plain.encode_pairs([exactly])[0][0].response_ids == cut.encode_pairs([exactly])[0][0].response_ids
    assert not cut.noted


@pytest.mark.parametrize(("limit", "kept"), [(4, "<s>789"), (2, "<s>9"), (1, "9")])
def test_a_start_token_stays_before_what_is_left(model, limit, kept):
    tokenizer = load_tokenizer(model)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    encoder = Encoder(tokenizer, limit, 5, truncate=("prompt",))
    assert texts(encoder, encoder.prompt("0123456789")) == kept


def test_pairs_that_differ_behind_the_limit_alone_are_dropped(model):
    encoder = Encoder(load_tokenizer(model), 40, 3, truncate=BOTH)
    found, dropped = encoder.encode_pairs([pair(0, chosen="abcd", rejected="abce"), pair(1)])
    assert len(found) == 1
    assert dropped["chosen and rejected equal as tokens"] == 1


def test_a_world_counts_and_says_what_it_cuts(model, tmp_path, caplog):
    rows = [pair(i) for i in range(40)] + [pair(50, prompt="p" * 30), pair(51, chosen="r" * 30), pair(52)]
    limits = {"max_prompt_tokens": 16, "max_response_tokens": 20}
    dropped = open_rows(model, tmp_path, rows, **limits)
    assert source(dropped)["too long"] == {"prompt too long": 1, "response too long": 1}
    assert "cut at the limits" not in source(dropped)
    with caplog.at_level(logging.WARNING):
        world = open_rows(model, tmp_path, rows, **limits, long_prompts="truncate", long_responses="truncate")
    assert source(world)["too long"] == {"prompt too long": 0, "response too long": 0}
    assert source(world)["cut at the limits"] == {LONG_PROMPT: 1, LONG_RESPONSE: 1}
    assert source(world)["pairs used"] == source(dropped)["pairs used"] + 2
    assert f"1 {LONG_PROMPT}" in caplog.text
    assert f"1 {LONG_RESPONSE}" in caplog.text


def test_a_dialogue_loses_turns_before_it_loses_words(model, tmp_path):
    rows = [pair(i, prompt=f"Human: a{i}\n\nAssistant: b\n\nHuman: c{i}\n\nAssistant:") for i in range(10, 50)]
    longest = "Human: x\n\nAssistant: y\n\nHuman: " + "z" * 40 + "\n\nAssistant:"
    options = {"max_prompt_tokens": 24, "gold_fraction": 0, "long_prompts": "truncate"}
    world = open_rows(model, tmp_path, [*rows, pair(60, prompt=longest)], **options)
    assert source(world)["cut to their last turns"] == 40
    assert source(world)["cut at the limits"] == {LONG_PROMPT: 1}
    every = {prompt for name in ("pairs", "heldout") for prompt in getattr(world, name)["prompt"]}
    assert every == {*(f"Human: c{i}\n\nAssistant:" for i in range(10, 50)), longest}


def test_an_experiment_cuts_as_its_world_does_and_its_keys_say_so(tiny_model_path, tmp_path):
    rows = [
        pair(i, prompt=f"word{i % 20} word{i // 20}" + " word9" * 9, chosen="word1 " * (5 + i), rejected="word2")
        for i in range(40)
    ]
    files = {"model": str(tiny_model_path), "max_prompt_tokens": 6, "max_response_tokens": 12}
    data = write(tmp_path / "pairs.jsonl", rows)
    config = WorldConfig(**files, dataset=data, long_prompts="truncate", long_responses="truncate")
    experiment = Experiment(Run(tmp_path / "run"), config, LoraSettings(), tmp_path / "cache")
    assert {len(group.prompt_ids) for group in experiment.pairs} == {6}
    assert experiment.encoder.truncate == BOTH
    assert experiment.rankings == experiment.pairs, "encoded by the world, and by the experiment"
    assert experiment.identity()["limits"]["truncated"] == BOTH


@pytest.mark.parametrize("option", [{"long_prompts": "truncate"}, {"long_responses": "truncate"}])
@pytest.mark.parametrize("world", [{}, {"reward": "preflab.rewards.examples:happy_story"}])
def test_worlds_that_make_their_own_data_refuse_it(option, world, tiny_model_path):
    model = {"model": str(tiny_model_path)} if world else {}
    with pytest.raises((ValueError, UserError), match="is for real data"):
        WorldConfig(**option, **world, **model)


def test_messages_lose_the_first_words_of_their_last_turn_and_keep_their_form(model, tmp_path):
    """What the system says, the markers and the end of the question stay."""
    (tmp_path / "chat.jinja").write_text(CHATML)

    def asked(i, question):
        said = (("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", f"{question}{i}?"))
        return pair(i, prompt=[{"role": role, "content": text} for role, text in said], group=i)

    rows = [*(asked(i, "c") for i in range(10, 50)), asked(60, "x" * 90)]
    options = {"max_prompt_tokens": 60, "gold_fraction": 0.0, "chat_template": str(tmp_path / "chat.jinja")}
    world = open_rows(model, tmp_path, rows, **options, long_prompts="truncate")
    prompts = {prompt for name in ("pairs", "heldout") for prompt in getattr(world, name)["prompt"]}
    assert source(world)["cut to their last turns"] == 40
    assert source(world)["cut at the limits"] == {LONG_PROMPT: 1}
    [long] = [prompt for prompt in prompts if prompt.endswith("60?</s><|assistant|>")]
    rest = "<|system|>Be brief.</s><|user|>", "60?</s><|assistant|>"
    assert (long.startswith(rest[0]), long.endswith(rest[1])) == (True, True)
    encoder = Encoder(load_tokenizer(model), 60, chat=True)
    assert len(encoder.prompt(long)) == 60, "as much as fits"
    assert world.asked[long].messages[-1]["content"] == long.removeprefix(rest[0]).removesuffix("</s><|assistant|>")
    dropped = open_rows(model, tmp_path, rows, **options, long_prompts="last-turns")
    assert source(dropped)["too long"]["prompt too long"] == 1
