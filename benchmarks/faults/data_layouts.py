"""Preference files with columns that are not read, or that stand in another's place; layouts of public data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.faults import kit
from benchmarks.faults.cases import (
    Accepted,
    Case,
    Row,
    refused,
    said,
    table,
)
from benchmarks.faults.kit import turn
from benchmarks.faults.preferences import case


def cases(seed: int) -> Iterator[Case]:
    """Yield columns and layouts."""
    yield from columns()
    yield from public_layouts()


# ---- columns --------------------------------------------------------------------------------------

UNREAD = (
    "question",
    "instruction",
    "input",
    "query",
    "history",
    "context",
    "tools",
    "functions",
    "images",
    "score_chosen",
    "score_rejected",
    "chosen_score",
    "winner",
    "reason",
    "weight",
    "conversations",
)
"""Beside prompt, chosen and rejected; what they say must not go by without a word."""
PROMPT_LIKE = ("question", "instruction", "query", "input", "problem", "post")


def columns() -> Iterator[Case]:
    """Yield columns that are not read, or stand in another's place."""
    for name in UNREAD:
        rows = [{**row, name: f"Say it, {i}."} for i, row in enumerate(kit.text_rows())]
        yield case(f"column/{name} is beside", "data.jsonl", table(rows), (*said(name), *refused(name)))
    for name in PROMPT_LIKE:
        rows = [
            {name: kit.question(i), "chosen": kit.answer(i, True), "rejected": kit.answer(i, False)}
            for i in range(kit.ROWS)
        ]
        # Read as the prompt, there are as many prompts as questions; what answers share would make fewer.
        right = (*refused(name), Accepted(groups=kit.ROWS))
        yield case(f"column/{name} for prompt", "data.jsonl", table(rows), right)
        alike = [
            {**row, "chosen": "He said " + row["chosen"], "rejected": "He said " + row["rejected"]} for row in rows
        ]
        yield case(f"column/{name} for prompt, answers begin alike", "data.jsonl", table(alike), right)
    for name in ("system", "system_prompt"):
        rows = [{name: "Be kind.", **row} for row in kit.message_rows()]
        whole = [{**row, "prompt": [turn("system", "Be kind."), *row["prompt"]]} for row in kit.message_rows()]
        yield case(f"column/plain {name}", "data.jsonl", table(whole), said(), chat=True)
        like = f"data/column/plain {name}"
        yield case(
            f"column/{name}", "data.jsonl", table(rows), (*said(like=like), *said(name), *refused(name)), chat=True
        )
    calls = [{"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}]
    for what, message in {
        "tool calls": {"role": "assistant", "content": "", "tool_calls": calls},
        "tool calls, null content": {"role": "assistant", "content": None, "tool_calls": calls},
        "a function call": {"role": "assistant", "content": None, "function_call": calls[0]["function"]},
    }.items():
        rows = [
            {**row, "prompt": [*row["prompt"], message, turn("tool", "A ball."), turn("user", "So?")]}
            for row in kit.message_rows()
        ]
        yield case(f"column/{what}", "data.jsonl", table(rows), refused("tool|function|call"), chat=True)
    for what, mapping in MAPPINGS.items():
        rows = [{"q": kit.prompt(i), "a": kit.answer(i, True), "b": kit.answer(i, False)} for i in range(kit.ROWS)]
        yield case(f"column/mapping {what}", "data.jsonl", table(rows), refused(mapping[1]), "--columns", mapping[0])


MAPPINGS = {
    "of no such column": ("prompt=question,chosen=a,rejected=b", "question"),
    "to no such field": ("promt=q,chosen=a,rejected=b", "promt"),
    "twice": ("prompt=q,chosen=a,chosen=b", "chosen"),
    "without a sign": ("prompt,chosen", "prompt"),
    "without a name": ("=q,chosen=a,rejected=b", "q"),
    "without a column": ("prompt=,chosen=a,rejected=b", "prompt"),
    "of nothing": (",,", ",,|columns"),
}


def public_layouts() -> Iterator[Case]:
    """Yield the layouts of public data sets: read, or refused with the field named and the way to map it."""
    for name, (fields, row) in PUBLIC.items():
        rows = [row(i) for i in range(kit.ROWS)]
        read = (Accepted(groups=kit.ROWS),)
        yield case(
            f"layout/{name}", "data.jsonl", table(rows), (*read, *refused("|".join(fields), "columns")), chat=True
        )


def _turns(i: int, good: bool) -> list[Row]:
    return [turn("user", kit.question(i)), turn("assistant", kit.answer(i, good))]


PUBLIC: dict[str, tuple[tuple[str, ...], Callable[[int], Row]]] = {
    "UltraFeedback, binarized": (
        ("chosen",),
        lambda i: {
            "prompt": kit.question(i),
            "prompt_id": str(i),
            "chosen": _turns(i, True),
            "rejected": _turns(i, False),
            "messages": _turns(i, True),
            "score_chosen": 8.0,
            "score_rejected": 3.0,
        },
    ),
    "UltraFeedback": (
        ("instruction", "completions"),
        lambda i: {
            "source": "a",
            "instruction": kit.question(i),
            "models": ["m", "n"],
            "completions": [
                {"model": "m", "response": kit.answer(i, good), "overall_score": 8.0 if good else 3.0}
                for good in (True, False)
            ],
        },
    ),
    "HH": (
        ("chosen",),
        lambda i: {name: f"\n\n{kit.prompt(i)} {kit.answer(i, name == 'chosen')}" for name in ("chosen", "rejected")},
    ),
    "PKU-SafeRLHF": (
        ("response_0", "better_response_id"),
        lambda i: {
            "prompt": kit.question(i),
            "response_0": kit.answer(i, True),
            "response_1": kit.answer(i, False),
            "better_response_id": 0,
            "safer_response_id": 0,
            "is_response_0_safe": True,
            "is_response_1_safe": False,
        },
    ),
    "SHP": (
        ("history", "human_ref_A"),
        lambda i: {
            "post_id": str(i),
            "history": kit.question(i),
            "human_ref_A": kit.answer(i, True),
            "human_ref_B": kit.answer(i, False),
            "labels": 1,
            "score_ratio": 2.0,
        },
    ),
    "Nectar": (
        ("answers",),
        lambda i: {
            "prompt": f"\n\n{kit.prompt(i)} ",
            "answers": [
                {"answer": kit.answer(i, good), "model": "m", "rank": 1.0 if good else 2.0} for good in (True, False)
            ],
        },
    ),
    "HelpSteer2": (
        ("response_1", "preference_strength"),
        lambda i: {
            "split": "train",
            "prompt": kit.question(i),
            "response_1": kit.answer(i, False),
            "response_2": kit.answer(i, True),
            "preference_strength": 2,
        },
    ),
    "HelpSteer3": (
        ("context", "response1"),
        lambda i: {
            "domain": "general",
            "context": [turn("user", kit.question(i))],
            "response1": kit.answer(i, False),
            "response2": kit.answer(i, True),
            "overall_preference": 2,
        },
    ),
    "ShareGPT": (
        ("conversations",),
        lambda i: {
            "conversations": [{"from": "human", "value": kit.question(i)}],
            **{name: {"from": "gpt", "value": kit.answer(i, name == "chosen")} for name in ("chosen", "rejected")},
        },
    ),
    "Orca pairs": (
        ("question", "system"),
        lambda i: {
            "system": "Be kind.",
            "question": kit.question(i),
            "chosen": kit.answer(i, True),
            "rejected": kit.answer(i, False),
        },
    ),
    "arena": (
        ("conversation_a", "winner"),
        lambda i: {
            "model_a": "m",
            "model_b": "n",
            "winner": "model_a",
            "conversation_a": _turns(i, True),
            "conversation_b": _turns(i, False),
            "turn": 1,
        },
    ),
    "Alpaca": (
        ("instruction", "output"),
        lambda i: {"instruction": kit.question(i), "input": "", "output": [kit.answer(i, True), kit.answer(i, False)]},
    ),
    "reward bench": (
        ("chosen_model", "prompt"),
        lambda i: {
            "prompt": kit.question(i),
            "chosen": kit.answer(i, True),
            "rejected": kit.answer(i, False),
            "id": i,
            "chosen_model": "m",
            "rejected_model": "n",
            "subset": "chat",
        },
    ),
}
