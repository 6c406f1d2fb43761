"""Public data sets whose rows take more than a line to bring to the project's own fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from preflab.data.cells import missing, plain
from preflab.data.layout_parts import alpaca_prompt, as_pair, as_prompt, as_ranking, items, larger, objects, truth_of
from preflab.data.messages import ASSISTANT, USER, text_or_messages
from preflab.data.reading import Row, RowError


def ultrafeedback(row: Row) -> Row:
    """Read a row whose completions are ranked by a score of their own."""
    found = objects(row["completions"], "completions", "response")
    name = (
        next(
            (
                name
                for name in ("fine-grained_score", "overall_score", "score", "rating")
                if not any(missing(completion.get(name)) for completion in found)
            ),
            None,
        )
        if found
        else None
    )
    if name is None:
        raise RowError("completions have no fine-grained_score, overall_score, score or rating")
    return as_ranking(alpaca_prompt(row), [c["response"] for c in found], [c.get(name) for c in found], name)


def nectar(row: Row) -> Row:
    """Read a row whose answers have their ranks beside them."""
    found = objects(row["answers"], "answers", "answer", "rank")
    return {"prompt": row["prompt"], "responses": [a["answer"] for a in found], "rank": [a["rank"] for a in found]}


def arena(row: Row) -> Row:
    """Read two whole dialogues and the name of the winner."""
    named = {"model_a": True, "a": True, "model_b": False, "b": False}
    winner = str(row["winner"]).strip().lower()
    if winner not in named and not winner.startswith("tie") and winner != "both_bad":
        raise RowError("winner is not model_a, model_b or tie", row["winner"])
    first, second = (text_or_messages(row[name]) for name in ("conversation_a", "conversation_b"))
    return {k: v for k, v in as_pair(None, first, second, named.get(winner)).items() if k != "prompt"}


def _rounds(asked: Sequence[Any], answered: Sequence[Any]) -> list[dict[str, Any]]:
    rounds = zip(asked, answered, strict=True)
    return [
        {"role": role, "content": text} for both in rounds for role, text in zip((USER, ASSISTANT), both, strict=True)
    ]


def arena_flags(row: Row) -> Row:
    """Read two dialogues, turn by turn, and a flag for each that says whether it won."""
    won = {name: truth_of(row, name) for name in ("winner_model_a", "winner_model_b")}
    asked, *answers = (items(row[name], name) for name in ("prompt", "response_a", "response_b"))
    if not len(asked) == len(answers[0]) == len(answers[1]):
        raise RowError("prompt and responses have different numbers of turns")
    first, second = (_rounds(asked, said) for said in answers)
    better = None if won["winner_model_a"] == won["winner_model_b"] else won["winner_model_a"]
    return {k: v for k, v in as_pair(None, first, second, better).items() if k != "prompt"}


def webgpt(row: Row) -> Row:
    """Read two answers with a score each; the question may be an object."""
    question = plain(row["question"])
    asked = question.get("full_text") if isinstance(question, Mapping) else question
    return as_pair(as_prompt(asked), row["answer_0"], row["answer_1"], larger(row, "score_0", "score_1"))


def two_outputs(row: Row) -> Row:
    """Read an Alpaca row whose outputs are two, best first."""
    output = plain(row["output"])
    if isinstance(output, str) and not output.lstrip().startswith("["):
        raise RowError("one 'output' and no preference: give 'chosen' and 'rejected', or 'output' as a list of two")
    return {"prompt": alpaca_prompt(row), "responses": items(output, "output")}


def labelled_dialogue(name: str, label: str) -> Callable[[Row], Row]:
    """Return the reader of rows with one whole dialogue and a label for its last turn."""

    def read(row: Row) -> Row:
        messages = text_or_messages(row[name])
        if isinstance(messages, str) or not messages or messages[-1]["role"] != ASSISTANT:
            raise RowError(f"{name} does not end with an assistant turn")
        return {"prompt": messages[:-1], "completion": messages[-1:], "label": row[label]}

    return read


def last_turn_against(row: Row) -> Row:
    """Read a dialogue whose last turn is chosen, beside the response that was rejected."""
    messages = text_or_messages(row["messages"])
    if isinstance(messages, str) or not messages or messages[-1]["role"] != ASSISTANT:
        raise RowError("messages does not end with an assistant turn")
    return {"prompt": messages[:-1], "chosen": messages[-1:], "rejected": row["rejected_response"]}


def steered(prompt: Any) -> list[dict[str, Any]]:
    """Return a HelpSteer2 prompt: one question, or a dialogue whose later turns bear markers."""
    if not isinstance(prompt, str):
        return as_prompt(prompt)
    first, *rest = re.split(r"<extra_id_1>(User|Assistant)\s", prompt)
    roles, texts = {"User": USER, "Assistant": ASSISTANT}, [text.rstrip() for text in (first, *rest[1::2])]
    found = list(zip((USER, *map(roles.__getitem__, rest[::2])), texts, strict=True)) if rest else [(USER, prompt)]
    if found[-1] == (ASSISTANT, ""):
        found.pop()
    role, said = found[-1]
    return as_prompt(said, *found[:-1]) if role == USER else [{"role": r, "content": text} for r, text in found]
