"""Rows of preference data, written out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from preflab.data.formats import preference_rows
from preflab.data.splits import to_dataset

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
USER, BOT = "user", "assistant"


def say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def numbered(*rows: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    return list(enumerate(rows, 1))


def pair(prompt: str = "Q", chosen: str = "yes", rejected: str = "no", **extra: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **extra}


ROWS = [pair("a"), pair("b", "ü\u2028x")]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if path.name.endswith(".parquet"):
        to_dataset(rows).to_parquet(str(path))
    elif path.name.endswith(".csv"):
        to_dataset(rows).to_csv(str(path), index=False)
    else:
        content = lines if ".jsonl" in path.name else json.dumps(rows, indent=1).encode()
        path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def cleaned(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None = None) -> tuple[str, str, str]:
    rows, bad = preference_rows(numbered(row), tokenizer)
    assert not bad.total
    return rows[0]["prompt"], rows[0]["chosen"], rows[0]["rejected"]


DIALOGUE = [say(USER, "Hi"), say(BOT, "Hello"), say(USER, "2+2?")]
PLAIN = "Human: Hi\n\nAssistant: Hello\n\nHuman: 2+2?\n\nAssistant:"
