"""Files of preferences in the tiny model's words."""

from __future__ import annotations

import json
import random


def preference_rows(count, seed=0):
    """Chosen responses say early words, rejected ones late words."""
    draw = random.Random(seed)

    def words(first, last, length):
        return " ".join(f"word{draw.randrange(first, last)}" for _ in range(length))

    return [
        {
            "prompt": words(0, 24, 5),
            "chosen": " " + words(0, 8, draw.randint(2, 6)),
            "rejected": " " + words(16, 24, draw.randint(2, 6)),
        }
        for _ in range(count)
    ]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
