"""Chat templates: programs that come with a tokenizer, run in one place and within a time limit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from preflab.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_COUNTING: list[float] = []  # the limit that runs now, if one does
LONGEST = 10.0  # seconds for one dialogue, which takes well under a millisecond by a template that is in order


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
