"""The table of formats in which dialogues are written as text; `preflab.data.dialogues` reads them by it."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

HUMAN, ANSWER, OTHER = "human", "answer", "other"


class Form(NamedTuple):
    """One way to write a dialogue as text.

    Attributes:
        name: what to call it.
        hints: literal texts, one of which every dialogue of this form holds: a quick first look.
        turn: how turns begin.
        speakers: the same by who speaks.
        both: whether it is a dialogue of this form only where both speak.
        stands: where such a marker opens a turn: anywhere, at the beginning of a line, or after a blank.
        bare_opening: whether the first human turn bears no marker.
    """

    name: str
    hints: tuple[str, ...]
    turn: re.Pattern[str]
    speakers: tuple[tuple[str, re.Pattern[str]], ...]
    both: bool = False
    stands: Literal["anywhere", "line", "blank"] = "anywhere"
    bare_opening: bool = False

    @property
    def templated(self) -> bool:
        """Whether its markers are special tokens, as a chat template writes them."""
        return self.stands == "anywhere"

    def speaker(self, marker: str) -> str:
        """Return whose turn a marker opens."""
        for name, pattern in self.speakers:
            if pattern.match(marker):
                return name
        raise ValueError(f"{marker!r} is no marker of {self.name}")


def _template(human: str, answer: str, other: str, hints: tuple[str, ...], bare_opening: bool = False) -> Form:
    return Form(hints[0], hints, *_patterns(human, answer, other), bare_opening=bare_opening)


def _names(
    human: str, answer: str, end: str = "", *, both: bool = False, stands: Literal["line", "blank"] = "line"
) -> Form:
    """Return a form whose turns begin with a speaker's name."""
    patterns = _patterns(f"{human}:{end}", f"{answer}:{end}", "SYSTEM:" if human.isupper() else "System:")
    return Form(f"{human}: / {answer}:", (f"{human}:",), *patterns, both=both, stands=stands)


def _patterns(human: str, answer: str, other: str) -> tuple[re.Pattern[str], tuple[tuple[str, re.Pattern[str]], ...]]:
    # Markers are plain words without groups, and what is before them is looked at afterwards: so the search skips from
    # one first letter to the next. With either in the pattern, every character would be tried.
    speakers = tuple((name, re.compile(marker)) for name, marker in ((HUMAN, human), (ANSWER, answer), (OTHER, other)))
    return re.compile(f"{human}|{answer}|{other}"), speakers


LINE, LINES = r"(?:[ \t]*\r?\n)?", r"(?:[ \t]*\r?\n){0,2}"
SEPARATED = rf"(?:<\|im_sep\|>|{LINE})"

FORMS = (
    _template(
        rf"<\|im_start\|>(?:user|human){SEPARATED}",
        rf"<\|im_start\|>(?:assistant|gpt){SEPARATED}",
        rf"<\|im_start\|>\w*{SEPARATED}",
        ("<|im_start|>",),
    ),
    _template(
        rf"<\|(?:start_header_id|header_start)\|>user<\|(?:end_header_id|header_end)\|>{LINES}",
        rf"<\|(?:start_header_id|header_start)\|>assistant<\|(?:end_header_id|header_end)\|>{LINES}",
        rf"<\|(?:start_header_id|header_start)\|>\w*<\|(?:end_header_id|header_end)\|>{LINES}",
        ("<|start_header_id|>", "<|header_start|>"),
    ),
    _template(r"\[INST\]", r"\[/INST\]", r"\[SYSTEM_PROMPT\]|\[AVAILABLE_TOOLS\]", ("[INST]", "[/INST]")),
    _template(
        rf"<start_of_turn>user{LINE}",
        rf"<start_of_turn>model{LINE}",
        rf"<start_of_turn>\w*{LINE}",
        ("<start_of_turn>",),
    ),
    _template(
        rf"<\|(?:user|prompter|User|USER)\|>:?{LINE}",
        rf"<\|(?:assistant|Assistant|Bot|ASSISTANT)\|>:?{LINE}",
        rf"<\|(?:system|System|SYSTEM|tool|observation)\|>:?{LINE}",
        ("<|user|>", "<|assistant|>", "<|prompter|>", "<|User|>", "<|USER|>"),
    ),
    _template(r"\[\|user\|\]", r"\[\|assistant\|\]", r"\[\|system\|\]", ("[|user|]",)),
    _template(
        r"<\|START_OF_TURN_TOKEN\|><\|USER_TOKEN\|>",
        r"<\|START_OF_TURN_TOKEN\|><\|CHATBOT_TOKEN\|>(?:<\|START_RESPONSE\|>)?",
        r"<\|START_OF_TURN_TOKEN\|>(?:<\|SYSTEM_TOKEN\|>)?",
        ("<|START_OF_TURN_TOKEN|>",),
    ),
    _template("<｜User｜>", "<｜Assistant｜>", "<｜System｜>", ("<｜User｜>", "<｜Assistant｜>")),
    _template(
        r"<\|start_of_role\|>user<\|end_of_role\|>",
        r"<\|start_of_role\|>assistant<\|end_of_role\|>",
        r"<\|start_of_role\|>\w*<\|end_of_role\|>",
        ("<|start_of_role|>",),
    ),
    _template(
        r"<\|start\|>user<\|message\|>",
        r"<\|start\|>assistant(?:<\|channel\|>\w+)?<\|message\|>",
        r"<\|start\|>\w*<\|message\|>",
        ("<|start|>",),
    ),
    _template(
        rf"<extra_id_1>User{LINE}",
        rf"<extra_id_1>Assistant{LINE}",
        rf"<extra_id_0>System{LINE}",
        ("<extra_id_1>",),
        bare_opening=True,
    ),
    _names("GPT4 Correct User", "GPT4 Correct Assistant", stands="blank"),
    _names("Human", "Assistant"),
    _names("User", "Assistant"),
    _names("Human", "AI", both=True),
    _names("User", "AI", both=True),
    _names("Human", "Bot", both=True),
    _names("User", "Bot", both=True),
    _names("USER", "ASSISTANT", stands="blank"),
    _names("HUMAN", "ASSISTANT", both=True),
    _names("human", "assistant", both=True),
    _names("user", "assistant", both=True),
    _names("### Human", "### Assistant"),
    _names("### User", "### Assistant", LINE),
    _names("### Instruction", "### Response", LINE),
    _names("Question", "Answer", both=True),
    _names("Q", "A", both=True),
)
