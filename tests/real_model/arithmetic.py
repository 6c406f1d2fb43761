"""Rows of messages whose answers can be checked."""

from __future__ import annotations


def sums(count: int = 64) -> list[dict[str, object]]:
    """Return rows of messages with a column ``answer``."""
    return [
        {
            "prompt": [{"role": "user", "content": f"What is {n} plus 1? Only the number."}],
            "chosen": [{"role": "assistant", "content": str(n + 1)}],
            "rejected": [{"role": "assistant", "content": "I do not know."}],
            "answer": str(n + 1),
        }
        for n in range(count)
    ]
