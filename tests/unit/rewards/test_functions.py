"""Reward functions called: here, side by side in processes, as coroutines; late ones ended, wrong ones named."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event

import pytest

from preflab.errors import PluginError, UserError

SLOW = """
    import os, pathlib, signal, subprocess, sys, time
    def f(response):
        if response == "hang":
            time.sleep(1000)
        if response == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if response == "leave":
            os._exit(3)
        if response.startswith("child "):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
            pathlib.Path(response[6:]).write_text(str(child.pid))
            child.wait()
        return float(os.getpid()) if response == "who" else len(response)
    """


# ---- numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["def broken(:\n", "1 / 0\n", "import no_such_module_here\n"])
def test_module_that_does_not_import_is_a_user_error(content, opened):
    with pytest.raises(UserError, match="cannot be imported"):
        opened(content)


def test_failure_during_use_names_the_texts_shortened(opened):
    gold = opened("import math\ndef f(prompt, response): return [1.0, math.nan]['word7' in response]")
    assert gold(["p", "p"], ["word1", "word2"]) == [1.0, 1.0]
    with pytest.raises(UserError, match=r"'once' and response 'word7 x+…x+'") as caught:
        gold(["once"], ["word7 " + 500 * "x"])
    assert 60 * "x" not in str(caught.value)  # its length hangs on that of the file's path, too


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "def f(responses): return [None] * len(responses)",
            r"returned None \(NoneType\), not a number, for prompt 'p'",
        ),
        ("def f(responses): return [1.0]", "returned 1 numbers for 2 responses"),
        ("def f(responses): return 1.0", "raised TypeError"),
        (
            "def f(responses): return [1 / 0]",
            r"raised ZeroDivisionError: .*mine.py, line 1\), for 2 responses, of which",
        ),
        ("async def f(response): return [][1]", r"raised IndexError: .*mine.py, line 1\)"),
    ],
)
def test_what_is_no_list_of_numbers_is_refused(source, message, opened):
    with pytest.raises(UserError, match=message):
        opened(source)(["p", "q"], ["a", "b"])


def test_equal_responses_are_scored_once(opened):
    reward = opened("seen = []\ndef f(response): seen.append(response); return len(seen)")
    assert reward(["p", "p", "q", "p"], ["a", " a ", "a", "b"]) == [1.0, 1.0, 2.0, 3.0]


def test_the_whole_file_decides_the_key(place, opened):
    first = opened("HELPED = 1\ndef f(response): return HELPED").key
    assert opened("HELPED = 1\ndef f(response): return HELPED").key == first
    assert opened("HELPED = 2\ndef f(response): return HELPED").key != first
    with_limit = opened("HELPED = 1\ndef f(response): return HELPED", reward_timeout=9.0, reward_workers=2).key
    assert with_limit == first, "what changes no score is no part of it"
    late = opened("HELPED = 1\ndef f(response): return HELPED", reward_timeout=9.0, reward_on_timeout="0").key
    assert late != first


def test_repeats_tells_chance_from_sense(opened):
    assert opened("def f(response): return 1.0").repeats()
    assert not opened("import itertools\nn = itertools.count()\ndef f(response): return next(n)").repeats()


# ---- coroutines --------------------------------------------------------------------------------------


def test_coroutines_run_side_by_side_within_a_limit(opened):
    source = """
        import asyncio
        under_way, most = 0, 0
        async def f(response):
            global under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            under_way -= 1
            return most
        """
    texts = [str(number) for number in range(8)]
    assert max(opened(source)(["p"] * 8, texts)) == 8.0
    assert max(opened(source, reward_workers=3)(["p"] * 8, texts)) == 3.0


def test_a_late_coroutine_is_cancelled(opened, caplog):
    source = "import asyncio\nasync def f(response): await asyncio.sleep(100 * (response == 'hang')); return 1.0"
    reward = opened(source, reward_timeout=0.2, reward_on_timeout="-1")
    assert reward(["p", "p"], ["a", "hang"]) == [1.0, -1.0]
    assert "took longer than 0.2 s for prompt 'p' and response 'hang'; scored -1" in caplog.text


# ---- processes ---------------------------------------------------------------------------------------


def test_workers_give_the_same_in_order(opened):
    reward = opened(SLOW, reward_workers=2)
    texts = ["a" * number for number in range(12)]
    assert reward(["p"] * 12, texts) == [float(number) for number in range(12)]
    assert reward(["p"], ["who"]) != [float(os.getpid())]


def test_batches_are_shared_out_among_workers(opened):
    reward = opened("def f(responses): return [len(responses)] * len(responses)", reward_workers=2)
    assert reward(["p"] * 5, list("abcde")) == [3.0, 3.0, 3.0, 2.0, 2.0]


def test_a_hanging_call_is_killed_and_scored_or_an_error(opened, caplog):
    reward = opened(SLOW, reward_timeout=2.0, reward_on_timeout="0")
    assert reward(["p", "p"], ["hang", "word"]) == [0.0, 4.0]
    assert reward(["p"], ["again"]) == [5.0], "another process has taken its place"
    assert "took longer than 2 s" in caplog.text
    with pytest.raises(
        UserError, match=r"took longer than 0.5 s for prompt 'p' and response 'hang'; raise --reward-timeout"
    ):
        opened(SLOW, reward_timeout=0.5)(["p"], ["hang"])


def test_what_a_hanging_call_started_ends_with_it(opened, tmp_path):
    reward = opened(SLOW, reward_timeout=2.0, reward_on_timeout="0")
    assert reward(["p"], [f"child {tmp_path / 'pid'}"]) == [0.0]
    child = int((tmp_path / "pid").read_text())
    status = Path(f"/proc/{child}/stat")

    def ended():
        # Gone, or a zombie that whoever adopted it has not buried yet.
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"

    # The kill was sent; the system carries it out when it comes to it.
    assert any(ended() or Event().wait(0.02) for _ in range(500))


@pytest.mark.parametrize(("how", "message"), [("die", "signal 9"), ("leave", "exit status 3")])
def test_a_dead_process_names_the_response(how, message, opened):
    reward = opened(SLOW, reward_workers=1)
    with pytest.raises(UserError, match=rf"ended its process \({message}\), for prompt 'p' and response '{how}'"):
        reward(["p", "p"], [how, "word"])
    assert reward(["p"], ["word"]) == [4.0]


def test_an_error_ends_calls_that_are_under_way(opened):
    reward = opened(SLOW, reward_workers=2)
    with pytest.raises(UserError, match="signal 9"):
        reward(["p"] * 3, ["hang", "die", "word"])
    assert reward(["p"] * 2, ["word", "a"]) == [4.0, 1.0]


def test_a_failure_in_a_process_is_blamed_by_file_and_line(opened):
    with pytest.raises(PluginError, match=r"raised ZeroDivisionError: .*mine.py, line 1\), for prompt 'p'"):
        opened("def f(response): return 1 / 0", reward_workers=1)(["p"], ["a"])
