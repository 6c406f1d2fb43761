"""A chat template is somebody's program: it has a time limit, wherever it is run."""

from __future__ import annotations

import signal
import threading

import pytest

from preflab.data.rendering import rendered
from preflab.errors import UserError
from preflab.tokens import templates
from preflab.tokens.endings import rendered_probe

ENDLESS = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
ASKED, ANSWERED = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]


@pytest.fixture
def endless(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(templates, "LONGEST", 0.05)
    monkeypatch.setattr(tiny_tokenizer, "chat_template", ENDLESS)
    return tiny_tokenizer


def test_a_template_that_does_not_end_is_stopped_for_all_rows(endless):
    alarm, waiting = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0]
    for write in (lambda: rendered_probe(endless), lambda: rendered(ASKED, ANSWERED, endless)):
        with pytest.raises(UserError, match="chat template takes more than"):
            write()
    assert signal.getsignal(signal.SIGALRM) is alarm
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (waiting > 0)


def test_other_threads_write_too(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(tiny_tokenizer, "chat_template", "{{ messages[0]['content'] }}")
    found = []
    thread = threading.Thread(target=lambda: found.append(templates.written(tiny_tokenizer, ASKED)))
    thread.start()
    thread.join()
    assert found == ["a"]
