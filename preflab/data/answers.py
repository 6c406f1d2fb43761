"""Where the prompt ends and the answers begin, in rows that say it in many ways."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from preflab.data.dialogues import (
    form_of,
    human_said,
    open_answer,
    opening_marker,
    opens_at_once,
    shared_prompt,
    speaks_for_human,
)
from preflab.data.messages import ASSISTANT, USER, Message, shared, starts_with
from preflab.data.reading import RowError
from preflab.data.splits import normalised

NO_PROMPT = "no field 'prompt', and chosen and rejected share no dialogue"
NOT_ONE_TURN = "response is not one assistant turn"
EQUAL = "chosen equal to rejected"
ANSWERED = "the prompt ends with one of the responses"
REPEATED = "rows repeat the prompt at the head of their responses; it is cut off there"
BEGUN = "rows begin their responses with the beginning of an answer that the prompt ends with; it is cut off there"
PLAYS = (
    "rows have responses that hold turns of a dialogue, such as 'Human:', beside a prompt that is none; they are read "
    "as they stand"
)
UNASKED = "rows have prompts that end in the human's turn; the responses are joined to them as they stand"


class Parted(NamedTuple):
    """A prompt and the answers to it, best first.

    Attributes:
        prompt: text, or messages.
        answers: texts, or (where the prompt is messages) one assistant's message each.
        notes: what must be said of rows like this one.
    """

    prompt: str | list[Message]
    answers: list[Any]
    notes: Collection[str] = ()


def parted(prompt: str | list[Message] | None, answers: Sequence[str | list[Message]]) -> Parted:
    """Separate prompt and answers.

    Args:
        prompt: what the row gives as such, if it does.
        answers: what it gives as responses, which may repeat the prompt or be whole dialogues.

    Raises:
        RowError: where it cannot be told, or an answer goes on into another turn.
    """
    if isinstance(prompt, list) or any(isinstance(answer, list) for answer in answers):
        return _messages(prompt, answers)
    return _texts(prompt, [str(answer) for answer in answers])


# ---- text --------------------------------------------------------------------------------------------


def _texts(prompt: str | None, answers: list[str]) -> Parted:
    repeated = False
    if prompt is None or not prompt.strip():
        if not all(map(str.strip, answers)):
            raise RowError("empty response")
        if len(answers) > 1 and answers[0] == answers[-1]:
            raise RowError(EQUAL)
        cut = shared_prompt(answers) if len(answers) > 1 else None
        if cut is None:
            raise RowError(NO_PROMPT if prompt is None else "empty prompt")
        prompt, answers = answers[0][:cut], [answer[cut:] for answer in answers]
    else:
        prompt, answers, repeated = _without_repetition(prompt, answers)
    prompt, answers = _led(prompt, answers)
    form, notes = form_of(prompt), {REPEATED} if repeated else set()
    begun = None if form is None else open_answer(prompt, form)
    if form is not None and begun is None:
        notes.add(UNASKED)
    rests = _going_on(begun, answers)
    if rests is not None:
        notes.add(BEGUN)
    for answer in answers if rests is None else rests:
        own = form or form_of(answer)
        if own is None or not speaks_for_human(answer, own):
            continue
        # Where the prompt is no dialogue, an answer may well hold one (a play, say), but not a template's markers.
        if form is not None or own.templated:
            raise RowError(NOT_ONE_TURN)
        notes.add(PLAYS)
    return Parted(prompt, answers if rests is None else rests, notes)


def _going_on(begun: str | None, answers: Sequence[str]) -> list[str] | None:
    """Return answers as they go on from the beginning that the prompt ends with, if all repeat it; else None.

    Raises:
        RowError: if that is no beginning, but one of the answers.
    """
    if not begun or not begun.strip():
        return None
    if begun.strip() in map(str.strip, answers):
        raise RowError(ANSWERED)
    if len(answers) < 2:
        return None
    rests = [_after(begun, answer) for answer in answers]
    return None if None in rests else [str(rest) for rest in rests]


def _without_repetition(prompt: str, answers: list[str]) -> tuple[str, list[str], bool]:
    """Return prompt and answers without the prompt that the answers repeat, and whether they did."""
    # One lone answer that begins with a question's words may be meant so; with a dialogue it cannot be.
    if len(answers) > 1 or form_of(prompt) is not None:
        rests = [_after(prompt, answer) for answer in answers]
        if None not in rests:
            return prompt, [str(rest) for rest in rests], True
    if not all(map(opens_at_once, answers)):
        return prompt, answers, False
    # Whole dialogues beside a prompt: it should be what the human says in them.
    cut = shared_prompt(answers)
    if cut is None:
        raise RowError(NOT_ONE_TURN)
    whole, core = answers[0][:cut], normalised(prompt)
    if core not in normalised(whole) and core not in map(normalised, human_said(whole)):
        raise RowError("prompt is not in the dialogues that the responses repeat")
    return whole, [answer[cut:] for answer in answers], True


def _after(prompt: str, answer: str) -> str | None:
    """Return what follows in an answer that begins with the prompt; None if it does not."""
    core, text = prompt.strip(), answer.lstrip()
    if not text.startswith(core):
        return None
    rest = text[len(core) :]
    if rest and core[-1].isalnum() and rest[0].isalnum():  # "I" does not begin "It was"
        return None
    return rest.removeprefix(prompt[len(prompt.rstrip()) :])


def _led(prompt: str, answers: list[str]) -> tuple[str, list[str]]:
    """Move a marker that all answers open with ("Assistant:") to the prompt, or drop any if it is there already."""
    form = form_of(prompt)
    if form is None:
        return prompt, answers
    ends = [opening_marker(answer, form) for answer in answers]
    rests = [answer[end:] for answer, end in zip(answers, ends, strict=True)]
    if any(ends) and open_answer(prompt, form) is not None:
        return prompt, rests
    markers = {answer[:end] for answer, end in zip(answers, ends, strict=True)}
    return (prompt + markers.pop(), rests) if all(ends) and len(markers) == 1 else (prompt, answers)


# ---- messages ----------------------------------------------------------------------------------------


def _messages(prompt: str | list[Message] | None, answers: Sequence[str | list[Message]]) -> Parted:
    lists = [answer for answer in answers if isinstance(answer, list)]
    if any(not answer for answer in answers):
        raise RowError("empty response")
    if prompt is None or prompt == "":
        if len(lists) < len(answers):
            raise RowError("one response is text, the other messages")
        prompt = _shared_turns(lists)
    elif isinstance(prompt, str):
        prompt, answers = _beside_text(prompt, answers)
    found = [_answer(prompt, answer) for answer in answers]
    turns, again = [answer for answer, _ in found], any(again for _, again in found)
    begun = prompt[-1]["content"] if prompt and prompt[-1]["role"] == ASSISTANT and not again else None
    rests = _going_on(begun, [turn["content"] for turn in turns])
    turns = [{**turn, "content": rest} for turn, rest in zip(turns, rests, strict=True)] if rests else turns
    return Parted(prompt, turns, () if rests is None else (BEGUN,))


def _shared_turns(dialogues: list[list[Message]]) -> list[Message]:
    """Return the turns that whole dialogues share."""
    if len(dialogues) == 1:
        return dialogues[0][:-1]
    count = shared(dialogues)
    if all(len(dialogue) == count for dialogue in dialogues):
        raise RowError(EQUAL)
    if not count:
        raise RowError(NO_PROMPT)
    return dialogues[0][:count]


def _beside_text(
    prompt: str, answers: Sequence[str | list[Message]]
) -> tuple[list[Message], Sequence[str | list[Message]]]:
    """Return a prompt that is text as messages: the turns before the answers, in which it should stand."""
    lists = [answer for answer in answers if isinstance(answer, list)]
    before = lists[0][:-1]
    before = before[: min(shared([before, other]) for other in lists)]
    if not any(turn["role"] == USER for turn in before):
        if form_of(prompt) is not None:
            raise RowError("prompt is a dialogue as text, the responses are messages")
        rests = [answer[len(before) :] if isinstance(answer, list) else answer for answer in answers]
        return [*before, {"role": USER, "content": prompt}], rests
    core, said = normalised(prompt), normalised("\n".join(turn["content"] for turn in before))
    if core and core not in said and not all(normalised(turn["content"]) in core for turn in before):
        raise RowError("prompt is not in the dialogues that the responses repeat")
    return before, answers


def _answer(prompt: list[Message], response: str | list[Message]) -> tuple[Message, bool]:
    """Return the message that a response is, which may be text, one message, or prompt and message; and whether so."""
    if isinstance(response, str):
        return {"role": ASSISTANT, "content": response}, False
    again = bool(prompt) and starts_with(response, prompt)
    rest = response[len(prompt) :] if again else response
    begun = prompt[-1]["content"] if prompt and prompt[-1]["role"] == ASSISTANT else None
    if begun is not None and not again and starts_with(response, prompt[:-1]) and len(response) == len(prompt):
        # The whole dialogue, and in it the turn that the prompt had begun.
        last = response[-1]
        if last["role"] == ASSISTANT and last["content"].startswith(begun):
            again, rest = True, [{**last, "content": last["content"][len(begun) :]}]
    if not rest:
        raise RowError("empty response")
    if len(rest) > 1 or rest[0]["role"] != ASSISTANT:
        raise RowError(NOT_ONE_TURN)
    return rest[0], again
