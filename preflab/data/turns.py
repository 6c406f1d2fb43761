"""Text becomes messages, for models with a chat template: a dialogue its turns, anything else one user's message."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from preflab.data.answers import UNASKED, Parted
from preflab.data.dialogues import END_TOKENS, Turn, form_of, opens_at_once, templated, turns
from preflab.data.forms import ANSWER, HUMAN
from preflab.data.messages import ASSISTANT, SYSTEM, USER, Message
from preflab.data.reading import RowError

Dialogues = Literal["auto", "messages", "text"]

ROLE_OF = {HUMAN: USER, ANSWER: ASSISTANT}  # anybody else speaks for the system


def template_wrote(text: str, openings: tuple[str, ...]) -> bool:
    """Whether a prompt begins as what a chat template wrote: with a turn's marker of some template, or `openings`.

    Those are the special tokens of the model at hand. Such a string further inside is something that somebody says.
    """
    return text.lstrip().startswith(openings) or (templated(text) and opens_at_once(text))


def messages_of(text: str) -> list[Message]:
    """Return a prompt as messages.

    What stands before the first turn of a dialogue is a system prompt. Where the last turn is the assistant's, there to
    be written, it is left out, since the chat template opens it; where that turn has a beginning, it stays.
    """
    form = form_of(text)
    if form is None or form.templated:
        return [{"role": USER, "content": text.strip()}]
    marks = [*turns(text, form), Turn("", len(text), len(text))]
    preamble = text[: marks[0].start].strip()
    found = [{"role": SYSTEM, "content": preamble}] if preamble else []
    for turn, after in pairwise(marks):
        said = text[turn.end : after.start]
        # Answers go on where a last turn of theirs stops: whether with a blank is theirs to say.
        content = said.lstrip() if turn.speaker == ANSWER and not after.speaker else without_end(said).lstrip()
        found.append({"role": ROLE_OF.get(turn.speaker, SYSTEM), "content": content})
    return found[:-1] if found[-1] == {"role": ASSISTANT, "content": ""} else found


def as_messages(found: Parted, ends: Sequence[str]) -> Parted:
    """Return a prompt and answers of text as messages.

    Args:
        found: text.
        ends: the model's end tokens; the template closes a turn itself.

    Raises:
        RowError: if an answer is nothing but an end token.
    """
    assert isinstance(found.prompt, str)
    prompt = messages_of(found.prompt)
    begun = prompt[-1]["role"] == ASSISTANT
    answers = [without_end(answer, ends) for answer in found.answers]
    if not all(map(str.strip, answers)):
        raise RowError("empty response")
    said = [{"role": ASSISTANT, "content": answer if begun else answer.lstrip()} for answer in answers]
    return Parted(prompt, said, {*found.notes} - {UNASKED})


def without_end(text: str, ends: Sequence[str] = ()) -> str:
    """Return a turn without the end tokens that close it."""
    every, said = (*END_TOKENS, *ends), text.rstrip()
    while closed := next((end for end in every if said.endswith(end)), None):
        said = said[: -len(closed)].rstrip()
    return said
