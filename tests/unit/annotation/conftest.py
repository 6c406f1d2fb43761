"""Pairs, their file of verdicts, and the page without a server."""

from __future__ import annotations

import pytest

from preflab.eval.annotation.log import VerdictLog
from preflab.eval.annotation.pairs import Pair


@pytest.fixture
def pairs():
    return [Pair(f"prompt {i}:", f"lorem {i}", f"ipsum {i}", ("zebra-method", "quagga-method")) for i in range(8)]


@pytest.fixture
def log(tmp_path):
    opened = VerdictLog(tmp_path / "verdicts.jsonl")
    yield opened
    opened.close()


@pytest.fixture
def site(pairs, log):
    """Make a client of the page, behind its guard."""
    reason = "Starlette and Uvicorn are not installed: pip install 'preflab[web]'"
    testclient = pytest.importorskip("starlette.testclient", reason=reason)
    from preflab.eval.annotation.web.guard import Guard
    from preflab.eval.annotation.web.site import Site

    def make(shown=pairs, *, annotator=None, seed=0, host="127.0.0.1", token=None):
        app = Guard(Site(shown, log, annotator=annotator, seed=seed).app, host, token)
        return testclient.TestClient(app, base_url=f"http://{host}:8765/{token + '/' if token else ''}")

    return make
