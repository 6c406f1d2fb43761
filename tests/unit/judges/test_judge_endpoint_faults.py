"""An endpoint that fails, lingers or talks nonsense."""

from __future__ import annotations

import gzip
import time
from email.utils import formatdate

import pytest
from judge_server import DRIP, HANG_UP, SILENCE, by_length, completion, error, raw_server, verdict

from preflab.errors import UserError


@pytest.mark.parametrize(
    "fault",
    [
        error(429, **{"Retry-After": "0"}),
        error(500),
        (503, {}, b"<html>no JSON</html>"),
        (200, {}, b'{"choices": [{"mess'),
        (200, {}, b"[]"),
        (200, {}, {"choices": []}),
        (200, {}, {"choices": [{"message": None}]}),
        (200, {"Content-Encoding": "gzip"}, b"no gzip"),
        HANG_UP,
    ],
    ids=["429", "500", "503", "half a JSON", "a list", "no choice", "no message", "no gzip", "hang up"],
)
def test_a_fault_is_tried_again(fault, judge, server):
    server.script = [fault, fault]
    asking = judge()
    assert asking.prefer(["p"], ["long"], ["b"]) == [1.0]
    assert (len(server.requests), asking.report()["requests"], asking.report()["answers"]) == (3, 3, 1)
    assert [0.5 <= asking.slept[0] <= 1.0, 1.0 <= asking.slept[1] <= 2.0, len(asking.slept)] == [True, True, 2]


@pytest.mark.parametrize("fault", [SILENCE, DRIP])
def test_what_takes_too_long_is_tried_again(fault, judge, server):
    server.script = [fault, verdict("FIRST"), fault]
    asking = judge(timeout=0.2)
    assert asking.prefer(["p"], ["a"], ["b"]) == [1.0]
    assert len(server.requests) == 2
    with pytest.raises(UserError, match=r"no whole reply within 0\.2 s"):
        judge(timeout=0.2, max_retries=0).prefer(["q"], ["a"], ["b"])


def test_a_reply_without_end_is_cut(judge, server, monkeypatch):
    monkeypatch.setattr("preflab.endpoint.wire.LONGEST_REPLY", 10_000)
    server.script = [completion("VERDICT: SECOND", padding="x" * 100_000)]
    assert judge().prefer(["p"], ["long"], ["b"]) == [1.0]
    assert len(server.requests) == 2


@pytest.mark.parametrize("style", ["seconds", "date"])
def test_retry_after_is_heeded(style, judge, server):
    wait = "7" if style == "seconds" else formatdate(time.time() + 8, usegmt=True)
    server.script = [error(429, **{"Retry-After": wait})]
    asking = judge()
    assert asking.prefer(["p"], ["long"], ["b"]) == [1.0]
    assert sum(asking.slept) >= 6
    assert max(asking.slept) <= 8


def test_a_pause_beyond_patience_ends_the_run(judge, server):
    server.script = [error(429, "quota is used up", **{"Retry-After": "86400"})]
    with pytest.raises(UserError, match=r"pause of 86400 s .*quota is used up.*again"):
        judge().prefer(["p"], ["a"], ["b"])


def test_waits_double_up_to_a_minute_and_end(judge, server):
    server.answer = error(500, "out of order")
    asking = judge(max_retries=9)
    with pytest.raises(UserError, match=r"no answer in 10 tries.*status 500: out of order.*kept"):
        asking.prefer(["p"], ["a"], ["b"])
    ceilings = [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert len(server.requests) == 10
    assert all(c / 2 <= s <= c for s, c in zip(asking.slept, ceilings, strict=True))


def test_what_came_before_a_breakdown_is_kept(judge, server):
    server.script, server.answer = [by_length, by_length], error(500)
    prompts, first, second = ["p", "q", "r"], ["aa", "bb", "cc"], ["x", "y", "z"]
    with pytest.raises(UserError, match="again to go on"):
        judge(concurrency=1, max_retries=0).prefer(prompts, first, second)
    server.answer, sent = by_length, len(server.requests)
    again = judge()
    assert again.prefer(prompts, first, second) == [1.0, 1.0, 1.0]
    assert len(server.requests) == sent + 1
    assert (again.report()["from_cache"], again.report()["prompt_tokens"]) == (2, 300)


def test_nothing_is_sent_after_a_breakdown(judge, server):
    server.answer = error(404, "no such model")
    with pytest.raises(UserError, match="no such model; check --judge-url"):
        judge(concurrency=1).prefer(["p"] * 50, [f"a{i}" for i in range(50)], ["b"] * 50)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "variable", "hint"),
    [
        (401, "OPENAI_API_KEY", "the environment variable OPENAI_API_KEY is not set"),
        (403, None, "no key was sent"),
        (302, None, "check --judge-url"),
    ],
)
def test_who_is_not_let_in_is_told_why(status, variable, hint, judge, server):
    server.answer = (status, {"Location": server.url}, {"error": "stay\x1b[2J out"})
    with pytest.raises(UserError, match=hint) as raised:
        judge(key_variable=variable).prefer(["p"], ["a"], ["b"])
    assert "stay\\x1b[2J out" in str(raised.value)
    assert len(server.requests) == 1


def test_nobody_there(judge, server):
    url = server.url
    server.close()
    with pytest.raises(UserError, match=r"no answer in 2 tries.*ConnectError"):
        judge(url=url, max_retries=1).prefer(["p"], ["a"], ["b"])


def test_a_text_that_is_refused_is_a_tie_and_reported(judge, server):
    server.answer = lambda body: error(400, "too long") if "xxx" in body["messages"][1]["content"] else by_length(body)
    asking = judge(concurrency=1)
    assert asking.prefer(["p", "q"], ["aa", "xxxx"], ["b", "c"]) == [1.0, 0.5]
    assert (asking.report()["refused"], asking.report()["unparsed"]) == (1, 0)
    assert judge().prefer(["p", "q"], ["aa", "xxxx"], ["b", "c"]) == [1.0, 0.5], "the one left of a resumed run"


def test_settings_that_are_refused_end_the_run(judge, server):
    server.answer = error(400, "unknown field 'max_tokens'")
    with pytest.raises(UserError, match=r"refuses every request.*unknown field 'max_tokens'"):
        judge(concurrency=1).prefer(["p"] * 50, [f"a{i}" for i in range(50)], ["b"] * 50)
    assert len(server.requests) == 8
    with pytest.raises(UserError, match="refuses every request"):
        judge().prefer(["p"], ["a"], ["b"])


def dripping(start, part):
    """Send the start, then the part for ever, each in time for itself."""

    def behave(connection):
        connection.sendall(start)
        while True:
            connection.sendall(part)
            time.sleep(0.01)

    return behave


HEAD = b"HTTP/1.1 200 OK\r\n"
RAW = {
    "no reply": lambda c: time.sleep(60),
    "headers by drops": dripping(HEAD + b"X-Slow: ", b"x"),
    "headers without end": dripping(HEAD, b"X-More: yes\r\n"),
    "interim responses without end": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a body by drops": dripping(HEAD + b"\r\n{", b" "),
    "chunks by drops": dripping(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "half a status": lambda c: c.sendall(b"HTTP/1.1 20"),
    "no HTTP": lambda c: c.sendall(b"SSH-2.0-OpenSSH_9.9\r\n"),
    "a status of no kind": lambda c: c.sendall(b"HTTP/1.1 9999 X\r\n\r\n"),
    "half the body": lambda c: c.sendall(HEAD + b"Content-Length: 99\r\n\r\n{"),
    "two lengths": lambda c: c.sendall(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}"),
    "packed twice": lambda c: c.sendall(
        HEAD + b"Content-Encoding: gzip, gzip\r\nConnection: close\r\n\r\n" + gzip.compress(gzip.compress(b"{}"))
    ),
    "a bomb": lambda c: c.sendall(
        HEAD + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n" + gzip.compress(b" " * 30_000_000)
    ),
}


@pytest.mark.parametrize("kind", RAW)
def test_whatever_comes_over_the_wire_ends_within_the_time_of_a_request(kind, judge):
    with raw_server(RAW[kind]) as url:
        before = time.monotonic()
        with pytest.raises(UserError, match=r"gave no answer in 1 tries") as refused:
            judge(url=url, timeout=0.3, max_retries=0).prefer(["p"], ["a"], ["b"])
        assert time.monotonic() - before < 20, "a hang, not slowness"
    assert len(str(refused.value)) < 700


def odd(**changes):
    status, headers, reply = verdict("FIRST")
    return status, headers, {**reply, **changes}


@pytest.mark.parametrize(
    "reply",
    [
        odd(choices=[{"message": {"content": [{"type": "text", "text": "VERDICT: FIRST"}]}}]),
        odd(choices=[{"message": "VERDICT: FIRST"}]),
        odd(choices={"0": 1}),
        odd(usage={"prompt_tokens": "many"}),
        odd(usage={"prompt_tokens": 10**12}),
        odd(usage=[1]),
        (200, {}, b"[" * 100_000),
        (200, {}, b'{"choices": [{"message": {"content": ' + b"9" * 10_000 + b"}}]}"),
        (200, {}, '{"choices": 1}'.encode("utf-16")),
        (200, {}, b"\xff\xfe\x00"),
    ],
    ids=lambda reply: str(reply[2])[:40],
)
def test_a_reply_of_another_form_is_tried_again(reply, judge, server):
    server.script = [reply]
    assert judge().prefer(["p"], ["long"], ["b"]) == [1.0]
    assert len(server.requests) == 2


def test_costs_are_never_negative_and_names_are_harmless(judge, server):
    server.answer = odd(usage={"prompt_tokens": -5, "completion_tokens": None}, model="m\x1b[2J" + "x" * 5000)
    report = (asking := judge()) and asking.prefer(["p"], ["a"], ["b"]) and asking.report()
    assert (report["prompt_tokens"], report["completion_tokens"]) == (0, 0)
    (model,) = report["models"]
    assert model.startswith("m\\x1b[2Jx")
    assert len(model) <= 300


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("-5", 0),
        ("nan", 0),
        ("soon", 0),
        ("Wed, 99 Foo 2026 99:99:99 GMT", 0),
        ("Mon, 01 Jan 0001 00:00:00 -0000", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("inf", None),
        ("1e9", None),
        ("9" * 400, None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", None),
    ],
)
def test_a_pause_that_makes_no_sense_is_none_or_ends_the_run(header, seconds, judge, server):
    server.script = [error(429, **{"Retry-After": header})]
    if seconds is None:
        with pytest.raises(UserError, match="wants a pause of"):
            judge().prefer(["p"], ["long"], ["b"])
        return
    asking = judge()
    assert asking.prefer(["p"], ["long"], ["b"]) == [1.0]
    assert sum(asking.slept) <= 1, "the back-off alone"


@pytest.mark.parametrize("host", ["x" * 70 + ".example", "a..b", "xn--a.example", "%00.example"])
def test_an_address_that_no_name_system_has_is_one_line(host, judge):
    with pytest.raises(UserError, match=r"is no address|gave no answer|must start with"):
        judge(url=f"http://{host}/v1", max_retries=0).prefer(["p"], ["a"], ["b"])


@pytest.mark.parametrize("proxy", ["nonsense", "ftp://host:1", "http://[::1", "socks5://host:1"])
def test_a_proxy_that_is_none_is_one_line(proxy, judge, monkeypatch):
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(UserError, match=r"HTTP_PROXY|gave no answer"):
        judge(max_retries=0).prefer(["p"], ["a"], ["b"])
