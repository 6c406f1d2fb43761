"""Messages become text: by the tokenizer's chat template, or as Human/Assistant text where there is none.

transformers and jinja2 are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.data.answers import NOT_ONE_TURN
from preflab.data.dialogues import form_of, speaks_for_human
from preflab.data.messages import ASSISTANT, CALLS, SYSTEM, USER, Message
from preflab.data.reading import RowError
from preflab.errors import UserError
from preflab.tokens.endings import end_strings
from preflab.tokens.literals import guard
from preflab.tokens.templates import limited, written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEFT_OUT = "the chat template leaves out a message of the prompt"
ASKS = "\n\nAssistant:"  # ends a prompt in Human/Assistant text
NAMES = {USER: "Human: ", ASSISTANT: "Assistant: ", SYSTEM: "", "developer": ""}


class Rendered(NamedTuple):
    """A prompt and its answers as text.

    Attributes:
        prompt: asks for an answer.
        answers: each as it goes on from there.
        bare: whether the template writes another prompt once an answer follows, so that answers are as they stand.
    """

    prompt: str
    answers: list[str]
    bare: bool = False


def rendered(
    prompt: Sequence[Message],
    answers: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase | None,
    tools: Any = None,
) -> Rendered:
    """Write messages as text: a prompt that asks for an answer, and each answer as it goes on from there.

    Where the prompt ends with an assistant's turn, that is the beginning of the answers, and they go on inside it.

    Args:
        prompt: the dialogue so far.
        answers: one assistant's message each.
        tokenizer: its chat template is used, if it has one.
        tools: what the row says may be called; for the template.

    Raises:
        RowError: if the template refuses them, or would leave calls of tools, or what somebody says, out.
    """
    prompt, answers = ([_contents(m, tokenizer) for m in messages] for messages in (prompt, answers))
    if tokenizer is None or not tokenizer.chat_template:
        if tools or any(name in message for message in (*prompt, *answers) for name in CALLS):
            raise RowError("tool calls need a chat template that writes them")
        return Rendered(*_plainly(prompt, [str(answer["content"]) for answer in answers]))
    with limited():
        return _Template(tokenizer, guard(tools, tokenizer)).write(prompt, answers)


def _contents(message: Message, tokenizer: PreTrainedTokenizerBase | None) -> Message:
    return {name: value if name == "role" else guard(value, tokenizer) for name, value in message.items()}


def _plainly(prompt: Sequence[Message], answers: Sequence[str]) -> tuple[str, list[str]]:
    turns = [NAMES.get(m["role"], m["role"].capitalize() + ": ") + m["content"].strip() for m in prompt]
    text = "\n\n".join(turns)
    if prompt[-1]["role"] == ASSISTANT:
        return text, list(answers)  # joined as they stand: nothing says whether a blank belongs between them
    text += ASKS
    form = form_of(text)
    answers = [" " + answer.strip() for answer in answers]
    if form is not None and any(speaks_for_human(answer, form) for answer in answers):
        raise RowError(NOT_ONE_TURN)
    return text, answers


class _Template:
    """A tokenizer's chat template, held to what it is given."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tools: Any) -> None:
        self.tokenizer, self.tools = tokenizer, tools

    def write(self, prompt: Sequence[Message], answers: Sequence[Message]) -> Rendered:
        """Return the prompt and its answers as text; see `rendered`."""
        begun = prompt[-1] if prompt[-1]["role"] == ASSISTANT else None
        before = self._apply(prompt, goes_on=begun is not None)
        if not before.strip():
            raise RowError("the chat template writes nothing for the prompt")
        self._check_said(prompt, before)
        texts, bare, ends = [], False, end_strings(self.tokenizer)
        for answer in answers:
            if begun is None:
                whole = self._apply([*prompt, answer])
            else:
                joined = {**answer, "content": begun["content"] + answer["content"]}
                whole = self._apply([*prompt[:-1], joined])
                if not whole.startswith(before):
                    raise RowError("the chat template cannot go on in the assistant turn that the prompt ends with")
            # Some templates rewrite earlier turns once an answer is there; then the bare answer must do.
            text = whole.removeprefix(before) if whole.startswith(before) else answer["content"]
            bare |= not whole.startswith(before)
            texts.append(_ended(text, ends))
        self._check_calls(prompt, answers, before)
        opening = "" if begun else self._opening(texts, answers)
        return Rendered(before + opening, [text.removeprefix(opening) for text in texts], bare)

    def _opening(self, texts: Sequence[str], answers: Sequence[Message]) -> str:
        """Return what opens an answer's turn, which belongs to the prompt, where the template knows of no asking."""
        if "add_generation_prompt" in str(self.tokenizer.chat_template):
            return ""
        said = [
            a["content"] if a["content"] in t else a["content"].strip() for t, a in zip(texts, answers, strict=True)
        ]
        openings = {text.partition(content)[0] for text, content in zip(texts, said, strict=True)}
        opening = openings.pop() if len(openings) == 1 else ""
        return opening if opening.strip() and all(text.startswith(opening) for text in texts) else ""

    def _check_said(self, prompt: Sequence[Message], before: str) -> None:
        """See that no message is left out; what is written otherwise than it was given is."""
        for i, message in enumerate(prompt):
            if message["content"].strip() not in before:
                other = [*prompt[:i], {**message, "content": message["content"] + "x"}, *prompt[i + 1 :]]
                if self._apply(other, goes_on=prompt[-1]["role"] == ASSISTANT) == before:
                    raise RowError(LEFT_OUT)

    def _check_calls(self, prompt: Sequence[Message], answers: Sequence[Message], before: str) -> None:
        """See that calls and tools are written at all: most templates know nothing of them, and leave them out."""
        if self.tools and before == self._applied(prompt, None, goes_on=prompt[-1]["role"] == ASSISTANT):
            raise RowError("tools: the chat template does not write them")
        for messages in (prompt, *([*prompt, answer] for answer in answers)):
            bare = [{k: v for k, v in m.items() if k not in CALLS} for m in messages]
            if bare != list(messages) and self._apply(messages) == self._apply(bare):
                raise RowError("tool calls: the chat template does not write them")

    def _apply(self, messages: Sequence[Message], goes_on: bool = False) -> str:
        return self._applied(messages, self.tools, goes_on)

    def _applied(self, messages: Sequence[Message], tools: Any, goes_on: bool) -> str:
        asks = messages[-1]["role"] != ASSISTANT
        try:
            return written(
                self.tokenizer,
                messages,
                tools=tools or None,
                add_generation_prompt=asks,
                continue_final_message=goes_on,
            )
        except UserError:
            raise
        except Exception as error:  # a template is a program of somebody else's, and raises whatever it likes
            raise RowError(f"refused by the chat template ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _ended(answer: str, ends: Sequence[str]) -> str:
    """Return a rendered answer up to the end token that closes its turn; templates may write more after it."""
    found = ((answer.find(end), len(end)) for end in ends)
    at, length = min(((at, length) for at, length in found if at >= 0), default=(len(answer), 0))
    return answer[: at + length]
