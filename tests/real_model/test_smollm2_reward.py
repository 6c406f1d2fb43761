"""SmolLM2-135M-Instruct and a reward of one's own: a verifier on a column, and an endpoint, for DPO, PPO and RLOO."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from judge_server import Server, completion

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

RIGHT = """
def right(response, answer, messages):
    assert messages[-1]["role"] == "user" and "<|im_" not in response
    return float(answer in response)
"""


@pytest.fixture(autouse=True)
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(RIGHT)


def rewards(run: Path, name: str) -> list[float]:
    (stage,) = (run / "stages").glob(f"{name}-seed0-*")
    return [json.loads(line)["reward"] for line in (stage / "metrics.jsonl").read_text().splitlines()]


def test_a_verifier_trains_and_judges(compare):
    found, folder = compare("--reward", "mine.py:right")
    assert found.judge.name == "reward right"
    assert not list((folder / "stages").glob("reward-*")), "no reward model is trained"
    for name in ("ppo", "rloo"):
        assert all(0.0 <= reward <= 1.0 for reward in rewards(folder, name))


def test_an_endpoint_trains(compare, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    server.answer = lambda body: completion("Weighed.\nSCORE: 7")
    try:
        where = ("--reward-endpoint-url", server.url, "--reward-endpoint-model", "m", "--reward-endpoint-cache", "paid")
        _, folder = compare("--reward", "endpoint", *where, "--gold-fraction", 0)
    finally:
        server.close()
    assert rewards(folder, "ppo") == rewards(folder, "rloo") == [7.0]
    request = server.requests[0][2]["messages"][1]["content"]
    assert "What is" in request
    assert "<|im_" not in request
