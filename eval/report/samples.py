"""Side-by-side answers for the page: as many prompts as stay light, biggest disagreements first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preflab.data.asked import conversation
from preflab.eval.report.text import finite, visible

Samples = Mapping[str, Mapping[Any, Sequence[Mapping[str, Any]]]]
LONGEST = 6_000  # characters shown of one text
BUDGET = 4_000_000  # characters on the page
NUMBERS = ("gold", "proxy", "length", "kl")


def sample_data(samples: Samples, order: Sequence[str]) -> dict[str, Any] | None:
    """Return what the page's script shows; None where there are no samples.

    Args:
        samples: method, then training seed, then rows of ``samples.jsonl``; the same prompts in the same order.
        order: the methods' order.

    Returns:
        ``methods``, ``seeds``, ``total`` (prompts there are) and ``prompts``, those whose answers differ most in
        gold reward first: ``text``, ``at`` (index), and ``answers[method][seed]`` with ``text``, `NUMBERS`, ``ended``.
    """
    answered = {visible(name): seeds for name, seeds in samples.items() if any(seeds.values())}
    names: list[str] = [*(n for n in order if n in answered), *(n for n in answered if n not in order)]
    tables: dict[str, dict[str, Sequence[Mapping[str, Any]]]] = {
        name: {str(seed): rows for seed, rows in answered[name].items() if rows} for name in names
    }
    if not names:
        return None
    every: list[Sequence[Mapping[str, Any]]] = [rows for seeds in tables.values() for rows in seeds.values()]
    longest = max(every, key=len)
    texts = [row.get("prompt") for row in longest]
    shown = [conversation(str(row.get("prompt")), row.get("messages")) for row in longest]
    at_prompt = [_at(tables, i, text) for i, text in enumerate(texts)]
    ranked = sorted(range(len(texts)), key=lambda i: -_spread(at_prompt[i]))
    prompts: list[dict[str, Any]] = []
    left = BUDGET
    for i in ranked:
        answers = {n: {s: _answer(row) for s, row in seeds.items()} for n, seeds in at_prompt[i].items()}
        prompt: dict[str, Any] = {"at": i, "text": visible(shown[i], LONGEST), "answers": answers}
        left -= len(prompt["text"]) + sum(len(a["text"]) + 80 for seeds in answers.values() for a in seeds.values())
        if left < 0 and prompts:
            break
        prompts.append(prompt)
    seeds = sorted(
        {seed for table in tables.values() for seed in table},
        key=lambda s: (not s.isdigit(), int(s) if s.isdigit() else 0, s),
    )
    return {"methods": names, "seeds": seeds, "total": len(texts), "prompts": prompts}


def _at(tables: Mapping[str, Any], i: int, prompt: Any) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Return the rows that answer prompt `i`, by method and seed."""
    return {
        name: {seed: rows[i] for seed, rows in seeds.items() if i < len(rows) and rows[i].get("prompt") == prompt}
        for name, seeds in tables.items()
    }


def _spread(answers: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> float:
    """Return how far apart the methods' mean gold rewards are."""
    golds = [[row["gold"] for row in seeds.values() if finite(row.get("gold"))] for seeds in answers.values()]
    means = [sum(values) / len(values) for values in golds if values]
    return max(means) - min(means) if means else 0.0


def _answer(row: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {key: round(row[key], 3) for key in NUMBERS if finite(row.get(key))}
    return {"text": visible(row.get("response", ""), LONGEST), "ended": row.get("ended") is not False, **numbers}
