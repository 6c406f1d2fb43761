"""Lists of messages, whatever they were written as: ``{role, content}``, ShareGPT's names, or text of either."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from preflab.data.cells import missing, plain, structure
from preflab.data.reading import RowError

Message = dict[str, Any]

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "usr"), USER),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai"), ASSISTANT),
    **{name: name for name in (SYSTEM, "developer", "tool", "function")},
    **dict.fromkeys(("observation", "ipython", "tool_response", "function_response"), "tool"),
}
"""Names of roles to the chat templates' own."""

CALLS = ("tool_calls", "function_call")  # what a message may have in place of content

_ROLE, _CONTENT, _WRAPPER = ("role", "from"), ("content", "value", "text"), ("messages", "conversations")
_LIKE_MESSAGES = re.compile(
    r"\s*(?:array\(\s*)?(?:\[\s*)?\{\s*['\"](?:" + "|".join(_ROLE + _CONTENT + _WRAPPER) + r")['\"]\s*:"
)
_HAS_ROLE = re.compile(r"['\"](?:role|from)\\*['\"]\s*:")


def text_or_messages(value: Any) -> str | list[Message]:
    """Return a field as text, or as messages with ``role``, ``content`` and whatever else a template may read.

    Raises:
        RowError: if it is neither, or holds what is no text (an image, a role that nobody knows).
    """
    value = plain(value)
    if isinstance(value, str):
        return _read(value)
    if isinstance(value, Mapping):
        value = _unwrapped(value)
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise RowError("not text")
    return [_message(item) for item in value]


def _read(text: str) -> str | list[Message]:
    """Return messages that a CSV or JSON column made text of, maybe twice; any other text as it is."""
    if text.startswith('"') and _HAS_ROLE.search(text):
        try:
            inner = json.loads(text)
        except ValueError:
            return text
        found = _read(inner) if isinstance(inner, str) else text
        return text if isinstance(found, str) else found
    if not _LIKE_MESSAGES.match(text):
        return text
    try:
        value = structure(text)
    except ValueError:
        if _HAS_ROLE.search(text):
            raise RowError("messages written as text, which cannot be read") from None
        return text
    value = _unwrapped(value) if isinstance(value, Mapping) else value
    if not isinstance(value, list) or not all(isinstance(item, Mapping) and _first(item, _ROLE) for item in value):
        return text  # an answer that is JSON
    return [_message(item) for item in value]


def _unwrapped(value: Mapping[str, Any]) -> Any:
    """Return the messages in a mapping, which may be one itself."""
    wrapped = _first(value, _WRAPPER)
    return [value] if wrapped is None else wrapped


def _first(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((item[name] for name in names if not missing(item.get(name))), None)


def _message(item: Mapping[str, Any]) -> Message:
    """Return one message under the names that chat templates use."""
    role = _first(item, _ROLE)
    if not isinstance(role, str):
        raise RowError("a message without role")
    if role.strip().lower() not in ROLES:
        raise RowError(f"unknown role of a message (known: {', '.join(dict.fromkeys(ROLES.values()))})", role)
    known = ROLES[role.strip().lower()]
    rest = {k: v for k, v in item.items() if k not in _ROLE + _CONTENT and not missing(v) and v not in ([], {})}
    # ``text`` beside ``content`` is something else; only where there is none does it stand for it.
    found = next((item[name] for name in _CONTENT if item.get(name) is not None), None)
    if found is None:
        if not set(rest) & set(CALLS):
            raise RowError(f"content of a message is null (role {known})")
        return {"role": known, "content": "", **rest}
    return {"role": known, "content": _content(found), **rest}


def _content(value: Any) -> str:
    """Return the text of a message's content, which may be a list of parts."""
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        if not isinstance(value, str):
            raise RowError("not text")
        return value
    return "".join(map(_part, value))


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise RowError("not text")
    kind = part.get("type", "text")
    if kind != "text" or not isinstance(part.get("text"), str):
        raise RowError("a message's content holds what is not text", kind)
    return str(part["text"])


def same(one: Message, other: Message) -> bool:
    """Whether two messages say the same; what else they carry (ids, times) does not count."""
    return all(one.get(name) == other.get(name) for name in ("role", "content", *CALLS))


def starts_with(messages: Sequence[Message], beginning: Sequence[Message]) -> bool:
    """Whether a dialogue begins with other messages."""
    return len(messages) >= len(beginning) and all(map(same, messages, beginning))


def shared(dialogues: Sequence[Sequence[Message]]) -> int:
    """Return how many messages dialogues share at their beginning."""
    count = 0
    for turns in zip(*dialogues, strict=False):
        if not all(same(turns[0], turn) for turn in turns):
            break
        count += 1
    return count
