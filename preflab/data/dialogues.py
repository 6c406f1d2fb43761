"""Dialogues written as text: where their turns begin, whose they are, and what they share.

`preflab.data.forms` says how each format opens a turn; everything else is read off it. Every search runs once over the
text, whatever is in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from preflab.data.forms import ANSWER, FORMS, HUMAN, Form


class Turn(NamedTuple):
    """A turn's marker: whose it is, where the marker begins and where it ends."""

    speaker: str
    start: int
    end: int


SYSTEM_BLOCK = re.compile(r"\s*<<SYS>>.*?<</SYS>>", re.DOTALL)
END_TOKENS = (
    *("<|im_end|>", "<|eot_id|>", "<|eot|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<|end_of_turn|>"),
    *("<|END_OF_TURN_TOKEN|>", "[|endofturn|]", "<end_of_turn>", "</s>", "<s>", "<bos>", "<eos>"),
)
"""What common templates close a turn with, and begin a text with."""
_END_TOKEN = re.compile("|".join(map(re.escape, END_TOKENS)))
_HINTED: dict[str, list[int]] = {}
for _order, _form in enumerate(FORMS):
    for _hint in _form.hints:
        _HINTED.setdefault(_hint, []).append(_order)
_HINT = re.compile("|".join(map(re.escape, sorted(_HINTED, key=len, reverse=True))))  # one look for all forms
_SPEAKERS: dict[str, dict[str, str]] = {form.name: {} for form in FORMS}  # markers met so far
_MOST_MARKERS = 1000
_BEFORE_NAME = re.compile(r"(?:[ \t\ufeff]|<[^<>\s]{1,40}>)*")
_INDENT = 200  # characters of a line that may stand before a name


@lru_cache(maxsize=16)  # one row asks for the same texts several times
def form_of(text: str) -> Form | None:
    """Return the form that a text is a dialogue in: that of its first marker, where both speak if two begin alike."""
    best: tuple[int, bool, int] | None = None
    for order in sorted({order for hint in set(_HINT.findall(text)) for order in _HINTED[hint]}):
        form = FORMS[order]
        if form.both and not form.speakers[1][1].search(text):
            continue
        first: dict[str, int] = {}
        for turn in turns(text, form):
            first.setdefault(turn.speaker, turn.start)
            if HUMAN in first and ANSWER in first:
                break
        if {HUMAN, ANSWER} <= set(first) if form.both else HUMAN in first or (form.templated and first):
            found = (min(first.values()), ANSWER not in first, order)
            best = found if best is None or found < best else best
    return None if best is None else FORMS[best[2]]


def turns(text: str, form: Form) -> Iterator[Turn]:
    """Yield the markers of a dialogue's turns, in order."""
    anywhere, speakers = form.templated, _SPEAKERS[form.name]
    for match in form.turn.finditer(text):
        start, end = match.span()
        if anywhere or _opens(text, start, form):
            marker = match[0]
            if marker not in speakers:
                if len(speakers) > _MOST_MARKERS:
                    speakers.clear()
                speakers[marker] = form.speaker(marker)
            yield Turn(speakers[marker], start, end)


def _opens(text: str, at: int, form: Form) -> bool:
    """Whether a name at some place opens a turn there."""
    if not at or text[at - 1] == "\n":
        return True
    if text[at - 1] not in " \t\ufeff>":
        return False
    if form.stands == "blank":
        return True
    line = text[max(0, at - _INDENT) : at].rpartition("\n")
    if line[2].endswith(("</s>", "<|endoftext|>")):
        return True
    return (bool(line[1]) or at <= _INDENT) and bool(_BEFORE_NAME.fullmatch(line[2]))


def templated(text: str) -> bool:
    """Whether a text is evidently what a chat template wrote: its turns open with special tokens."""
    form = form_of(text)
    return form is not None and form.templated


def first_human_turn(text: str) -> str | None:
    """Return what the human says first, wherever it stands in a dialogue; None where nothing says so."""
    form = form_of(text)
    if form is None:
        return None
    start: int | None = 0 if form.bare_opening else None
    for turn in turns(text, form):
        if start is not None and (start or text[: turn.start].strip()):
            return _said(text[start : turn.start])
        if turn.speaker == HUMAN:
            start = turn.end
    return None if start is None else _said(text[start:])


def _said(turn: str) -> str | None:
    """Return a human turn without what a template puts around it."""
    block = SYSTEM_BLOCK.match(turn)
    said = _END_TOKEN.sub(" ", turn[block.end() :] if block else turn).strip()
    return said or None


def shared_beginning(texts: Sequence[str]) -> int:
    """Return how many characters texts share at their beginning."""
    low, high = 0, min(map(len, texts))
    while low < high:
        middle = (low + high + 1) // 2
        if len({text[low:middle] for text in texts}) == 1:
            low = middle
        else:
            high = middle - 1
    return low


def shared_prompt(texts: Sequence[str]) -> int | None:
    """Return where the prompt ends that whole dialogues share: after the last marker of an answer; None without one."""
    beginning = texts[0][: shared_beginning(texts)]
    form = form_of(beginning)
    if form is None:
        return None
    ends = [turn.end for turn in turns(beginning, form) if turn.speaker == ANSWER]
    return ends[-1] if ends else None


def speaks_for_human(answer: str, form: Form) -> bool:
    """Whether an answer goes on into another turn of its dialogue, the human's or a second one of its own."""
    if form.turn.search(answer) is None:  # nearly always
        return False
    blank = len(answer) - len(answer.lstrip())
    return any(turn.speaker == HUMAN or (turn.speaker == ANSWER and turn.start > blank) for turn in turns(answer, form))


def opening_marker(answer: str, form: Form) -> int:
    """Return where the marker ends with which an answer opens its own turn, 0 if it has none."""
    if form.turn.search(answer) is None:  # nearly always
        return 0
    first = next(turns(answer, form), None)
    opens = first is not None and first.speaker == ANSWER and not answer[: first.start].strip()
    return first.end if first is not None and opens else 0


def open_answer(prompt: str, form: Form) -> str | None:
    """Return what stands in a prompt's last turn, if that is the assistant's, there to be written."""
    last = Turn("", 0, 0)
    for last in turns(prompt, form):  # noqa: B007 (the last one is wanted)
        pass
    return prompt[last.end :] if last.speaker == ANSWER else None


def opens_at_once(text: str) -> bool:
    """Whether a text is a whole dialogue: it begins with a turn, but not with the assistant's."""
    form = form_of(text)
    first = None if form is None else next(turns(text, form), None)
    return first is not None and first.speaker != ANSWER and not _END_TOKEN.sub("", text[: first.start]).strip()


def human_said(text: str) -> list[str]:
    """Return the human's turns."""
    form = form_of(text)
    marks = [] if form is None else [*turns(text, form), Turn("", len(text), len(text))]
    spans = ((turn.end, after.start) for turn, after in pairwise(marks) if turn.speaker == HUMAN)
    return [_said(text[start:end]) or "" for start, end in spans]


def human_turns(text: str) -> list[int]:
    """Return where a dialogue may be cut: where each of the human's turns begins, but the first thing in it.

    What a template wrote begins with more than a turn, and is not cut.
    """
    form = form_of(text)
    if form is None or form.templated:
        return []
    starts = [turn.start for turn in turns(text, form) if turn.speaker == HUMAN]
    return starts[1:] if starts and not text[: starts[0]].strip() else starts
