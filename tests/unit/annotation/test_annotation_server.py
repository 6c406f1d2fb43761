"""The command that serves the annotator's page: killed, interrupted, asked by several at once."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx2
import pytest
from annotation_site import RECIPE, Served, Visitor, rows_in, write_samples

pytest.importorskip("starlette", reason="Starlette is not installed: pip install 'preflab[web]'")
pytest.importorskip("uvicorn", reason="Uvicorn is not installed: pip install 'preflab[web]'")


@contextmanager
def served(folder, *options):
    """Serve, with a client of it; killed at the end if nobody ended it."""
    server = Served(folder, *options)
    try:
        with httpx2.Client(base_url=server.url, trust_env=False) as client:
            yield server, client
    finally:
        if server.process.poll() is None:
            server.end()


def refused(folder, *options, code=None):
    """Run the command, which ends by itself, and return what it says."""
    command = [sys.executable, *(["-c", code] if code else [str(RECIPE)]), *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_kill_at_any_moment_loses_nothing_and_doubles_nothing(tmp_path):
    path, confirmed = tmp_path / "verdicts.jsonl", []  # pairs whose verdict the page has answered

    def judge(visitor):
        try:
            while visitor.texts:
                prompt = visitor.texts[0]
                visitor.send("1")
                confirmed.append(prompt)
        except httpx2.TransportError:
            pass  # the server is gone

    for stop in (1, 3, 6):
        with served(tmp_path, "--annotator", "Ada") as (server, client):
            judging = threading.Thread(target=judge, args=(Visitor(client),))
            judging.start()
            while len(confirmed) < stop and judging.is_alive():
                pass
            server.end(signal.SIGKILL)
            judging.join()
        judged = [row["prompt"] for row in rows_in(path)]
        assert len(judged) == len(set(judged))
        assert stop <= len(confirmed)
        assert set(confirmed) <= set(judged)
        assert len(judged) <= len(confirmed) + 1, "the one that was under way"
        confirmed = judged
    with served(tmp_path, "--annotator", "Ada") as (_, client):
        visitor = Visitor(client)
        assert f"{len(judged)} of 8 judged" in visitor.page.text
        judge(visitor)
        assert "All 8 pairs are judged" in visitor.page.text
    assert len({row["prompt"] for row in rows_in(path)}) == len(rows_in(path)) == 8


def test_ctrl_c_ends_it_with_what_stands_and_how_to_go_on(tmp_path):
    with served(tmp_path) as (server, client):
        for name, buttons in (("Ada", "1212"), ("Bob", "12121212")):
            visitor = Visitor(client, name)
            for button in buttons:
                visitor.send(button)
        status, out, err = server.end(signal.SIGINT)
    assert (status, err) == (0, "")
    assert "4 of 8 pairs are judged by Ada" in out
    assert "8 of 8 pairs are judged by Bob" in out
    assert "verdicts are in verdicts.jsonl; run the same command again to go on" in out
    assert "Of 4 pairs that two or more of 2 annotators judged, two of them agree on " in out
    assert "zebra" not in out
    again = subprocess.run(
        [sys.executable, str(RECIPE), "--output", "verdicts.jsonl", "--agreement"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert again.stdout == out[out.index("Of 4 pairs") :]


def test_a_termination_is_one_as_everywhere(tmp_path):
    with served(tmp_path) as (server, client):
        Visitor(client).send("1")
        status, _, err = server.end(signal.SIGTERM)
    assert (status, err) == (143, "interrupted; run the same command again to go on\n")
    assert len(rows_in(tmp_path / "verdicts.jsonl")) == 1


def test_several_at_once_and_one_in_two_windows(tmp_path):
    with served(tmp_path) as (server, _):

        def judge(name, button):
            with httpx2.Client(base_url=server.url, trust_env=False) as client:
                visitor = Visitor(client, name)
                while visitor.texts:
                    visitor.send(button)

        asked = [("Ada", "1"), ("Bob", "2"), ("Cleo", "t"), ("Ada", "2"), ("Bob", "2")]
        threads = [threading.Thread(target=judge, args=each) for each in asked]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.end(signal.SIGINT)
    given = [(row["annotator"], row["prompt"]) for row in rows_in(tmp_path / "verdicts.jsonl")]
    assert len(given) == len(set(given)) == 3 * 8


def test_elsewhere_than_here_it_takes_a_token(tmp_path):
    with served(tmp_path, "--host", "0.0.0.0") as (server, _):
        port = httpx2.URL(server.url).port
        here = server.url.replace(socket.gethostname(), "127.0.0.1")
        assert len(httpx2.URL(here).path) > 32
        with httpx2.Client(base_url=here, trust_env=False) as client:
            Visitor(client).send("1")
        assert httpx2.get(f"http://127.0.0.1:{port}/", trust_env=False).status_code == 403
        _, out, err = server.end(signal.SIGINT)
    assert "It is not encrypted" in out
    assert httpx2.URL(here).path.strip("/") not in out + err, "said once"


def test_a_port_that_is_taken_is_said_in_a_line(tmp_path):
    samples = write_samples(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(tmp_path, "--samples", samples, "--web", "--port", str(port))
    assert f"cannot serve at 127.0.0.1, port {port}: " in said
    assert "give another --port" in said


def test_a_host_that_is_not_here_is_said_in_a_line(tmp_path):
    said = refused(tmp_path, "--samples", write_samples(tmp_path), "--web", "--host", "203.0.113.1", "--port", "0")
    assert "cannot serve at 203.0.113.1" in said


def test_while_it_runs_nobody_else_writes(tmp_path):
    with served(tmp_path):
        assert "is being written by another process" in refused(tmp_path, "--samples", write_samples(tmp_path))


@pytest.mark.parametrize("absent", ["starlette", "uvicorn"])
def test_without_its_libraries_it_says_what_to_install(absent, tmp_path):
    code = (
        f"import runpy, sys; sys.modules[{absent!r}] = None; sys.argv = ['annotate.py', *sys.argv[1:]];"
        f"runpy.run_path({str(RECIPE)!r}, run_name='__main__')"
    )
    said = refused(tmp_path, "--samples", write_samples(tmp_path), "--web", code=code)
    assert f"{absent} is not installed: pip install 'preflab[web]'" in said
    assert not (tmp_path / "verdicts.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", "0.0.0.0"), "host is for the page in the browser; add web"),
        (("--port", "0"), "port is for the page in the browser"),
        (("--open",), "open is for the page in the browser"),
        (("--web", "--port", "70000"), "port is 70000"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(options, said, tmp_path):
    assert said in refused(tmp_path, "--samples", write_samples(tmp_path), *options)
