"""The real world: preference files to disjoint, cleaned, counted splits."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from real_rows import SPLITS, open_rows, pair, source, write
from tokenizers import Tokenizer, normalizers
from transformers import AutoConfig, PreTrainedTokenizerFast

from preflab.data.encoding import Encoder, load_tokenizer
from preflab.data.splits import fingerprint, normalised
from preflab.errors import UserError
from preflab.worlds import World, WorldConfig, open_world

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_splits_are_disjoint_and_complete(model: str, tmp_path: Path) -> None:
    # Two pairs to each prompt: they must not be separated.
    rows = [pair(i // 2, rejected=f"Bad {i}.", subset="ab"[i % 2]) for i in range(400)]
    world = open_rows(model, tmp_path, rows)
    prompts = {name: set(getattr(world, name)["prompt"]) for name in SPLITS}
    assert prompts["demonstrations"] == prompts["prompts"] == prompts["pairs"]
    assert prompts["eval_prompts"] == prompts["heldout"]
    assert not prompts["pairs"] & prompts["heldout"]
    assert not prompts["pairs"] & prompts["gold_pairs"]
    assert not prompts["gold_pairs"] & prompts["heldout"]
    assert sum(len(getattr(world, name)) for name in ("pairs", "heldout", "gold_pairs")) == 400
    assert len(world.prompts) == len(set(world.prompts["prompt"])) == len(world.pairs) / 2
    # 200 groups at .2 held out and .25 * .8 = .2 gold: 40 each, standard deviation 5.7; four of them.
    assert all(abs(len(prompts[name]) - 40) < 23 for name in ("heldout", "gold_pairs"))
    assert set(world.heldout["subset"]) == {"a", "b"}
    assert world.demonstrations["response"] == world.pairs["chosen"]
    assert (world.name, world.model, world.gold, world.chat) == ("real", model, None, False)


def test_same_config_same_world_and_another_seed_another(model: str, tmp_path: Path) -> None:
    rows = [pair(i) for i in range(60)]
    facts = [open_rows(model, tmp_path, rows, data_seed=seed, max_pairs=40).facts for seed in (0, 0, 1)]
    assert facts[0] == facts[1]
    assert facts[0]["fingerprints"] != facts[2]["fingerprints"]
    assert facts[0]["rows"]["pairs"] + facts[0]["rows"]["heldout"] + facts[0]["rows"]["gold_pairs"] == 40


def test_more_data_moves_no_prompt(model: str, tmp_path: Path) -> None:
    rows = [pair(i) for i in range(120)]
    few, many = open_rows(model, tmp_path, rows[:60]), open_rows(model, tmp_path, rows)
    for name in SPLITS:
        assert set(getattr(few, name)["prompt"]) <= set(getattr(many, name)["prompt"])


def test_counts_go_into_the_facts(model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = ["{not json", pair(1, chosen=""), pair(2, rejected=pair(2)["chosen"]), {"prompt": "x"}]
    long = [pair(3, prompt="x" * 61), pair(4, chosen="y" * 40)]
    with caplog.at_level(logging.INFO):
        world = open_rows(
            model,
            tmp_path,
            bad + long + [pair(i) for i in range(50)],
            max_prompt_tokens=60,
            max_response_tokens=40,  # 40 characters and the end token are one too many
        )
    assert source(world) == {
        "name": str(tmp_path / "data.jsonl"),
        "rows read": 56,
        "bad rows": {
            "chosen equal to rejected": {"count": 1, "first rows": [3]},
            "empty response": {"count": 1, "first rows": [2]},
            "missing field 'chosen'": {"count": 1, "first rows": [4]},
            "not JSON": {"count": 1, "first rows": [1]},
        },
        "too long": {"prompt too long": 1, "response too long": 1},
        "pairs used": 50,
        "longer response wins": 1.0,
    }
    assert world.facts["rows"] == {name: len(getattr(world, name)) for name in world.facts["rows"]}
    assert world.facts["fingerprints"]["pairs"] == fingerprint(world.pairs)
    json.dumps(world.facts)
    assert "4 bad rows dropped" in caplog.text
    assert "56 read, 4 bad, 2 too long, 0 leaking" in caplog.text


def test_long_dialogues_keep_the_last_turns_that_fit(model: str, tmp_path: Path) -> None:
    def last(i: int, turns: int) -> str:
        return f"Human: c {i}?\n\nAssistant:" if turns == 1 else f"Human: b?\n\nAssistant: B\n\n{last(i, 1)}"

    rows = [pair(i, prompt=f"Human: the first of {i}\n\nAssistant: A\n\n{last(i, 2)}") for i in range(10, 50)]
    too_long = pair(0, prompt="Human: x\n\nAssistant: X\n\nHuman: " + "y" * 90)
    limit: dict[str, Any] = {"max_prompt_tokens": len(last(10, 2)), "gold_fraction": 0}  # one token per character
    with pytest.raises(UserError, match="prompt too long: 40"):
        open_rows(model, tmp_path, rows, **limit)
    limit["long_prompts"] = "last-turns"
    world = open_rows(model, tmp_path, [*rows, too_long, pair(7)], **limit)
    assert source(world)["cut to their last turns"] == 40
    assert source(world)["too long"] == {"prompt too long": 1, "response too long": 0}
    assert {*world.pairs["prompt"], *world.heldout["prompt"]} == {
        pair(7)["prompt"],
        *(last(i, 2) for i in range(10, 50)),
    }
    limit["max_prompt_tokens"] -= 1
    shorter = open_rows(model, tmp_path, rows, **limit)
    assert {*shorter.pairs["prompt"], *shorter.heldout["prompt"]} == {last(i, 1) for i in range(10, 50)}
    # One opening and two ends: the whole dialogue's first turn says that they belong together.
    limit["heldout_fraction"] = 0.5
    twins = [pair(i, prompt=f"Human: an opening {i // 2}\n\nAssistant: A\n\n{last(i, 1)}") for i in range(20, 60)]
    groups = open_rows(model, tmp_path, twins, **limit).pairs["group"]
    assert all(groups.count(group) == 2 for group in groups)


def test_preference_and_margin_reach_every_split_and_fingerprint(model: str, tmp_path: Path) -> None:
    plain = open_rows(model, tmp_path, [pair(i) for i in range(60)])
    assert not {"preference", "margin"} & set(plain.pairs.column_names)
    world = open_rows(model, tmp_path, [pair(i, preference=0.5 + i / 200, margin=i) for i in range(60)])
    for name in ("pairs", "heldout", "gold_pairs"):
        split = getattr(world, name)
        numbers = [int(prompt.split()[1][:-1]) for prompt in split["prompt"]]
        assert list(split["preference"]) == [0.5 + i / 200 for i in numbers]
        assert list(split["margin"]) == numbers
        assert world.facts["fingerprints"][name] != plain.facts["fingerprints"][name]
    assert world.facts["fingerprints"]["demonstrations"] == plain.facts["fingerprints"]["demonstrations"]
    turned = open_rows(model, tmp_path, [pair(i, preference=0.25) for i in range(60)])
    assert set(turned.pairs["chosen"]) == {"Bad."} == set(turned.demonstrations["response"])


@pytest.mark.parametrize("extra", [{}, {"preference": 0.75}])
def test_what_opening_encoded_is_what_the_encoder_gives(model: str, tmp_path: Path, extra: dict[str, Any]) -> None:
    """Feedback included: where one row of a split says how sure it is, all of that split do."""
    rows = [pair(i // 2, rejected=f"Bad {i}.", **(extra if i < 3 else {})) for i in range(120)]
    heldout = write(tmp_path / "heldout.jsonl", [pair(i) for i in range(100, 110)])
    world = open_rows(model, tmp_path, rows, heldout=heldout, chat_template=None)
    encoder = Encoder(load_tokenizer(model))
    encode = {
        **dict.fromkeys(("pairs", "heldout", "gold_pairs"), encoder.encode_pairs),
        **dict.fromkeys(("prompts", "eval_prompts"), encoder.encode_prompts),
        "demonstrations": encoder.encode_demonstrations,
    }
    assert set(world.encoded) == set(encode)
    for name, work in encode.items():
        assert world.encoded[name] == work(getattr(world, name))[0], name


def test_refused_bad_rows(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.jsonl has bad rows: empty response: 1 \(row 2\)"):
        open_rows(model, tmp_path, [pair(0), pair(1, chosen="")], bad_rows="refuse")


@pytest.mark.parametrize("count", [1, 2])
def test_too_little_data_is_answered_with_counts(model: str, tmp_path: Path, count: int) -> None:
    with pytest.raises(UserError, match=r"too little data: no .* pairs are left \(.*train \d"):
        open_rows(model, tmp_path, [pair(i) for i in range(count)])


def test_separate_heldout_file_may_overlap_and_loses_what_does(model: str, tmp_path: Path) -> None:
    rows = [pair(i) for i in range(40)]
    heldout = write(tmp_path / "heldout.jsonl", [pair(i) for i in range(30, 60)] + [pair(61, chosen=" ")])
    world = open_rows(model, tmp_path, rows, heldout=heldout, gold_fraction=0.0)
    assert len(world.pairs) == 40
    assert len(world.gold_pairs) == 0
    assert world.gold_pairs.column_names == ["prompt", "chosen", "rejected", "group"]
    assert sorted(world.heldout["prompt"]) == sorted(pair(i)["prompt"] for i in range(40, 60))
    assert world.facts["leaking held-out rows dropped"] == 10
    assert source(world, "heldout")["bad rows"]["empty response"]["first rows"] == [31]
    with pytest.raises(UserError, match=r"no heldout pairs are left .*40 held-out rows dropped"):
        open_rows(model, tmp_path, rows, heldout=str(tmp_path / "data.jsonl"))


def test_one_prompt_is_said_with_the_way_out(model: str, tmp_path: Path) -> None:
    """A column 'group' would not help: a prompt is on one side only."""
    rows = [pair(0, chosen=f" word{i}", group=i) for i in range(30)]
    with pytest.raises(UserError, match=r"they have one prompt; give rows of other prompts") as error:
        open_rows(model, tmp_path, [{k: v for k, v in row.items() if k != "group"} for row in rows])
    assert "column" not in str(error.value)
    assert "fraction" not in str(error.value)


def test_pairs_that_are_equal_as_tokens_are_dropped(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lower = tmp_path / "lower"
    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    tokenizer.normalizer = normalizers.Lowercase()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(lower)
    AutoConfig.from_pretrained(model).save_pretrained(lower)
    tied = [pair(i, chosen="Both.", rejected="BOTH.") for i in range(100, 105)]
    world = open_rows(str(lower), tmp_path, [*(pair(i) for i in range(60)), *tied])
    assert source(world)["chosen equal to rejected as tokens"] == 5
    assert source(world)["pairs used"] == 60
    assert "5 of 65 pairs have chosen and rejected equal as tokens" in caplog.text


def test_columns_by_option(model: str, tmp_path: Path) -> None:
    expected = open_rows(model, tmp_path, [pair(i) for i in range(60)])
    names = {"prompt": "asked", "chosen": "good one", "rejected": "bad one"}
    rows = [{names[name]: value for name, value in pair(i).items()} for i in range(60)]
    with pytest.raises(UserError, match=r"missing field 'chosen'.*it has asked, good one, bad one"):
        open_rows(model, tmp_path, rows)
    world = open_rows(model, tmp_path, rows, columns=tuple(f"{k}={v}" for k, v in names.items()))
    assert world.facts["fingerprints"] == expected.facts["fingerprints"]


def test_ties_in_rankings_reach_the_pairs(model: str, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{i}?", "responses": ["a", "b", f"c {i}"], "rank": [0, i % 2, 1] if i < 40 else [1, 1, 1]}
        for i in range(60)
    ]
    world = open_rows(model, tmp_path, rows)
    assert source(world)["bad rows"]["no preference between the responses (a tie)"]["count"] == 20
    for row in world.pairs:
        assert row["rank"] == ([0, 1, 1] if int(row["prompt"][:-1]) % 2 else [0, 0, 1])


def test_chat_template_file(model: str, tmp_path: Path) -> None:
    template = tmp_path / "chatml.jinja"
    template.write_text(CHATML)
    rows = [pair(i, prompt=[{"role": "user", "content": f"Question {i}?"}]) for i in range(40)]
    world = open_rows(model, tmp_path, rows, chat_template=str(template))
    assert world.chat
    assert all(p.startswith("<|user|>Question") and p.endswith("<|assistant|>") for p in world.pairs["prompt"])
    assert all(r.endswith("</s>") for r in world.pairs["chosen"])
    assert open_rows(model, tmp_path, [*rows, pair(41)], chat_template=str(template)).chat
    with pytest.raises(UserError, match="some rows of the data are messages, others text that stays text"):
        open_rows(model, tmp_path, [*rows, pair(41)], chat_template=str(template), dialogues="text")
    assert not open_rows(model, tmp_path, [*rows, pair(41)]).chat


def test_limits_beyond_the_model_are_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is 556, but model .* has 512 positions"):
        open_rows(model, tmp_path, [pair(0)], max_prompt_tokens=300, max_response_tokens=256)
    with pytest.raises(UserError, match="tokenizer of model"):
        open_rows(str(tmp_path), tmp_path, [pair(0)])


def test_quick_uses_fewer_pairs(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preflab.worlds.sources.QUICK_PAIRS", 50)
    world = open_rows(model, tmp_path, [pair(i) for i in range(80)], quick=True)
    assert source(world)["pairs used"] == 50


# Real files and a real tokenizer, where they are there


def real(name: str, **options: Any) -> World:
    data, model = SHARED / "data" / f"{name}.jsonl.gz", SHARED / "models" / "stories260K"
    for path in (data, model):
        if not path.exists():
            pytest.skip(f"{path} is absent")
    return open_world(WorldConfig(model=str(model), dataset=str(data), **options), Path("unused"))


@pytest.mark.parametrize(
    ("name", "read", "bad"),
    # Bad are empty answers, and answers that go on into another turn.
    [("hh_heldout", 906, 20), ("hh_harmless_original_format", 2312, 37), ("oasst_ranked", 212, 1)],
)
def test_real_files_load(name: str, read: int, bad: int) -> None:
    world = real(name)
    facts = source(world)
    assert facts["rows read"] == read
    assert sum(b["count"] for b in facts["bad rows"].values()) == bad
    kept = sum(len(split) for split in (world.pairs, world.heldout, world.gold_pairs))
    assert kept == facts["pairs used"] == read - bad - sum(facts["too long"].values()) > 0
    assert all(p.endswith("Assistant:") for split in SPLITS for p in getattr(world, split)["prompt"])
    seen = {normalised(p) for p in [*world.pairs["prompt"], *world.gold_pairs["prompt"]]}
    assert not seen & {normalised(p) for p in world.heldout["prompt"]}


def test_implicit_prompts_of_a_real_file_give_its_dialogues_back() -> None:
    """Prompt and response of every row, joined, are the original dialogue."""
    world = real("hh_harmless_original_format")
    with gzip.open(SHARED / "data" / "hh_harmless_original_format.jsonl.gz", "rt", encoding="utf-8") as file:
        originals = {(row["chosen"], row["rejected"]) for row in map(json.loads, file)}
    for row in world.pairs:
        assert (row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]) in originals


def test_real_heldout_file_that_overlaps() -> None:
    world = real("hh_harmless_original_format", heldout=str(SHARED / "data" / "hh_heldout.jsonl.gz"))
    # The manifest says that the two overlap; the one has a group column and the other has none.
    assert 0 < world.facts["leaking held-out rows dropped"] < source(world, "heldout")["pairs used"]
    first_turns = [
        {normalised(p).split(" assistant:")[0] for p in split["prompt"]} for split in (world.pairs, world.heldout)
    ]
    assert not first_turns[0] & first_turns[1]
