"""Dialogues before people: what is shown and written down of them, and matched and exported again."""

from __future__ import annotations

import json
from pathlib import Path

from preflab.data.asked import conversation
from preflab.data.formats import preference_rows
from preflab.eval.annotation.pairs import Pair, sample_pairs
from preflab.eval.annotation.sitting import Shown, verdict_row
from preflab.eval.judges.verdicts import HumanVerdicts, preference_data, read_verdicts

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What does <|im_end|> mean?"},
]
PROMPT = "<|im_start|>user\nWhat does <\u2060|im_end|> mean?<|im_end|>\n<|im_start|>assistant\n"


def samples(path: Path, response: str) -> Path:
    path.write_text(json.dumps({"prompt": PROMPT, "messages": MESSAGES, "response": response}) + "\n")
    return path


def test_from_samples_to_verdicts_and_data(tmp_path: Path) -> None:
    files = [samples(tmp_path / f"{name}.jsonl", f"An end, says {name}.") for name in "ab"]
    (pair,) = sample_pairs((f"a={files[0]}", f"b={files[1]}"))
    seen = "System: Be kind.\n\nUser: What does <|im_end|> mean?"
    assert pair == Pair(seen, "An end, says a.", "An end, says b.", ("a", "b"), MESSAGES)

    path = tmp_path / "verdicts.jsonl"
    path.write_text(json.dumps(verdict_row(Shown("", pair, False), "1", "human")) + "\n")
    asked = [conversation(PROMPT, MESSAGES)]
    assert HumanVerdicts(path).prefer(asked, [pair.first], [pair.second]) == [1.0]

    rows, ties = preference_data(read_verdicts(path))
    assert (rows, ties) == ([{"prompt": MESSAGES, "chosen": pair.first, "rejected": pair.second}], 0)
    assert not preference_rows([(1, rows[0])])[1].total, "it is data that can be trained on"


def test_verdicts_on_texts_are_what_they_were(tmp_path: Path) -> None:
    row = verdict_row(Shown("", Pair("p", "x", "y"), True), "1", "human")
    assert "messages" not in row
    path = tmp_path / "verdicts.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert preference_data(read_verdicts(path))[0] == [{"prompt": "p", "chosen": "y", "rejected": "x"}]
