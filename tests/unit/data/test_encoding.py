"""Encoding text and collating it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup, Encoder, load_tokenizer
from preflab.data.splits import to_dataset
from preflab.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared"


def byte_bpe(merges_from: str = "ab ab ab the cat the cat sat ", *, closing: bool = False) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer; `closing` makes it put <s> before and </s> behind every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([merges_from] * 20, trainer)
    if closing:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def word_level() -> PreTrainedTokenizerBase:
    words = ["<unk>", "<s>", "</s>", "the", "cat", "sat", "a", "mat", "?"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def pair(prompt: str = "Q", chosen: str = "yes", rejected: str = "no", **extra: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **extra}


# 1. Encoding


def test_response_is_what_the_joint_text_adds() -> None:
    tokenizer = word_level()
    encoder = Encoder(tokenizer)
    assert encoder.prompt("the cat") == [1, 3, 4]  # <s> the cat
    assert encoder.response("the cat", " sat") == [5, 2]  # sat </s>
    # "the catsat" is <s> the <unk>: no continuation of the prompt's ids, so "sat" is tokenised alone.
    assert encoder.response("the cat", "sat") == [5, 2]


def test_response_that_merges_over_the_seam_is_tokenised_alone() -> None:
    tokenizer = byte_bpe("ab ab ab ab")
    merged, (a,), (b,) = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("ab", "a", "b"))
    assert merged != [a, b]  # the point of this tokenizer: "a" + "b" is one token
    encoder = Encoder(tokenizer)
    assert encoder.prompt("a") == [a]
    assert encoder.response("a", "b") == [b, encoder.eos]


def test_end_token_comes_once_and_ends_the_response() -> None:
    encoder = Encoder(byte_bpe())
    plain = encoder.response("Q", " the cat")
    assert plain.count(encoder.eos) == 1
    assert plain[-1] == encoder.eos
    assert encoder.response("Q", " the cat</s>") == plain
    assert encoder.response("Q", " the cat</s> and more") == plain


def test_end_token_that_a_template_wrote_is_not_written_again() -> None:
    tokenizer = byte_bpe()
    encoder = Encoder(tokenizer, chat=True)
    assert encoder.response("<|user|>2+2?</s>\n<|assistant|>", "4</s>") == [*tokenizer("4")["input_ids"], encoder.eos]


def test_end_token_that_the_tokenizer_appends_is_taken_off_the_prompt() -> None:
    closing = byte_bpe(closing=True)
    assert closing("Q")["input_ids"][-1] == 1
    encoder, plain = Encoder(closing), Encoder(byte_bpe())
    assert encoder.prompt("the cat") == [0, *plain.prompt("the cat")]
    assert encoder.response("the cat", " sat") == plain.response("the cat", " sat")
    assert Encoder(closing, chat=True).prompt("<s>the cat</s>")[-1] == 1  # a template's own end tokens stay


def test_a_text_that_begins_with_the_start_token_gets_no_second_one() -> None:
    words, closing = word_level(), byte_bpe(closing=True)
    assert words("<s> the cat")["input_ids"][:2] == [1, 1]  # what the tokenizer itself would do
    for tokenizer, first in ((words, 1), (closing, 0)):
        encoder = Encoder(tokenizer)
        assert encoder.prompt("<s> the cat").count(first) == 1
        assert encoder.prompt("<s> the cat")[0] == first
        assert encoder.response("<s> the cat", " sat") == encoder.response("the cat", " sat")
    assert Encoder(words).prompt("<s> the cat") == Encoder(words).prompt("the cat")
    assert Encoder(words).prompt("the <s> cat") == [1, 3, 1, 4]  # another text's start, within
    assert Encoder(words, chat=True).prompt("<s> the cat") == [1, 3, 4]
    # One that writes none by itself keeps what it is given.
    assert Encoder(byte_bpe()).prompt("<s><s>")[:2] == [0, 0]


def test_prompt_is_never_without_context() -> None:
    tokenizer = byte_bpe()
    assert Encoder(tokenizer).prompt("") == [tokenizer.bos_token_id]
    assert Encoder(tokenizer).response("", "the")[-1] == tokenizer.eos_token_id


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_encoding_loses_no_text(prompt: str, response: str) -> None:
    # Text that spells a special token is one, and ends the response there: not this test's matter.
    tokenizer, encoder = TOKENIZER, Encoder(TOKENIZER)
    if "</s>" in prompt + response or "<s>" in prompt + response:
        return
    assert tokenizer.decode([i for i in encoder.prompt(prompt) if i > 1]) == prompt
    assert tokenizer.decode(encoder.response(prompt, response)[:-1]) == response


TOKENIZER = byte_bpe()


def test_encode_pairs_drops_and_counts_what_is_too_long() -> None:
    encoder = Encoder(word_level(), max_prompt_tokens=3, max_response_tokens=3)
    rows = [
        pair("the cat", "sat", "mat"),
        pair("the cat sat", "sat", "mat"),  # <s> and three words
        pair("the", "a a", "a a a"),  # three words and </s>
        pair("a", "the a", "mat"),  # just fits
    ]
    groups, dropped = encoder.encode_pairs(to_dataset(rows))
    assert dropped == {"prompt too long": 1, "response too long": 1}
    assert groups == [
        EncodedGroup([1, 3, 4], [[5, 2], [7, 2]], 0),
        EncodedGroup([1, 6], [[3, 6, 2], [7, 2]], 3),
    ]
    singles, _ = encoder.encode_demonstrations([{"prompt": "the", "response": "cat"}])
    assert singles == [EncodedGroup([1, 3], [[4, 2]], 0)]
    assert encoder.encode_prompts([{"prompt": "the"}])[0] == [EncodedGroup([1, 3], [], 0)]
    assert encoder.encode_pairs([]) == ([], {"prompt too long": 0, "response too long": 0})


def test_texts_are_encoded_some_at_a_time_and_none_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(word_level(), max_prompt_tokens=3, max_response_tokens=3)
    rows = [pair("the cat", "sat", "mat"), pair("the cat sat", "sat", "mat"), pair("the cat", "a", "sat")] * 3
    expected = encoder.encode_pairs(rows)
    monkeypatch.setattr("preflab.tokens.tokenising.AT_ONCE", 2)
    seen: list[list[str]] = []

    def tokenizer(texts: list[str], **options: bool) -> Any:
        seen.append(texts)
        return word_level()(texts, **options)

    encoder.tokenise.tokenizer = tokenizer  # type: ignore[assignment]
    assert encoder.encode_pairs(rows) == expected
    assert max(map(len, seen)) == 2
    flat = [text for texts in seen for text in texts]
    assert flat.count("the cat") == 1, "each prompt once"
    assert "the cat satsat" not in flat, "it is dropped for its prompt"


def test_ranked_rows_give_all_responses_that_fit() -> None:
    encoder = Encoder(word_level(), max_prompt_tokens=8, max_response_tokens=2)
    row = pair("the", "cat", "mat", responses=["cat", "a a a", "sat", "mat"])
    assert encoder.encode_pairs([row])[0][0].response_ids == [[4, 2], [7, 2]]
    assert encoder.encode_pairs([row], ranked=True)[0][0].response_ids == [[4, 2], [5, 2], [7, 2]]
    assert encoder.encode_pairs([pair("the", "cat", "mat")], ranked=True)[0][0].response_ids == [
        [4, 2],
        [7, 2],
    ]


def test_ties_in_a_ranking_reach_the_batch() -> None:
    encoder = Encoder(word_level(), max_prompt_tokens=8, max_response_tokens=2)
    tied = pair("the", "cat", "mat", responses=["cat", "a a a", "sat", "a", "mat"], rank=[0, 0, 1, 1, 2])
    plain = pair("the", "cat", "mat", responses=["cat", "sat", "mat"], rank=None)
    groups, _ = encoder.encode_pairs(to_dataset([tied, plain, pair("a", "cat", "mat")]), ranked=True)
    assert [group.feedback for group in groups] == [
        {"rank": [0.0, 1.0, 1.0, 2.0]},  # of those that fit
        {"rank": [0.0, 1.0, 2.0]},
        {"rank": [0.0, 1.0]},
    ]
    batch = collate(groups, 0)
    assert batch.feedback.rank.tolist() == [[0, 1, 1, 2], [0, 1, 2, 2], [0, 1, 1, 1]]
    assert encoder.encode_pairs([tied])[0][0].feedback == {}
    assert encoder.encode_pairs([plain], ranked=True)[0][0].feedback == {}


def test_pairs_bear_preference_and_margin_where_any_row_does() -> None:
    encoder = Encoder(word_level(), max_prompt_tokens=3, max_response_tokens=2)

    def feedback(*rows: dict[str, Any], **options: Any) -> list[Any]:
        return [(g.row, g.feedback) for g in encoder.encode_pairs(to_dataset(rows), **options)[0]]

    plain, long = pair("the", "cat", "sat"), pair("the cat sat", "a", "mat", preference=0.9)
    assert feedback(plain, plain) == [(0, {}), (1, {})]
    sure, strong = {**plain, "preference": 0.75}, {**plain, "margin": 2}
    assert feedback(plain, sure) == [(0, {"preference": 1.0}), (1, {"preference": 0.75})]
    assert feedback(strong, plain) == [(0, {"margin": 2.0}), (1, {"margin": 0.0})]
    assert feedback(long, sure, strong) == [
        (1, {"preference": 0.75, "margin": 0.0}),
        (2, {"preference": 1.0, "margin": 2.0}),
    ]
    assert feedback(sure, strong, ranked=True) == [(0, {}), (1, {})]


def test_pairs_give_a_desirable_and_an_undesirable_single_response() -> None:
    encoder = Encoder(word_level(), max_prompt_tokens=3, max_response_tokens=3)
    rows = [
        pair("the cat", "sat", "mat"),
        pair("the", "cat", "a a a"),  # three words and </s>: only this response is left out
        pair("a", "mat", "sat", preference=0.25),
        pair("a", "mat", "sat", preference=0.5),  # neither is desirable
        pair("the cat sat", "sat", "mat"),
        {"prompt": "the", "response": "sat", "desirable": False},
        {"prompt": "the", "response": "mat", "desirable": True},
    ]
    expected = [
        (0, [1, 3, 4], [5, 2], 1.0),
        (0, [1, 3, 4], [7, 2], 0.0),
        (1, [1, 3], [4, 2], 1.0),
        (2, [1, 6], [7, 2], 0.0),
        (2, [1, 6], [5, 2], 1.0),
        (5, [1, 3], [5, 2], 0.0),
        (6, [1, 3], [7, 2], 1.0),
    ]
    for dataset in (rows, to_dataset(rows)):  # a data set gives None for what a row lacks
        groups, dropped = encoder.encode_singles(dataset)
        assert [(g.row, g.prompt_ids, *g.response_ids, g.feedback["desirable"]) for g in groups] == expected
        assert {tuple(g.feedback) for g in groups} == {("desirable",)}
        assert dropped == {"prompt too long": 2, "response too long": 1}


def test_nothing_fits_names_limits_and_medians() -> None:
    rows = [pair("the cat sat", "a", "mat"), pair("the cat", "a", "mat"), pair("the cat sat a", "a", "mat")]
    with pytest.raises(UserError) as error:
        Encoder(word_level(), max_prompt_tokens=2).encode_pairs(rows)
    assert "max_prompt_tokens is 2, the median prompt has 4" in str(error.value)
    with pytest.raises(UserError, match="max_response_tokens is 1, the median response has 2"):
        Encoder(word_level(), max_response_tokens=1).encode_pairs(rows)


def test_load_tokenizer_pads_with_what_is_there(tmp_path: Path) -> None:
    tokenizer = byte_bpe()
    tokenizer.save_pretrained(str(tmp_path / "no_pad"))
    assert load_tokenizer(str(tmp_path / "no_pad")).pad_token == "</s>"
    words = word_level()
    words.pad_token = None
    words.save_pretrained(str(tmp_path / "unk"))
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages }}")
    loaded = load_tokenizer(str(tmp_path / "unk"), chat_template=str(template))
    assert loaded.pad_token == "<unk>"
    assert loaded.chat_template == "{{ messages }}"
    words.eos_token = None
    words.save_pretrained(str(tmp_path / "no_eos"))
    with pytest.raises(UserError, match=r"no_eos.*end token"):
        load_tokenizer(str(tmp_path / "no_eos"))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(UserError, match=r"absent\.jinja"):
        load_tokenizer(str(tmp_path / "no_pad"), chat_template=str(tmp_path / "absent.jinja"))


# 2. Collating

IDS = st.lists(st.integers(0, 50), min_size=1, max_size=6)


@settings(deadline=None)
@given(st.lists(st.tuples(IDS, st.lists(IDS, max_size=4)), min_size=1, max_size=5), st.integers(0, 50))
def test_collate_round_trip(groups: list[tuple[list[int], list[list[int]]]], pad: int) -> None:
    import torch

    batch = collate([EncodedGroup(p, r, i) for i, (p, r) in enumerate(groups)], pad)
    assert batch.prompt_mask.dtype == batch.response_mask.dtype == torch.bool
    assert batch.prompt_ids.dtype == batch.response_ids.dtype == torch.int64
    assert batch.prompt_ids.shape == (len(groups), max(len(p) for p, _ in groups))
    for b, (prompt, responses) in enumerate(groups):
        assert batch.prompt_ids[b][batch.prompt_mask[b]].tolist() == prompt
        assert batch.prompt_mask[b, -1]  # left-padded: the last column is real
        found = [r[m].tolist() for r, m in zip(batch.response_ids[b], batch.response_mask[b], strict=True)]
        assert found == responses + [[]] * (len(found) - len(responses))
        for mask in batch.response_mask[b]:  # right-padded: real tokens, then none
            assert mask.tolist() == sorted(mask.tolist(), reverse=True)
    assert bool((batch.prompt_ids[~batch.prompt_mask] == pad).all())
    assert bool((batch.response_ids[~batch.response_mask] == pad).all())


def test_collated_feedback_is_of_floats() -> None:
    groups, _ = Encoder(word_level()).encode_pairs(
        [pair("a", "mat", "sat", margin=2), pair("a", "mat", "sat", margin=1)]
    )
    batch = collate(groups, 0)
    assert batch.feedback.margin.tolist() == [2.0, 1.0]
    assert batch.feedback.margin.is_floating_point()
    assert [name for name, x in vars(batch.feedback).items() if x is not None] == ["margin"]


@pytest.mark.parametrize("said", [({"margin": 1.0}, {}), ({}, {"margin": 1.0})])
def test_collated_groups_have_the_same_labels(said) -> None:
    with pytest.raises(ValueError, match=r"same labels, not .*'margin'|same labels, not \['margin'\] and \[\]"):
        collate([EncodedGroup([1], [[2]], row, feedback) for row, feedback in enumerate(said)], 0)


def test_collate_needs_a_group() -> None:
    with pytest.raises(ValueError, match="at least one"):
        collate([], 0)


def test_importing_the_module_loads_neither_torch_nor_datasets() -> None:
    heavy = "{'torch', 'datasets', 'transformers'}"
    code = f"import preflab.data.encoding, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# 3. Real tokenizers


@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
def test_real_tokenizers(name: str) -> None:
    folder = SHARED / "models" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    tokenizer = load_tokenizer(str(folder))
    encoder = Encoder(tokenizer)
    for prompt, response in [("Once upon a time", " there was a cat."), ("Human: Hi\n\nAssistant:", "Hello")]:
        start, rest = encoder.prompt(prompt), encoder.response(prompt, response)
        assert start == tokenizer(prompt)["input_ids"]
        assert start[0] == tokenizer.bos_token_id
        assert rest[-1] == encoder.eos
        assert encoder.eos not in start + rest[:-1]
        assert encoder.encode_pairs([pair(prompt, response, "no")])[0][0][:2] == (
            start,
            [rest, encoder.response(prompt, "no")],
        )
    assert tokenizer.decode(encoder.response("Once upon a time", " there was a cat.")[:-1]).strip() == (
        "there was a cat."
    )
