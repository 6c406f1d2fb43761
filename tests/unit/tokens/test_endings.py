"""How a recipe ends: one line and a status, whatever happens; what reaches the terminal is harmless."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import subprocess
import sys
import threading

import pytest

from preflab.errors import PluginError, UserError, crash
from preflab.errors.answering import Terminated, run_recipe
from preflab.errors.terminal import SafeFormatter, one_line, printable, shortened, shown

STEERING = [
    "\x1b]0;title\x07",
    "\x1b[2J",
    "\x9b31m",
    "\r",
    "\x00",
    "\u202e",
    "\u2066",
    "\u200e",
    "\U000e0041",
    "\ud800",
]


@pytest.fixture
def places(monkeypatch):
    """No run folder is known, and none is left for others."""
    monkeypatch.setattr(crash, "_places", [])
    monkeypatch.setattr(crash, "_secrets", set())
    return crash._places


def ending(capsys, main):
    try:
        run_recipe(main)
    except SystemExit as left:
        return left.code, capsys.readouterr().err
    return 0, capsys.readouterr().err


def raising(error):
    def main():
        raise error

    return main


# ---- the ways to end ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("this\nis  wrong"), 2, "error: this is wrong\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on\n"),
        (Terminated(), 143, "interrupted; run the same command again to go on\n"),
        (MemoryError("64 GiB"), 2, "error: out of memory (MemoryError: 64 GiB); lower per_device_train_batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "error: out of memory"),
        (OSError(errno.ENAMETOOLONG, "too long", "x" * 999), 2, "error: 'xxx"),
        (PermissionError(errno.EACCES, "no entry", "a/b"), 2, "error: 'a/b': no entry; give another path"),
        (RuntimeError("Could not determine home directory."), 2, "error: Could not determine home directory. A path"),
        (OSError(errno.ENOSPC, "full", "a/b"), 2, "error: no space is left on the disk for a/b; free some"),
    ],
    ids=["mistake", "Ctrl-C", "SIGTERM", "memory", "torch's memory", "name", "permission", "home", "disk"],
)
def test_what_is_foreseen_is_one_line_without_a_log(error, status, said, capsys, places, tmp_path):
    crash.log_in(tmp_path)
    code, shown = ending(capsys, raising(error))
    assert (code, shown.count("\n")) == (status, 1)
    assert shown.startswith(said)
    assert not list(tmp_path.iterdir())


def endless():
    return endless()


@pytest.mark.parametrize(
    "main",
    [
        raising(KeyError("x")),
        raising(SystemExit(0)),
        raising(GeneratorExit()),
        raising(type("Mine", (KeyboardInterrupt,), {})()),
        raising(type("Silent", (Exception,), {"__str__": lambda self: 1 / 0})()),
        raising(OSError(errno.EIO, "broken", "a/b")),
        endless,
    ],
    ids=["key", "exit", "generator", "an interrupt of their own", "no message", "input and output", "recursion"],
)
def test_what_nobody_foresaw_names_its_log(main, capsys, places, tmp_path):
    crash.log_in(tmp_path)
    code, shown = ending(capsys, main)
    assert (code, shown.count("\n")) == (1, 1)
    assert "Traceback" not in shown
    assert str(tmp_path / "crash.log") in shown
    log = (tmp_path / "crash.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert all(name in log for name in ("command: ", "python: ", "torch: "))


def test_help_is_no_crash_whoever_parses(capsys, places, tmp_path, monkeypatch):
    crash.log_in(tmp_path)
    for options, code in (("--help", 0), ("--wrong", 2)):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", options])
        assert ending(capsys, lambda: argparse.ArgumentParser().parse_args() and None)[0] == code
    assert not list(tmp_path.iterdir())


def test_a_plugins_failure_is_a_mistake_with_a_log(capsys, places, tmp_path):
    crash.log_in(tmp_path)
    code, shown = ending(capsys, raising(PluginError("mine.py, line 3: no")))
    assert (code, shown) == (2, f"error: mine.py, line 3: no (traceback: {tmp_path / 'crash.log'})\n")


def test_without_a_run_folder_the_log_goes_elsewhere(capsys, places, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    crash.log_in(tmp_path / "never made")
    _, shown = ending(capsys, raising(KeyError("x")))
    (log,) = tmp_path.iterdir()
    assert str(log) in shown
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    code, shown = ending(capsys, raising(KeyError("x")))
    assert (code, shown.count("\n")) == (1, 1)
    assert "test_endings.py, line" in shown
    assert "no crash.log could be written" in shown


def test_the_traceback_is_shown_to_who_asks_for_it(capsys, places, tmp_path, monkeypatch):
    crash.log_in(tmp_path)
    monkeypatch.setenv("PREFLAB_DEBUG", "1")
    code, shown = ending(capsys, raising(KeyError("\x1b[2J")))
    assert code == 1
    assert "Traceback" in shown
    assert "\x1b" not in shown


def test_no_secret_is_written_down(capsys, places, tmp_path, monkeypatch):
    crash.log_in(tmp_path)
    monkeypatch.setenv("SOME_API_KEY", "abracadabra")
    crash.keep_secret("open-sesame")
    secrets = ["abracadabra", "open-sesame", "sk-0123456789abcdef", "hf_0123456789abcdef"]
    monkeypatch.setattr(sys, "argv", ["compare.py", *secrets, "http://user:pass@host", "--hub-token", "plain"])
    sys.argv += ["--max-prompt-tokens", "2048"]
    _, shown = ending(capsys, raising(RuntimeError(" ".join(secrets))))
    text = shown + (tmp_path / "crash.log").read_text()
    assert "compare.py" in text
    assert "--max-prompt-tokens 2048" in text, "what only sounds like one stays"
    assert not [secret for secret in [*secrets, "plain", "user:pass"] if secret in text]


def test_an_exception_in_a_thread_is_one_line_too(capsys, places, tmp_path):
    crash.log_in(tmp_path)

    def main():
        thread = threading.Thread(target=raising(ValueError("apart")))
        thread.start()
        thread.join()

    code, shown = ending(capsys, main)
    assert code == 0
    assert (shown.count("\n"), "apart" in shown) == (1, True)


def test_sigterm_ends_the_main_thread_as_an_interrupt_does(capsys, places):
    assert ending(capsys, lambda: os.kill(os.getpid(), signal.SIGTERM))[0] == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "as it was"


# ---- pipes -------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from preflab.settings.command_line import CommandLine
from preflab.errors.answering import run_recipe
from preflab.errors.terminal import say

def main():
    CommandLine("help " * 50_000, {}).read(sys.argv[1:])
    for n in range(20_000):
        say(f"line {n}")
        if n % 5000 == 0:
            print("π", n, file=sys.stderr)
    open(sys.argv[-1] if len(sys.argv) > 1 else "done", "w").close()

run_recipe(main)
"""


def pipe(tmp_path, command, **environment):
    (tmp_path / "script.py").write_text(SCRIPT)
    shell = f"set -o pipefail; {sys.executable} script.py {command}"
    return subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("command", ["| head -n 1", "2>&1 | head -n 1", "--help | head -c 5", ">&- 2>&-"])
def test_a_reader_that_goes_away_is_no_error_and_stops_no_work(command, tmp_path):
    answer = pipe(tmp_path, command)
    assert (answer.returncode, "Error" in answer.stderr, "Exception" in answer.stderr) == (0, False, False)
    assert (tmp_path / "done").exists() == ("--help" not in command)


def test_a_terminal_that_knows_few_letters_gets_escapes(tmp_path):
    answer = pipe(tmp_path, "", PYTHONIOENCODING="ascii")
    assert answer.returncode == 0
    assert "\\u03c0 0" in answer.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")  # noqa: PTH110
def test_a_full_disk_under_the_output_is_one_line(tmp_path):
    answer = pipe(tmp_path, "> /dev/full")
    assert answer.returncode == 2
    assert answer.stderr.splitlines()[-1].startswith("error: no space is left on the disk")
    assert "Exception" not in answer.stderr


# ---- foreign text ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steering", STEERING, ids=ascii)
def test_nothing_steers_the_terminal(steering, capsys, places):
    text = f"before{steering}after"
    record = logging.LogRecord("lib", logging.WARNING, "f", 1, "said %s", (text,), None)
    shown = [
        printable(text),
        one_line(text),
        SafeFormatter().format(record),
        ending(capsys, raising(UserError(text)))[1],
    ]
    assert all(c.isprintable() or c == "\n" for line in shown for c in line)
    assert all("before" in line and "after" in line for line in shown)


def test_long_text_is_cut_in_its_middle():
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert shortened("abc", 3) == "abc"
    line = one_line("begin " + "\x00 " * 10**6 + " end", 300)
    assert len(line) <= 300
    assert line.startswith("begin")
    assert line.endswith("end")
    assert len(shown(["x" * 10**6])) == 80
    assert shown(10**5000) == "<int>"
