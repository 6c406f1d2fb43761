"""An answer is paid for once; the key is sent and left nowhere."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys

import pytest
from judge_server import KEY, Server, by_length, completion, error

from preflab.endpoint.client import ChatClient
from preflab.errors import UserError
from preflab.eval.judges.rubric import PAIR

# ---- cache -------------------------------------------------------------------------------------------


def stored(tmp_path):
    return [path.read_text() for path in (tmp_path / "cache").rglob("*.json")]


def test_an_answer_is_paid_for_once(judge, server):
    pairs = ["p", "q", "p"], ["aa", "b", "aa"], ["c", "dd", "c"]
    first = judge()
    answers = first.prefer(*pairs)
    assert answers == [1.0, 0.0, 1.0]
    assert len(server.requests) == 2
    second = judge()
    assert second.prefer(*pairs) == answers
    assert len(server.requests) == 2
    assert [second.report()[name] for name in ("requests", "from_cache", "answers", "prompt_tokens")] == [0, 2, 2, 200]
    assert {**first.report(), "requests": 0, "from_cache": 2} == second.report(), "resumed, the same figures"


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"temperature": 0.5}, {"max_tokens": 99}], ids=lambda change: next(iter(change))
)
def test_what_changes_the_answer_is_asked_afresh(change, judge, server):
    judge().prefer(["p"], ["a"], ["b"])
    judge(**change).prefer(["p"], ["a"], ["b"])
    assert len(server.requests) == 2


def test_order_texts_and_rubric_are_part_of_the_question(judge, server, monkeypatch):
    asking = judge()
    for texts in (("p", "a", "b"), ("p", "b", "a"), ("p", "a", "c"), ("q", "a", "b"), ("p", "ab", "")):
        asking.prefer(*([text] for text in texts))
    assert len(server.requests) == 5
    monkeypatch.setattr("preflab.eval.judges.endpoint.PAIR", PAIR._replace(system="Choose."))
    judge().prefer(["p"], ["a"], ["b"])
    assert len(server.requests) == 6


WRONG_KINDS = json.dumps(
    {"answer": {"text": 1, "finished": True, "prompt_tokens": 1, "completion_tokens": 1, "model": "m"}}
)


def test_a_spoilt_cache_file_is_asked_again(judge, server, tmp_path):
    judge().prefer(["p"], ["a"], ["b"])
    (path,) = (tmp_path / "cache").rglob("*.json")
    flipped, numbered = path.read_text().replace("VERDICT", "VERDIKT"), json.loads(path.read_text())
    numbered = json.dumps({"answer": {**numbered["answer"], "text": 5}})
    spoilt = (
        path.read_text()[:-5],
        "[]",
        '{"answer": {"text": "VERDICT: TIE"}}',
        "\xff",
        flipped,
        numbered,
        "[" * 10**5,
        WRONG_KINDS,
    )
    for content in spoilt:
        path.write_text(content, encoding="latin-1")
        assert judge().prefer(["p"], ["aa"], ["a"]) == [1.0]
        assert judge().prefer(["p"], ["a"], ["b"]) == [0.5]
    assert len(server.requests) == 1 + 1 + len(spoilt)
    assert [p.suffix for p in (tmp_path / "cache").rglob("*") if p.is_file()] == [".json", ".json"], "no remains"


ASK = """
import sys
from preflab.eval.judges import EndpointConfig, EndpointJudge
url, cache = sys.argv[1:]
config = EndpointConfig(judge_url=url, judge_model="judge", judge_cache=cache, judge_concurrency=1)
EndpointJudge(config).prefer(["p"] * 6, [f"{i}a" for i in range(6)], ["b"] * 6)
"""


def test_a_killed_run_goes_on_where_it_stopped(judge, server, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ASK, server.url, str(tmp_path / "cache")])

    def kill(body):
        os.kill(process.pid, signal.SIGKILL)
        return by_length(body)

    server.script = [by_length, by_length, by_length, kill]
    assert process.wait(60) == -signal.SIGKILL
    assert len(stored(tmp_path)) == 3
    again = judge()
    assert again.prefer(["p"] * 6, [f"{i}a" for i in range(6)], ["b"] * 6) == [1.0] * 6
    assert len(server.requests) == 4 + 3
    assert again.report()["from_cache"] == 3


def test_a_cache_that_cannot_be_written_is_named(judge, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"judge_cache .*file cannot be written"):
        judge(cache=str(tmp_path / "file"))


# ---- the key -----------------------------------------------------------------------------------------


def test_the_key_is_sent_and_left_nowhere(judge, server, tmp_path, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    server.script = [error(500, f"bad key {KEY}"), completion(f"Your key is {KEY}.\nVERDICT: FIRST", model=f"m-{KEY}")]
    asking = judge(key_variable="MY_KEY")
    assert asking.prefer(["p"], ["a"], ["b"]) == [1.0]
    assert [headers["Authorization"] for _, headers, _ in server.requests] == [f"Bearer {KEY}"] * 2
    server.answer = error(401, f"Incorrect API key provided: {KEY}")
    with pytest.raises(UserError, match=r"Incorrect API key provided: \*\*\*; .*MY_KEY is set") as raised:
        asking.prefer(["q"], ["a"], ["b"])
    server.answer = error(500, f"key {KEY}")
    with pytest.raises(UserError) as exhausted:
        judge(key_variable="MY_KEY", max_retries=0).prefer(["q"], ["a"], ["b"])
    server.answer = (200, {}, f"no JSON, but {KEY}".encode())
    with pytest.raises(UserError) as malformed:
        judge(key_variable="MY_KEY", max_retries=0).prefer(["q"], ["a"], ["b"])
    seen = [str(e.value) + repr(e.value) for e in (raised, exhausted, malformed)]
    seen += [str(e.value.__cause__) for e in (raised, exhausted, malformed)]
    client = asking.client
    seen += [*map(repr, (asking, client, client.wire, client.config, client.cache, client.used)), str(asking.report())]
    seen += [caplog.text, *capfd.readouterr(), *stored(tmp_path)]
    assert stored(tmp_path)
    assert not [text for text in seen if KEY in text]


@pytest.mark.parametrize("value", ["two words", "sk-\u00e9", "sk-\x00x"], ids=["space", "accent", "control"])
def test_what_is_no_key_is_refused_without_repeating_it(value, judge, monkeypatch):
    monkeypatch.setattr(os, "environ", {**os.environ, "MY_KEY": value})
    with pytest.raises(UserError, match="MY_KEY holds something that is no API key") as raised:
        judge(key_variable="MY_KEY")
    assert value not in str(raised.value)


def test_no_key_is_sent_where_none_is_wanted(judge, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    judge(key_variable=None).prefer(["p"], ["a"], ["b"])
    assert "Authorization" not in server.requests[0][1]


def test_a_redirect_does_not_carry_the_key_elsewhere(judge, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    other = Server()
    try:
        server.answer = (307, {"Location": other.url + "/chat/completions"}, b"")
        with pytest.raises(UserError, match="status 307"):
            judge().prefer(["p"], ["a"], ["b"])
        assert other.requests == []
    finally:
        other.close()


def test_a_key_over_plain_http_to_another_machine_is_warned_of(settings, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ChatClient(settings().endpoint())
    assert caplog.text == ""
    ChatClient(settings(url="http://judge.example/v1").endpoint())
    assert "unencrypted" in caplog.text
    assert KEY not in caplog.text
