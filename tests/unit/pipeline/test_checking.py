"""What `preflab data check` says of messy files is what a run then does with them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from preference_files import preference_rows, write_rows

from preflab.errors import UserError
from preflab.eval.pipeline.checking import CheckedConfig, check_data, visible
from preflab.eval.pipeline.data_page import page
from preflab.settings.fields import build
from preflab.worlds import WorldConfig, open_world

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DATA = Path("/work/shared/data")
LIMITS = {"max_prompt_tokens": 80, "max_response_tokens": 40}


def checked(data: Path, shown: int = 2, **options):
    return check_data(build(CheckedConfig, {"dataset": str(data), **options}, "config"), shown)


def messy(folder: Path) -> Path:
    rows = preference_rows(96)
    rows[4] = {"prompt": "word1", "chosen": "", "rejected": "word2"}
    rows[9] = {**rows[9], "rejected": rows[9]["chosen"]}
    rows[20]["prompt"] = "word1 " * 40
    rows[21]["chosen"] = "word2 " * 40
    rows = [{**row, "score_chosen": 7} for row in rows]
    return write_rows(folder / "pairs.jsonl", [*rows, rows[0]])


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"long_prompts": "truncate", "long_responses": "truncate"},
        {"max_pairs": 40},
        {"heldout_fraction": 0.5, "gold_fraction": 0.1, "data_seed": 3},
    ],
    ids=lambda how: " ".join(how) or "plain",
)
def test_it_says_what_a_run_does(how, tiny_model_path, tmp_path):
    options = {"model": str(tiny_model_path), "max_prompt_tokens": 16, "max_response_tokens": 8, **how}
    data = messy(tmp_path)
    report = checked(data, **options)
    world = open_world(WorldConfig(dataset=str(data), **options), tmp_path / "cache")
    source, [file] = world.facts["sources"]["dataset"], report.files
    assert (file.read, file.usable) == (source["rows read"], source["rows read"] - 2) == (97, 95)
    assert {bad.reason: bad.count for bad in file.bad} == {
        reason: found["count"] for reason, found in source["bad rows"].items()
    }
    assert {bad.reason: bad.rows for bad in file.bad} == {"chosen equal to rejected": (10,), "empty response": (5,)}
    assert sum(file.dropped.values()) == sum(source["too long"].values()) == (0 if "long_prompts" in how else 2)
    assert file.cut == source.get("cut at the limits", {})
    named = {"pairs": "training pairs", "heldout": "held-out pairs", "gold_pairs": "pairs for the judge's reward model"}
    assert {split.name: (split.rows, split.groups) for split in report.splits} == {
        name: (world.facts["rows"][split], world.facts["groups"][split]) for split, name in named.items()
    }
    lengths = {found.of: found for found in report.lengths}
    assert (lengths["prompt"].over, lengths["prompt"].quantiles["longest"]) == (1, 40)
    assert lengths["chosen"].over == 1, "before anything is cut"
    assert lengths["chosen"].quantiles["longest"] == 41
    assert any("score_chosen (a score on a scale of its own" in line for line in report.said)
    assert [doubt.about for doubt in report.doubts if doubt.rows == (97,)] == ["repeated"]
    assert report.refused is None


def test_without_a_model_texts_alone_are_looked_at(tmp_path):
    report = checked(messy(tmp_path))
    [file] = report.files
    assert (file.usable, file.dropped, report.model) == (95, {}, None)
    assert {found.of: found.limit for found in report.lengths} == dict.fromkeys(("prompt", "chosen", "rejected"))
    assert max(found.quantiles["longest"] for found in report.lengths) == len("word2 " * 40)
    assert sum(split.rows for split in report.splits) == 95
    assert report.examples[0][0].tokens is None
    assert "characters" in page(report)


# ---- layouts -----------------------------------------------------------------------------------------


def as_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def messages(row: dict) -> dict:
    said = {name: [{"role": "assistant", "content": row[name].strip()}] for name in ("chosen", "rejected")}
    return {"prompt": [{"role": "user", "content": row["prompt"]}], **said}


ROWS = preference_rows(60)
FILES = {
    "CSV, other names": (
        lambda folder: as_csv(
            folder / "a.csv",
            [{"question": r["prompt"], "chosen": r["chosen"], "rejected": r["rejected"]} for r in ROWS],
        ),
        {"question, chosen, rejected": 60},
        {"prompt", "chosen", "rejected"},
    ),
    "messages": (
        lambda folder: write_rows(folder / "a.jsonl", list(map(messages, ROWS))),
        {"our own pairs": 60},
        {"prompt", "chosen", "rejected"},
    ),
    "unpaired": (
        lambda folder: write_rows(
            folder / "a.jsonl",
            [
                {"prompt": r["prompt"], "completion": r[side], "label": side == "chosen"}
                for r in ROWS
                for side in ("chosen", "rejected")
            ],
        ),
        {"our own unpaired responses": 120},
        {"prompt", "single response"},
    ),
    "rankings": (
        lambda folder: write_rows(
            folder / "a.jsonl",
            [{"prompt": r["prompt"], "responses": [r["chosen"], " word9", r["rejected"]]} for r in ROWS],
        ),
        {"our own rankings": 60},
        {"prompt", "chosen", "rejected"},
    ),
}


@pytest.mark.parametrize("model", [False, True], ids=["texts", "tokens"])
@pytest.mark.parametrize("name", FILES)
def test_layouts_are_recognised_by_their_columns(name, model, tiny_model_path, tmp_path):
    make, layouts, measured = FILES[name]
    report = checked(make(tmp_path), **({"model": str(tiny_model_path), **LIMITS} if model else {}))
    [file] = report.files
    assert (file.layouts, file.bad) == (layouts, ())
    assert {found.of for found in report.lengths} == measured
    assert sum(split.rows for split in report.splits) == 60
    assert (report.bias is None) == (name == "unpaired")
    assert page(report).isprintable() or "\n" in page(report)


def test_ties_are_counted(tmp_path):
    tied = [{**row, "preference": 0.5} if i % 6 == 0 else row for i, row in enumerate(ROWS)]
    report = checked(write_rows(tmp_path / "a.jsonl", tied))
    assert report.files[0].ties == 10
    assert "ties: 10 rows" in page(report)
    ranks = [{"prompt": r["prompt"], "responses": [r["chosen"], " x", r["rejected"]], "rank": [0, 1, 1]} for r in ROWS]
    assert checked(write_rows(tmp_path / "b.jsonl", ranks)).files[0].ties == 60


def test_heldout_rows_whose_prompt_is_learnt_from_are_counted(tmp_path):
    data, held = (
        write_rows(tmp_path / "a.jsonl", ROWS),
        write_rows(tmp_path / "b.jsonl", ROWS[:7] + preference_rows(9, 5)),
    )
    report = checked(data, heldout=str(held), gold_fraction=0.0)
    assert report.leaked == 7
    assert [(file.role, file.read) for file in report.files] == [("dataset", 60), ("heldout", 16)]
    assert {split.name: split.rows for split in report.splits} == {"training pairs": 60, "held-out pairs": 9}


def test_what_a_run_would_refuse_is_said_below_what_was_found(tmp_path):
    report = checked(write_rows(tmp_path / "a.jsonl", [{**row, "prompt": "word1"} for row in ROWS]))
    assert "they have one prompt" in report.refused
    assert page(report).splitlines()[-1].startswith("A run would not begin: ")
    assert report.files[0].largest_group == 60
    with pytest.raises(UserError, match="no usable row"):
        checked(write_rows(tmp_path / "b.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}]))


# ---- as the model reads it ---------------------------------------------------------------------------


@pytest.fixture
def chat_model(tmp_path) -> str:
    """A byte-level tokenizer whose template marks turns by special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    folder, special = tmp_path / "model", ["<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", extra_special_tokens=["<|im_start|>"], chat_template=CHATML
    )
    made.save_pretrained(folder)
    LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=2048).save_pretrained(folder)
    return str(folder)


def test_special_tokens_are_told_from_text_that_looks_like_them(chat_model, tmp_path):
    rows = [{"prompt": f"Say <|im_end|> {i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(40)]
    report = checked(write_rows(tmp_path / "a.jsonl", rows), model=chat_model, shown=1)
    [[prompt, chosen, rejected]] = report.examples
    number = re.search(r"\d+", prompt.text)[0]
    assert prompt.text == f"⟦<|im_start|>⟧user\nSay <|im_end|> {number}⟦<|im_end|>⟧\n⟦<|im_start|>⟧assistant\n"
    assert (chosen.text, rejected.text) == (f"yes {number}⟦<|im_end|>⟧", "no⟦<|im_end|>⟧")
    assert (rejected.tokens, prompt.of, chosen.of) == (3, "prompt", "chosen")
    assert report.files[0].messages == 40
    assert "    │Say <|im_end|> " in page(report)
    assert "chosen (" in page(report)
    assert "tokens, scored)" in page(report)


def test_nothing_special_is_marked_nowhere(tiny_tokenizer):
    assert visible(tiny_tokenizer, [4, 5]) == "word0 word1"
    assert visible(tiny_tokenizer, [1, 4, 2]) == "⟦<s>⟧word0⟦</s>⟧"
    assert visible(tiny_tokenizer, []) == ""


def test_nothing_in_a_file_steers_the_terminal(tmp_path):
    evil = "\x1b[2J\x07\u202e"
    rows = [{"prompt": f"{evil}Q{i}", "chosen": f"{evil}a{i}", "rejected": evil, f"col{evil}": 1} for i in range(40)]
    rows += [{"prompt": "x", "chosen": {evil: evil}, "rejected": evil}]
    text = page(checked(write_rows(tmp_path / "a.jsonl", rows)))
    assert all(line.isprintable() for line in text.split("\n"))
    assert "\\x1b[2J" in text
    assert "[bold]" not in text


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")
def test_real_dialogues(tmp_path):
    report = checked(DATA / "hh_heldout.jsonl.gz")
    [file] = report.files
    assert file.read == 906
    assert 0.45 < report.bias.longer_chosen < 0.6
    assert "near duplicates" not in {doubt.about for doubt in report.doubts}
    ranked = checked(DATA / "oasst_ranked.jsonl.gz")
    assert set(ranked.files[0].layouts) == {"our own rankings"}
    assert json.dumps(ranked.files[0].layouts)


def test_columns_of_other_names_are_named_with_what_they_are_read_as(tmp_path):
    rows = [{"a": r["prompt"], "inner": {"good": r["chosen"]}, "bad": r["rejected"], "id": 1} for r in ROWS]
    [file] = checked(
        write_rows(tmp_path / "a.jsonl", rows), columns=["prompt=a", "chosen=inner.good", "rejected=bad"]
    ).files
    assert file.columns == ("a (as prompt)", "inner (as chosen)", "bad (as rejected)")
    assert set(file.unread) == {"id"}
