"""The function world: a reward is checked first, samples are kept, labels follow Bradley-Terry."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from preflab.data.encoding import Encoder, load_tokenizer
from preflab.data.splits import normalised
from preflab.disk.seals import SUMS
from preflab.errors import UserError
from preflab.settings.fields import as_dict
from preflab.worlds import World, WorldConfig, open_world
from preflab.worlds.function import finished
from preflab.worlds.function.samples import Sample

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "models"
STORIES = ("stories260K", "tinystories-656k")
SPLITS = ("pairs", "heldout", "prompts", "eval_prompts")
REWARDS = """
import itertools, math
counter = itertools.count()
def words(prompt, response): return 0.2 * len(set(response.split()))
def strong(prompt, response): return 1000.0 * len(set(response.split()))
def constant(prompt, response): return 1.0
def mute(prompt, answer): return 0.0
def three(prompt, response, more): return 0.0
def failing(prompt, response): return 1 / len(response.split())
def no_number(prompt, response): return None
def text(prompt, response): return "7"
def nan(prompt, response): return math.nan
def infinite(prompt, response): return math.inf
def restless(prompt, response): return float(next(counter))
def late(prompt, response): return [1.0, math.nan]["word7" in response]
class Judge:
    def __init__(self, prompt, response): pass
limit = 3
"""


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rewards") / "my_rewards.py"
    path.write_text(REWARDS)
    return str(path)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def config(model: Path | str, reward: str, **options: Any) -> WorldConfig:
    options = {"max_pairs": 200, "max_prompt_tokens": 32, "max_response_tokens": 48, **options}
    return WorldConfig(model=str(model), reward=reward, **options)


@pytest.fixture(scope="module")
def world(tiny_model_path: Path, rewards: str, cache: Path) -> World:
    return open_world(config(tiny_model_path, f"{rewards}:words"), cache)


# ---- the reward --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("limit", "is no function"),
        ("Judge", "is no function"),
        ("mute", r"arguments \(prompt, answer\); a reward takes \(prompt, response\)"),
        ("three", "asks for the column 'more', and the function world's own prompts have none"),
        ("failing", "raised ZeroDivisionError.* prompt 'Once upon a time' and response ''"),
        ("no_number", r"returned None \(NoneType\), not a number"),
        ("text", "not a number"),
        ("nan", "returned nan; it must be finite"),
        ("infinite", "returned inf"),
        ("restless", "two different values"),
        ("word", r"did you mean 'words'\?"),
    ],
)
def test_bad_reward_is_refused_before_the_model_is_touched(
    name: str, message: str, rewards: str, tmp_path: Path
) -> None:
    empty = tmp_path / "no_model"  # opening it would give another message
    empty.mkdir()
    with pytest.raises(UserError, match=message):
        open_world(config(empty, f"{rewards}:{name}"), tmp_path)


# ---- the splits --------------------------------------------------------------------------------------


def test_splits_are_disjoint_and_shaped_by_the_contract(world: World) -> None:
    train, heldout = set(world.pairs["prompt"]), set(world.heldout["prompt"])
    assert train
    assert heldout
    assert not {normalised(p) for p in train} & {normalised(p) for p in heldout}
    assert sorted(world.prompts["prompt"]) == sorted(train)
    assert sorted(world.eval_prompts["prompt"]) == sorted(heldout)
    assert not len(world.demonstrations)
    assert not len(world.gold_pairs)
    assert {"prompt", "response"} <= set(world.demonstrations.column_names)
    for row in [*world.pairs, *world.heldout]:
        assert row["chosen"].strip()
        assert normalised(row["chosen"]) != normalised(row["rejected"])


def test_facts_are_plain_and_add_up(world: World) -> None:
    facts = json.loads(json.dumps(world.facts, allow_nan=False))
    assert facts["rows"] == {name: len(getattr(world, name)) for name in SPLITS}
    counts = facts["counts"]
    samples = sum(n for name, n in counts.items() if name.startswith("responses "))
    pairs = sum(n for name, n in counts.items() if name.startswith("pairs dropped"))
    # The tiny model never writes a full stop: what it did not end itself is dropped.
    assert samples == 2 * (pairs + facts["rows"]["pairs"] + facts["rows"]["heldout"])
    assert "responses cut after a sentence" not in counts
    assert counts["responses dropped: no whole sentence"] > 0


def test_every_pair_fits_the_token_limits(world: World, tiny_model_path: Path) -> None:
    encoder = Encoder(load_tokenizer(str(tiny_model_path)), 32, 48)
    _, dropped = encoder.encode_pairs([*world.pairs, *world.heldout])
    assert sum(dropped.values()) == 0


def test_rewards_beside_the_pairs_are_those_of_the_texts(world: World) -> None:
    assert world.gold is not None
    for side in ("chosen", "rejected"):
        assert world.gold(world.pairs["prompt"], world.pairs[side]) == world.pairs[f"{side}_reward"]


# ---- seeds and cache ---------------------------------------------------------------------------------


def test_same_config_gives_the_same_world_and_another_seed_another(
    world: World, tiny_model_path: Path, rewards: str, tmp_path: Path
) -> None:
    again = open_world(config(tiny_model_path, f"{rewards}:words"), tmp_path)
    assert again.facts == world.facts
    other = open_world(config(tiny_model_path, f"{rewards}:words", data_seed=1), tmp_path)
    assert other.facts["fingerprints"] != world.facts["fingerprints"]


def forbid_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("preflab.model.base.load_base", refuse)


def test_samples_are_reused_also_for_another_reward(
    world: World, tiny_model_path: Path, rewards: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_sampling(monkeypatch)
    assert open_world(config(tiny_model_path, f"{rewards}:words"), cache).facts == world.facts
    other = open_world(config(tiny_model_path, f"{rewards}:strong"), cache)
    assert other.facts["prompts"] == world.facts["prompts"]
    assert other.facts["fingerprints"]["pairs"] != world.facts["fingerprints"]["pairs"]
    with pytest.raises(AssertionError, match="was loaded"):
        open_world(config(tiny_model_path, f"{rewards}:words", max_response_tokens=47), cache)


def test_leftovers_of_a_killed_build_are_not_used(
    world: World, tiny_model_path: Path, rewards: str, cache: Path, tmp_path: Path
) -> None:
    (finished_folder,) = (f for f in cache.glob("function-*") if f.is_dir())
    leftover = tmp_path / f".{finished_folder.name}.unfinished"
    leftover.mkdir()
    (leftover / "samples.jsonl").write_text("half")
    assert open_world(config(tiny_model_path, f"{rewards}:words"), tmp_path).facts == world.facts
    assert not leftover.exists()


def test_only_texts_are_kept(world: World, cache: Path) -> None:
    assert {f.name for folder in cache.glob("function-*") for f in folder.iterdir()} == {"samples.jsonl", SUMS}


def test_samples_stop_at_every_end_token_and_keep_the_words_among_them(
    tiny_model_path: Path, rewards: str, tmp_path: Path
) -> None:
    model, ends = tmp_path / "model", [2, *range(10, 18)]  # </s>, word6 to word13
    shutil.copytree(tiny_model_path, model)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"word{i} word{i + 1}\n" for i in range(12)))
    found = open_world(config(model, f"{rewards}:words", prompts=str(prompts), max_pairs=48), tmp_path)
    words = {f"word{i}" for i in range(6, 14)}
    texts = [*found.pairs["chosen"], *found.pairs["rejected"]]
    assert any(text.split()[-1] in words for text in texts)
    assert not any(words & set(text.split()[:-1]) for text in texts)
    encoder = Encoder(load_tokenizer(str(model)), 64, 64)
    for text in texts:
        assert encoder.response("word1", text)[-1] in ends
        assert len(encoder.response("word1", text)) == len(text.split()) + (text.split()[-1] not in words)


# ---- labels ------------------------------------------------------------------------------------------


def test_labels_agree_with_the_reward_as_often_as_bradley_terry_says(
    world: World, tiny_model_path: Path, rewards: str, cache: Path
) -> None:
    facts = world.facts
    decided = facts["rows"]["pairs"] + facts["rows"]["heldout"] - facts["equal_rewards"]
    expected = facts["label_agreement_expected"]
    assert 0.55 < expected < 0.95  # else the check below would say nothing
    # Four standard deviations of a mean of coins, each fair or biased: at most 1/(2 sqrt(n)).
    assert abs(facts["label_agreement"] - expected) < 4 * 0.5 / math.sqrt(decided)
    strong = open_world(config(tiny_model_path, f"{rewards}:strong"), cache)
    assert strong.facts["label_agreement"] == 1.0


def test_equal_rewards_give_coin_flips_and_no_agreement(
    world: World, tiny_model_path: Path, rewards: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    constant = open_world(config(tiny_model_path, f"{rewards}:constant"), cache)
    assert "the same value; labels are chance" in caplog.text
    assert constant.facts["label_agreement"] is None
    by_length = open_world(config(tiny_model_path, f"{rewards}:strong"), cache)
    rows = zip(constant.pairs["chosen"], by_length.pairs["chosen"], strict=True)
    same = [a == b for a, b in rows]
    assert abs(sum(same) / len(same) - 0.5) < 4 * 0.5 / math.sqrt(len(same))


@pytest.mark.parametrize(
    ("text", "ended", "kept"),
    [
        (" He ran. She sat", True, " He ran. She sat"),
        (" He ran. She sat", False, " He ran."),
        (' "Go!" said Tim. "Why?" He', False, ' "Go!" said Tim. "Why?"'),
        (" It cost 3.50 and", False, None),
        (" no end", False, None),
        ("  ", True, None),
        ("", False, None),
        (" まあ。そう", False, " まあ。"),
    ],
)
def test_broken_off_samples_are_cut_after_a_sentence(text: str, ended: bool, kept: str | None) -> None:
    assert finished(Sample(text, ended)) == kept


# ---- prompts -----------------------------------------------------------------------------------------


def test_prompt_files_of_both_kinds_give_the_same_world(tiny_model_path: Path, rewards: str, tmp_path: Path) -> None:
    texts = [f"word{i} word{i + 1}" for i in range(12)]
    lines, rows = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    lines.write_text("\n".join([*texts, "", texts[0].upper(), texts[1] + " "]))
    rows.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    worlds = [
        open_world(config(tiny_model_path, f"{rewards}:words", prompts=str(path), max_pairs=48), tmp_path)
        for path in (lines, rows)
    ]
    assert worlds[0].facts["fingerprints"] == worlds[1].facts["fingerprints"]
    assert {*worlds[0].pairs["prompt"], *worlds[0].heldout["prompt"]} <= set(texts)
    # 48 pairs were asked for and there are 12 prompts: several pairs each.
    assert len(worlds[0].pairs) + len(worlds[0].heldout) > 2 * len(texts)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "\n\nonly one\n", "holds 1 different prompts"),
        (
            "p.jsonl",
            '{"prompt": "a"}\n{"text": "b"}\n',
            r"that are no prompt: missing field 'prompt': 1 \(row 2\)",
        ),
        ("p.pdf", "x", "unknown suffix"),
    ],
)
def test_bad_prompt_files_are_refused(
    name: str, content: str, message: str, rewards: str, tiny_model_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        open_world(config(tiny_model_path, f"{rewards}:words", prompts=str(path)), tmp_path)


def test_options_without_meaning_are_refused(rewards: str, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("")
    with pytest.raises(UserError, match="takes no heldout"):
        open_world(config(tmp_path, f"{rewards}:words", heldout=str(data)), tmp_path)


def test_too_few_pairs_say_what_became_of_the_samples(tiny_model_path: Path, rewards: str, tmp_path: Path) -> None:
    options = {"max_pairs": 8, "max_response_tokens": 2}
    with pytest.raises(UserError, match=r"responses dropped: no whole sentence: \d"):
        open_world(config(tiny_model_path, f"{rewards}:words", **options), tmp_path)


# ---- real story models -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STORIES)
def test_story_models_give_readable_pairs(name: str, tmp_path: Path) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the story model {SHARED / name}, which is no part of the project")
    chosen = config(SHARED / name, "preflab.rewards.examples:happy_story", max_pairs=64)
    world = open_world(chosen, tmp_path)
    tokenizer = load_tokenizer(str(SHARED / name))
    encoder = Encoder(tokenizer, chosen.max_prompt_tokens, chosen.max_response_tokens)
    assert len(world.pairs) + len(world.heldout) > 48
    for row in world.pairs:
        assert tokenizer.decode(encoder.prompt(row["prompt"]), skip_special_tokens=True).strip() == row["prompt"]
        assert not any(token in row["chosen"] + row["prompt"] for token in tokenizer.all_special_tokens)
    assert world.facts["counts"]["responses cut after a sentence"] > 0
    assert as_dict(chosen)["reward"] in json.dumps(world.facts)
