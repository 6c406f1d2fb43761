"""Chat templates: programs that come with a tokenizer, run in one place and within a time limit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflab.disk.files import read_object
from preflab.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM_PROBE, USER_PROBE = "preflab system probe", "preflab user probe"
_COUNTING: list[float] = []  # the limit that runs now, if one does
LONGEST = 10.0  # seconds for one dialogue, which takes well under a millisecond by a template that is in order


def has_template(folder: Path) -> bool:
    """Whether a tokenizer with a chat template lies in a folder; its files say so, and nothing is loaded."""
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(read_object(config).get("chat_template"))


def written(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """Return messages as a tokenizer's chat template writes them.

    Args:
        tokenizer: has a chat template.
        messages: a dialogue.
        options: further arguments of the library's `apply_chat_template`.

    Raises:
        UserError: if it takes longer than `LONGEST`: it would with the next dialogue too.
        Exception: whatever else the template raises.
    """
    with limited():
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))


@contextmanager
def limited() -> Iterator[None]:
    """Raise a `UserError` where a dialogue takes longer; outside the main thread, which alone gets signals, wait.

    Around several calls of `written` it is one limit for all: setting an alarm takes half as long as a template does.
    """
    if threading.current_thread() is not threading.main_thread() or _COUNTING:
        yield
        return

    def stop(*_: Any) -> None:
        raise UserError(f"the chat template takes more than {LONGEST:g} s for one dialogue; it may never end: mend it")

    before = signal.signal(signal.SIGALRM, stop)
    waiting = signal.setitimer(signal.ITIMER_REAL, LONGEST)
    _COUNTING.append(LONGEST)
    try:
        yield
    finally:
        _COUNTING.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *waiting)  # somebody else's alarm, which goes off a little late


def check_system(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a chat template that has no place for a system prompt.

    Raises:
        UserError: saying what else to do.
    """
    if SYSTEM_PROBE not in (_probed(tokenizer, SYSTEM_PROBE) or ""):
        raise UserError(
            f"the chat template of {tokenizer.name_or_path!r} has no place for a system prompt; leave --system out, or "
            "give a template that has one (--chat-template FILE)"
        )


def own_system(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the system prompt that a chat template puts before dialogues without one; None where it puts none."""
    given, bare = _probed(tokenizer, SYSTEM_PROBE), _probed(tokenizer, None)
    if given is None or bare is None or SYSTEM_PROBE not in given:
        return None
    before, _, after = given.partition(SYSTEM_PROBE)
    framed = bare.startswith(before) and bare.endswith(after) and len(bare) > len(before) + len(after)
    return bare[len(before) : len(bare) - len(after)].strip() or None if framed else None


def _probed(tokenizer: PreTrainedTokenizerBase, system: str | None) -> str | None:
    """Return a dialogue with or without a system prompt as the template writes it; None where it refuses."""
    if not tokenizer.chat_template:
        return None
    turns = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": USER_PROBE}]
    try:
        return written(tokenizer, turns)
    except UserError:
        raise
    except Exception:  # most often: "System role not supported"
        return None
