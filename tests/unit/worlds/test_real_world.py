"""The real world: preference files to disjoint, cleaned, counted splits."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoConfig, LlamaConfig, PreTrainedTokenizerFast

from preflab.data.encoding import Encoder, load_tokenizer
from preflab.data.splits import fingerprint, normalised
from preflab.errors import UserError
from preflab.worlds import World, WorldConfig, open_world

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
SPLITS = ("pairs", "heldout", "gold_pairs", "demonstrations", "prompts", "eval_prompts")
CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a byte-level tokenizer (one token per byte) and a config; the world needs no weights."""
    folder = tmp_path_factory.mktemp("model")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=512).save_pretrained(folder)
    return str(folder)


def pair(i: int, **extra: Any) -> dict[str, Any]:
    return {"prompt": f"Question {i}?", "chosen": f"Good answer {i}.", "rejected": "Bad.", **extra}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def open_rows(model: str, folder: Path, rows: list[Any], **options: Any) -> World:
    data = write(folder / "data.jsonl", rows)
    return open_world(WorldConfig(model=model, dataset=data, **options), folder / "cache")


def source(world: World, role: str = "dataset") -> dict[str, Any]:
    found: dict[str, Any] = world.facts["sources"][role]
    return found


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


# Unpaired rows


def lone(i: int, label: bool, text: str = "", **extra: Any) -> dict[str, Any]:
    completion = text or (f"Good answer {i}." if label else "Bad.")
    return {"prompt": f"Question {i}?", "completion": completion, "label": label, **extra}


def test_unpaired_rows_give_the_world_of_their_pairs(model: str, tmp_path: Path) -> None:
    expected = open_rows(model, tmp_path, [pair(i) for i in range(60)])
    rows = [lone(i, label) for i in range(60) for label in (False, True)]
    world = open_rows(model, tmp_path, rows)
    assert world.facts["fingerprints"] == expected.facts["fingerprints"]
    assert world.singles is None
    assert "singles" not in world.facts["rows"]
    assert source(world)["rows read"] == 120
    assert source(world)["pairs used"] == 60
    messages = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
            "label": row["label"],
        }
        for row in rows
    ]
    assert len(open_rows(model, tmp_path, messages).pairs) == len(world.pairs)


def test_responses_without_a_partner_are_kept_for_training_prompts_alone(model: str, tmp_path: Path) -> None:
    rows = [lone(i, label) for i in range(60) for label in (False, True)]
    more = [lone(i, True, f"Also good {i}.") for i in range(30)] + [lone(i, False) for i in range(100, 160)]
    world = open_rows(model, tmp_path, rows + more)
    assert world.singles is not None
    assert world.singles.column_names == ["prompt", "response", "desirable", "group"]
    elsewhere = {*world.heldout["prompt"], *world.gold_pairs["prompt"]}
    assert not elsewhere & set(world.singles["prompt"])
    kept = {row["prompt"] for row in world.singles if row["desirable"]}
    assert kept == set(world.pairs["prompt"]) & {row["prompt"] for row in more}
    # 60 prompts with undesirable responses only, .6 of them in training; deviation 3.8, four of them.
    lonely = [row for row in world.singles if not row["desirable"]]
    assert abs(len(lonely) - 36) < 16
    assert source(world)["without partner"] == 90
    assert world.facts["rows"]["singles"] == len(world.singles)
    assert world.facts["fingerprints"]["singles"] == fingerprint(world.singles)
    json.dumps(world.facts)
    few = open_rows(model, tmp_path, rows + more, max_pairs=40, gold_fraction=0.0)
    assert (source(few)["pairs used"], source(few)["without partner"]) == (40, 40)


def test_overlong_response_leaves_its_partner_to_another(model: str, tmp_path: Path) -> None:
    rows = [row for i in range(40) for row in (lone(i, True, "x" * 50), lone(i, True), lone(i, False))]
    world = open_rows(model, tmp_path, rows, max_response_tokens=40)
    assert world.singles is None
    assert source(world)["pairs used"] == 40
    assert source(world)["too long"] == {"prompt too long": 0, "response too long": 40}


def test_heldout_prompts_of_lone_responses_leak_too(model: str, tmp_path: Path) -> None:
    """With held-out pairs in a file of their own, the data may have no pair at all."""
    rows = [lone(i, i % 2 == 0) for i in range(40)]
    heldout = write(tmp_path / "heldout.jsonl", [pair(i) for i in range(35, 50)])
    world = open_rows(model, tmp_path, rows, heldout=heldout, gold_fraction=0.0)
    assert world.singles is not None
    assert len(world.singles) == 40
    assert world.facts["leaking held-out rows dropped"] == 5
    assert set(world.heldout["prompt"]) == {pair(i)["prompt"] for i in range(40, 50)}
    for name, columns in (("pairs", ["prompt", "chosen", "rejected", "group"]), ("prompts", ["prompt", "group"])):
        assert len(getattr(world, name)) == 0
        assert getattr(world, name).column_names == columns
    assert len(world.demonstrations) == 0


def test_no_pair_at_all_is_answered_with_what_to_do(model: str, tmp_path: Path) -> None:
    rows = [lone(i, i % 2 == 0) for i in range(40)]
    with pytest.raises(UserError) as error:
        open_rows(model, tmp_path, rows)
    message = str(error.value)
    assert "no heldout and no gold pairs are left" in message
    assert "a desirable and an undesirable" in message
    assert "--heldout FILE" in message
    assert "\n" not in message
    with pytest.raises(UserError, match=r"no gold pairs are left.*--gold-fraction 0"):
        open_rows(model, tmp_path, rows, heldout=write(tmp_path / "heldout.jsonl", [pair(i) for i in range(50, 60)]))


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


def test_group_column_in_one_file_only_is_not_trusted(model: str, tmp_path: Path) -> None:
    def dialogue(i: int, **extra: Any) -> dict[str, Any]:
        return pair(i, prompt=f"Human: Hello {i % 30}\n\nAssistant: Yes?\n\nHuman: {i}\n\nAssistant:", **extra)

    heldout = write(tmp_path / "heldout.jsonl", [dialogue(i) for i in range(100, 105)] + [pair(1)])
    # By their own group column no row of training shares a group with the held-out first turns.
    world = open_rows(model, tmp_path, [dialogue(i, group=i) for i in range(60)], heldout=heldout)
    assert world.facts["leaking held-out rows dropped"] == 5
    assert world.facts["groups"]["pairs"] + world.facts["groups"]["gold_pairs"] == 30


def test_one_prompt_is_said_with_the_way_out(model: str, tmp_path: Path) -> None:
    """A column 'group' would not help: a prompt is on one side only."""
    rows = [pair(0, chosen=f" word{i}", group=i) for i in range(30)]
    with pytest.raises(UserError, match=r"they have one prompt; give rows of other prompts") as error:
        open_rows(model, tmp_path, [{k: v for k, v in row.items() if k != "group"} for row in rows])
    assert "column" not in str(error.value)
    assert "fraction" not in str(error.value)


def test_group_column_keeps_prompts_together(model: str, tmp_path: Path) -> None:
    world = open_rows(model, tmp_path, [pair(i, group=i // 10) for i in range(400)])
    groups = [{int(p.split()[1][:-1]) // 10 for p in getattr(world, name)["prompt"]} for name in SPLITS[:3]]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 40


@pytest.mark.parametrize("nothing", ["", None, float("nan")])
def test_groups_that_only_some_rows_name(model: str, tmp_path: Path, nothing: Any) -> None:
    """A row that names none is of the group of its first turn, not of one with all others."""
    rows = [pair(i, group=f"book {i % 4}" if i < 12 else nothing) for i in range(200)]
    world = open_rows(model, tmp_path, rows)
    counts = [len(getattr(world, name)) for name in ("pairs", "heldout", "gold_pairs")]
    # .6, .2 and .2 of 188 groups, deviations up to 7, and what the four books add.
    assert all(abs(count - share * 200) < 40 for count, share in zip(counts, (0.6, 0.2, 0.2), strict=True))
    none = open_rows(model, tmp_path, [{**row, "group": nothing} for row in rows])
    plain = open_rows(model, tmp_path, [pair(i) for i in range(200)])
    assert none.facts["fingerprints"] == plain.facts["fingerprints"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({}, ["first human turn is the same ('good morning')", "add a column 'group'"]),
        ({"group": "all"}, ["the column 'group' has one value", "leave the column out"]),
    ],
)
def test_one_group_is_said_with_the_way_out(
    model: str, tmp_path: Path, extra: dict[str, Any], words: list[str]
) -> None:
    def turn(i: int, **more: Any) -> dict[str, Any]:
        return pair(i, prompt=f"Human: Good morning\n\nAssistant: Yes?\n\nHuman: {i}?\n\nAssistant:", **more)

    with pytest.raises(UserError) as error:
        open_rows(model, tmp_path, [turn(i, **extra) for i in range(30)])
    message = str(error.value)
    assert all(word in message for word in ["all 30 usable rows", "data.jsonl", "one group", *words]), message
    assert "fraction" not in message, "no fraction could help"
    with pytest.raises(UserError, match=r"are 2 groups, too few for 3 splits: ") as error:
        open_rows(model, tmp_path, [turn(i, group=i % 2) for i in range(30)])
    assert "the column 'group' has 2 values; give each dialogue" in str(error.value)
    assert len(open_rows(model, tmp_path, [turn(i, group=i) for i in range(30)]).heldout)


def test_a_group_of_most_rows_is_said(model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [pair(i, prompt=f"Human: {'Hi' if i % 3 else i}\n\nAssistant: Yes?\n\nHuman: {i}") for i in range(90)]
    open_rows(model, tmp_path, rows)
    assert "60 of 90 pairs share the first turn 'hi'" in caplog.text
    caplog.clear()
    open_rows(model, tmp_path, [pair(i) for i in range(90)])
    assert "share" not in caplog.text


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
    with pytest.raises(UserError, match="some rows of the data are messages, others plain text"):
        open_rows(model, tmp_path, [*rows, pair(41)], chat_template=str(template))
    assert not open_rows(model, tmp_path, [*rows, pair(41)]).chat


def test_limits_beyond_the_model_are_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is 556, but model .* has 512 positions"):
        open_rows(model, tmp_path, [pair(0)], max_prompt_tokens=300, max_response_tokens=256)
    with pytest.raises(UserError, match="tokenizer of model"):
        open_rows(str(tmp_path), tmp_path, [pair(0)])


def test_quick_uses_fewer_pairs(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preflab.worlds.real.QUICK_PAIRS", 50)
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
