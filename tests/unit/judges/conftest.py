"""An endpoint on this machine, and a judge that asks it."""

from __future__ import annotations

import pytest
from judge_server import Server

from preflab.eval.judges import EndpointConfig, EndpointJudge
from preflab.settings.fields import build


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = Server()
    yield made
    made.close()


@pytest.fixture
def settings(server, tmp_path):
    def make(**changes):
        values = {"judge_url": server.url, "judge_model": "judge", "judge_cache": str(tmp_path / "cache")}
        return build(EndpointConfig, values | {f"judge_{name}": value for name, value in changes.items()}, "endpoint")

    return make


@pytest.fixture
def judge(settings):
    """Make a judge that notes how long it would have slept."""

    def make(**changes):
        slept = []
        made = EndpointJudge(settings(**changes), sleep=slept.append)
        made.slept = slept
        return made

    return make
