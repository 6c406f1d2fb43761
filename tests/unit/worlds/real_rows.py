"""Worlds of preference files that a test writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from preflab.worlds import World, WorldConfig, open_world

SPLITS = ("pairs", "heldout", "gold_pairs", "demonstrations", "prompts", "eval_prompts")


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
