"""The embedded world: grammar, planted reward, splits, labels, and the cached base model."""

from __future__ import annotations

import math
import random
from pathlib import Path
from statistics import fmean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from preflab.errors import UserError
from preflab.worlds import World, WorldConfig, open_world
from preflab.worlds.reviews import MAX_RESPONSE_TOKENS, Sizes, build, reward, split_prompts
from preflab.worlds.reviews import base as base_module
from preflab.worlds.reviews.base import QUICK, BaseSize, base_folder, make_tokenizer, train_base
from preflab.worlds.reviews.grammar import (
    DEMONSTRATION,
    UNALIGNED,
    Style,
    parse_prompt,
    parse_sentence,
    prompts,
    vocabulary,
    write_response,
)
from preflab.worlds.reviews.reward import CENTRE, FLOOR, FREE_WORDS, SCALE

TINY = BaseSize(hidden=16, layers=1, heads=2, steps=3, batch=4)
PROMPT = "write a warm review of the hotel for a friend , mention the bed :"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("worlds")


@pytest.fixture(scope="module")
def world(cache: Path) -> World:
    return build(WorldConfig(), cache, size=TINY)


# Grammar


def test_prompts_are_many_distinct_and_all_read_back() -> None:
    texts = prompts()
    # 6 topics of 4 aspects, 2 tones of 3 words, 8 openings, 12 audiences
    assert len(texts) == len(set(texts)) == 6 * 4 * 2 * 3 * 8 * 12
    assert all(None not in parse_prompt(text) for text in texts)
    assert parse_prompt(PROMPT) == ("hotel", "warm", "bed")


@pytest.mark.parametrize("writers", [UNALIGNED, DEMONSTRATION])
def test_written_responses_are_of_the_grammar_and_short(writers: dict[Style, float]) -> None:
    rng = random.Random(0)
    known = set(vocabulary())
    for prompt in rng.sample(prompts(), 500):
        text = write_response(prompt, writers, rng)
        assert text.endswith(" .")
        assert set(text.split()) <= known
        assert len(text.split()) < MAX_RESPONSE_TOKENS
        assert all(parse_sentence(piece.strip()) for piece in text.split(".")[:-1]), text


@pytest.mark.parametrize("text", ["", "the bed was", "the bed was green", "the bed was fine but", "bed"])
def test_what_is_no_sentence_is_told_apart(text: str) -> None:
    assert parse_sentence(text) is None


def test_the_word_limit_is_kept() -> None:
    rng = random.Random(0)
    texts = [write_response(p, UNALIGNED, rng, max_words=15) for p in prompts()[:300]]
    assert max(len(text.split()) for text in texts) <= 15


def test_one_writer_of_the_crowd_writes_a_whole_response() -> None:
    critic = Style(topic=1, aspect=1, tone=1, repeat=0, filler=0, lengths=(0, 0, 1))
    chatter = Style(topic=0, aspect=0, tone=0, repeat=0, filler=1, lengths=(0, 1))
    assert sum(UNALIGNED.values()) == pytest.approx(1)
    assert sum(DEMONSTRATION.values()) == pytest.approx(1)
    rng = random.Random(0)
    by_critics = 0
    for _ in range(1000):
        text = write_response(PROMPT, {critic: 0.2, chatter: 0.8}, rng)
        sentences = [parse_sentence(piece.strip()) for piece in text.split(".")[:-1]]
        topics = [s.topic for s in sentences if s is not None]
        assert topics in (["hotel"] * 3, [None] * 2)
        by_critics += len(topics) == 3
    # 1,000 draws at 0.2 have a standard error of 12.6: three of them either side
    assert abs(by_critics - 200) < 38


# The planted reward. Worked values: r* = SCALE (2 cover + 0.5 asked + 1.5 tone - 1.5 off - 2 repetition
# - 0.08 over_length - 3 broken - CENTRE), of the parts that the docstring of `reward` names.


@pytest.mark.parametrize(
    ("response", "points"),
    [
        # one aspect (1 - 0.6 = 0.4), the asked one, warm as asked
        ("the bed was lovely .", 2 * 0.4 + 0.5 + 1.5),
        # two aspects (1 - 0.36), opinions +1 and -1 make a mean of 0
        ("the bed was lovely . i disliked the lobby .", 2 * 0.64 + 0.5 + 0),
        # not the asked aspect, wrong tone
        ("the lobby was dull .", 2 * 0.4 + 0 - 1.5),
        # half of the sentences about another topic; its opinion does not count
        ("the bed was lovely . the cake was stale .", 2 * 0.4 + 0.5 + 1.5 - 1.5 * 0.5),
        # said twice: two of four content words (bed, lovely) are repeats
        ("the bed was lovely . the bed was lovely .", 2 * 0.4 + 0.5 + 1.5 - 2 * 0.5),
        # a last sentence without its full stop is broken: one of two
        ("the bed was lovely . the lobby", 2 * 0.4 + 0.5 + 1.5 - 3 * 0.5),
        # the return verb is an opinion on the topic but covers no aspect
        ("i would stay again .", 0 + 0 + 1.5),
        # small talk: no opinion at all counts as tone -1, but is not off topic
        ("it rained all day .", -1.5),
    ],
)
def test_reward_has_its_worked_values(response: str, points: float) -> None:
    assert (SCALE, CENTRE) == (0.6, 0.6)
    assert reward([PROMPT], [response])[0] == pytest.approx(SCALE * (points - CENTRE), abs=1e-12)


@pytest.mark.parametrize(("tone", "sign"), [("warm", 1), ("kind", 1), ("harsh", -1), ("gloomy", -1), ("fair", 0)])
def test_reward_wants_the_tone_that_is_asked(tone: str, sign: int) -> None:
    prompt = PROMPT.replace("warm", tone)
    good, both, bad = reward([prompt] * 3, [f"the bed was {how} ." for how in ("fine", "fine but dull", "dull")])
    # All but tone is equal: tone is sign, 0 and -sign, and -1 throughout where no known tone is asked.
    assert good - bad == pytest.approx(SCALE * 1.5 * 2 * sign)
    assert good - both == pytest.approx(SCALE * 1.5 * sign)


def test_reward_charges_words_past_the_limit() -> None:
    short = " . ".join(["the bed was lovely and neat", "i loved the lobby", "i liked the breakfast"]) + " ."
    long = short + " i enjoyed the porter ."
    assert len(short.split()) == 17
    assert len(long.split()) == 22
    gain = 2 * (0.6**3 - 0.6**4) - 0.08 * (22 - FREE_WORDS)
    first, second = reward([PROMPT] * 2, [short, long])
    assert second - first == pytest.approx(SCALE * gain)


@pytest.mark.parametrize("junk", ["", " ", ".", "...", "<unk>", "lovely " * 50, "\0", "the bed was lovely"])
def test_reward_of_nothing_is_the_floor(junk: str) -> None:
    assert reward([PROMPT], [junk]) == [FLOOR]


@settings(deadline=None)
@given(st.text(), st.one_of(st.text(), st.lists(st.sampled_from([*vocabulary(), "<unk>", "\n"])).map(" ".join)))
def test_reward_takes_any_text(prompt: str, response: str) -> None:
    best = SCALE * (2 * (1 - 0.6**4) + 0.5 + 1.5 - CENTRE) + 1e-12  # all four aspects in the asked tone
    for value in reward([prompt, PROMPT], [response, response]):
        assert math.isfinite(value)
        assert FLOOR <= value <= best


def test_reward_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="shorter"):
        reward([PROMPT], [])


def test_no_constant_response_is_good_everywhere() -> None:
    rng = random.Random(0)
    some = rng.sample(prompts(), 200)
    own = fmean(max(reward([p] * 16, [write_response(p, DEMONSTRATION, rng) for _ in range(16)])) for p in some)
    candidates = [write_response(rng.choice(some), DEMONSTRATION, rng) for _ in range(200)]
    best = max(fmean(reward(some, [text] * len(some))) for text in candidates)
    demonstrated = fmean(reward(some, [write_response(p, DEMONSTRATION, rng) for p in some]))
    assert best < demonstrated < own - 1.0


# The world


def test_splits_are_disjoint_and_full(world: World) -> None:
    parts = [world.demonstrations, world.pairs, world.heldout, world.eval_prompts]
    seen = [set(part["prompt"]) for part in parts]
    assert [len(s) for s in seen] == [len(p) for p in parts] == [2000, 4000, 1000, 400]
    assert len(set.union(*seen)) == sum(map(len, seen))
    assert not set.union(*seen) & set(split_prompts(0)["base"])
    assert world.prompts["prompt"] == world.pairs["prompt"]
    assert len(world.gold_pairs) == 0
    assert world.gold_pairs.column_names == ["prompt", "chosen", "rejected"]


def test_a_prompt_stays_in_its_split_whatever_the_sizes(cache: Path, world: World) -> None:
    small = build(WorldConfig(), cache, size=TINY, sizes=Sizes(10, 10, 10, 10))
    assert small.pairs.to_list() == world.pairs.to_list()[:10]
    assert small.heldout.to_list() == world.heldout.to_list()[:10]


def test_labels_agree_with_the_reward_like_human_ones(world: World) -> None:
    assert 0.70 <= world.facts["label_agreement"] <= 0.77
    assert world.gold is not None
    for part in (world.pairs, world.heldout):
        assert all(row["chosen"] != row["rejected"] for row in part)
        better = world.gold(part["prompt"], part["chosen"])
        worse = world.gold(part["prompt"], part["rejected"])
        agreement = fmean(a > b for a, b in zip(better, worse, strict=True) if a != b)
        # 1,000 draws at 0.75 have a standard error of 0.0137: three of them either side
        assert abs(agreement - world.facts["label_agreement_expected"]) < 0.042


def test_there_is_head_room(world: World) -> None:
    means = world.facts["reward_mean"]
    # The demonstrations' crowd has a quarter more careful writers, who write about 2 better: 0.5, less
    # two standard errors (1.3 over 500 and over 2,000 texts: 0.065).
    assert means["base_corpus"] + 0.37 < means["demonstrations"] < means["best_of_16"] - 1.0
    assert 1.0 <= world.facts["reward_std_demonstrations"] <= 1.5


def test_the_same_seed_makes_the_same_world(cache: Path, world: World) -> None:
    again = build(WorldConfig(), cache, size=TINY)
    assert again.facts == world.facts
    assert again.model == world.model
    other = build(WorldConfig(data_seed=1), cache, size=TINY)
    assert other.facts["fingerprints"] != world.facts["fingerprints"]
    assert other.model != world.model


def test_options_are_honoured_or_refused(cache: Path, tmp_path: Path) -> None:
    config = WorldConfig(max_pairs=7, max_response_tokens=20, model=str(tmp_path))
    small = build(config, cache)
    assert len(small.pairs) == 7
    assert small.model == str(tmp_path)
    assert max(len(t.split()) for t in small.demonstrations["response"]) < 20
    fractions = WorldConfig(heldout_fraction=0.5, gold_fraction=0.4, model=str(tmp_path), max_response_tokens=20)
    assert build(fractions, cache, sizes=Sizes(pairs=7)).facts == small.facts  # the splits are the world's own
    with pytest.raises(UserError, match="max_response_tokens is 5"):
        build(WorldConfig(max_response_tokens=5), cache)
    with pytest.raises(UserError, match="max_prompt_tokens is 3"):
        build(WorldConfig(max_prompt_tokens=3, model=str(tmp_path)), cache)
    with pytest.raises(UserError, match="takes no dataset"):
        open_world(WorldConfig(world="reviews", dataset="some/data"), cache)


# The base model


def test_tokenizer_gives_texts_back_and_adds_no_end(world: World) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world.model)
    for row in world.demonstrations.select(range(50)):
        text = f"{row['prompt']} {row['response']}"
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.eos_token_id not in ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("zebra", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]
    names = ("pad", "bos", "eos", "unk")
    assert len({getattr(tokenizer, f"{name}_token_id") for name in names}) == 4
    assert tokenizer.padding_side == "left"
    assert 150 <= len(tokenizer) <= 300


def test_model_loads_and_generates(world: World) -> None:
    model = AutoModelForCausalLM.from_pretrained(world.model)
    tokenizer = AutoTokenizer.from_pretrained(world.model)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    ids = tokenizer([PROMPT, "the bed"], return_tensors="pt", padding=True)
    assert model.generate(**ids, max_new_tokens=3, do_sample=False).shape[0] == 2


def test_two_builds_are_bit_identical_and_leave_random_state_alone() -> None:
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first, _ = train_base(prompts()[:50], TINY, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    torch.manual_seed(8)
    second, _ = train_base(prompts()[:50], TINY, 0)
    other, _ = train_base(prompts()[:50], TINY, 1)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_training_lowers_the_loss() -> None:
    some = prompts()[::7]
    tokenizer = make_tokenizer()
    texts = [f"{p} {write_response(p, UNALIGNED, random.Random(1))}" for p in some[:64]]
    ids = tokenizer(texts, padding=True, return_tensors="pt")
    labels = ids["input_ids"].masked_fill(ids["attention_mask"] == 0, -100)
    model, _ = train_base(some, BaseSize(hidden=32, layers=1, heads=2, steps=40, batch=16, learning_rate=1e-2), 0)
    with torch.no_grad():
        loss = float(model(**ids, labels=labels).loss)
    assert loss < 0.75 * math.log(len(tokenizer))  # log V is the loss of a uniform guess


def test_a_killed_build_is_cleaned_up_and_a_finished_one_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = prompts()[:20]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)  # all is written, nothing renamed
        with pytest.raises(KeyboardInterrupt):
            base_folder(some, TINY, 0, tmp_path)
    (leftover,) = tmp_path.glob("*.unfinished")
    (leftover / "junk.safetensors").write_bytes(b"half a file")
    assert not list(tmp_path.glob("reviews-base-*"))
    folder = base_folder(some, TINY, 0, tmp_path)
    assert not list(tmp_path.glob("*.unfinished"))
    assert not (folder / "junk.safetensors").exists()
    monkeypatch.setattr(base_module, "train_base", killed)
    assert base_folder(some, TINY, 0, tmp_path) == folder  # reused: training would have raised
    with pytest.raises(KeyboardInterrupt):
        base_folder(some, TINY, 1, tmp_path)  # another seed is another model


def loss_of(model: torch.nn.Module, texts: list[str]) -> float:
    tokenizer = make_tokenizer()
    with torch.no_grad():
        rows = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts]
        return fmean(float(model(input_ids=ids, labels=ids).loss) for ids in rows)


@pytest.mark.parametrize("size", [BaseSize(), QUICK])
def test_the_default_worlds_bases_come_with_the_package(size: BaseSize, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(base_module, "train_base", lambda *_: pytest.fail("trained"))
    texts = split_prompts(WorldConfig().data_seed)["base"]
    folder = base_folder(texts, size, WorldConfig().data_seed, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    rng = random.Random(1)
    written = [f"{prompt} {write_response(prompt, UNALIGNED, rng)} </s>" for prompt in texts[:100]]
    untrained = base_module._new_model(size, make_tokenizer()).eval()
    assert loss_of(model, written) < 0.5 * loss_of(untrained, written)


def test_another_world_trains_its_own_base(tmp_path: Path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(base_module, "train_base", lambda *args: asked.append(args) or train_base(args[0], TINY, 0))
    base_folder(split_prompts(1)["base"], QUICK, 1, tmp_path)
    assert len(asked) == 1


@pytest.mark.slow
def test_the_recipe_gives_the_base_that_comes_with_the_package(tmp_path: Path) -> None:
    seed = WorldConfig().data_seed
    texts = split_prompts(seed)["base"]
    trained, _ = train_base(texts, QUICK, seed)
    shipped = AutoModelForCausalLM.from_pretrained(base_folder(texts, QUICK, seed, tmp_path)).eval()
    rng = random.Random(1)
    written = [f"{prompt} {write_response(prompt, UNALIGNED, rng)} </s>" for prompt in texts[:200]]
    # On another kind of processor sums are taken in another order, and 300 steps make other weights of it.
    assert loss_of(trained, written) == pytest.approx(loss_of(shipped, written), rel=0.02)
