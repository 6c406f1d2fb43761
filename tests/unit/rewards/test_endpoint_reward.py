"""An endpoint as reward, against a real HTTP server on this machine."""

from __future__ import annotations

import re

import pytest
from judge_server import Server, completion, error

from preflab.data.asked import Asked
from preflab.endpoint.rubric import Rubric
from preflab.errors import UserError
from preflab.rewards import Question, RewardOptions, open_reward
from preflab.rewards.endpoint import SCORE, EndpointReward
from preflab.settings.fields import build


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = Server()
    made.answer = by_length
    yield made
    made.close()


@pytest.fixture
def options(server, tmp_path):
    def make(reward="endpoint", **changes):
        given = {"url": server.url, "model": "m", "cache": str(tmp_path / "cache"), **changes}
        values = {f"reward_endpoint_{name}": value for name, value in given.items()}
        return build(RewardOptions, {"reward": reward, **values}, "config")

    return make


def response_in(body):
    return re.search(r"^\w+ RESPONSE BEGINS\n(.*?)\n\w+ RESPONSE ENDS$", body["messages"][1]["content"], re.S | re.M)[1]


def by_length(body):
    return completion(f"Weighed.\nSCORE: {min(10, len(response_in(body)))}")


def test_scores_are_read_off_the_last_line_and_paid_once(options, server):
    reward = open_reward(options())
    assert reward(["p", "q", "p"], ["four", "sixsix", "four"]) == [4.0, 6.0, 4.0]
    assert len(server.requests) == 2
    assert open_reward(options())(["p"], [" four "]) == [4.0]
    assert len(server.requests) == 2


def test_messages_are_shown_as_roles_and_contents(options, server):
    reward = EndpointReward(options().endpoint())
    asked = Asked([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    assert reward([Question("<|im_start|>…", "So.", asked)]) == [3.0]
    question = server.requests[0][2]["messages"][1]["content"]
    assert "System: Be brief.\n\nUser: Why?" in question
    assert "im_start" not in question


def test_no_valid_score_counts_as_the_lowest_and_is_said(options, server, caplog):
    server.answer = lambda body: completion("SCORE: 11") if response_in(body) == "odd" else error(400, "no")
    reward = open_reward(options(max_retries=0))
    server.script = [completion("SCORE: 9")]
    assert reward(["p"], ["fine"]) == [9.0]
    assert reward(["p", "p"], ["odd", "refused"]) == [1.0, 1.0]
    assert "no valid score to 2 of 2 responses, which count as 1 (2 so far)" in caplog.text


def test_a_spent_budget_ends_the_run_and_keeps_what_is_paid(options, server):
    reward = open_reward(options(budget=2.0, concurrency=1))
    with pytest.raises(UserError, match=r"budget of the reward endpoint, 2 .*--reward-endpoint-budget, to go on"):
        reward(["p"] * 3, ["a", "bb", "ccc"])
    assert open_reward(options(budget=2.0))(["p"] * 3, ["a", "bb", "ccc"]) == [1.0, 2.0, 3.0]
    assert len(server.requests) == 3


def test_a_failing_endpoint_names_itself(options, server):
    server.answer = error(401, "who are you")
    with pytest.raises(UserError, match=r"reward endpoint http.* refuses: status 401: who are you"):
        open_reward(options())(["p"], ["a"])
    with pytest.raises(UserError, match="'endpoint' needs --reward-endpoint-url and --reward-endpoint-model"):
        open_reward(RewardOptions(reward="endpoint"))


def test_what_decides_scores_is_in_the_key(options):
    first = open_reward(options()).key
    assert open_reward(options(concurrency=9, max_retries=1)).key == first
    assert len({first, open_reward(options(model="n")).key, open_reward(options(temperature=1.0)).key}) == 3


def test_the_rubric_is_versioned_with_its_words():
    assert isinstance(SCORE, Rubric)
    assert SCORE.read("Fine.\nSCORE: 10\n") == 10.0
    assert [SCORE.read(text) for text in ("SCORE: 0", "SCORE: 7.5", "score: 7", "SCORE: 7.", "7")] == [None] * 5
