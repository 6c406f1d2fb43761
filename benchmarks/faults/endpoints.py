"""Endpoints that misbehave: a server on this machine that says anything at all to whoever asks."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.faults.cases import Case, Right, files, lines, refused, said, words
from benchmarks.faults.kit import answer_rows, begun

KEY = "sk-only-for-this-benchmark-0123456789"
Reply = Callable[[socket.socket], object]
"""What is done to a connection once the request is read."""

COMMAND = words(
    "evaluate.py --model kit/model --dataset kit/pairs.jsonl --config kit/tiny.yaml --output out "
    "--models a=r.jsonl --judge endpoint "
    "--judge-model m --judge-cache cache --judge-max-retries 0 --judge-timeout 2 --judge-url {url}"
)


def serve(reply: Reply) -> str:
    """Answer every request on a port of its own, in threads that end with the process; return the address."""
    server = socket.create_server(("127.0.0.1", 0))

    def work(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            content = b""
            while b"\r\n\r\n" not in content:
                content += connection.recv(65536)
            head, _, body = content.partition(b"\r\n\r\n")
            length = int(
                next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split(b":")[1]
            )
            while len(body) < length:
                body += connection.recv(65536)
            reply(connection)

    def accept() -> None:
        while True:
            threading.Thread(target=work, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}/v1"


def case(name: str, reply: Reply, right: tuple[Right, ...], *options: str) -> Case:
    """Return a case in which the endpoint replies so."""

    def make(folder: Path) -> Mapping[str, str]:
        files({"r.jsonl": lines(answer_rows())})(folder)
        return {"url": serve(reply)}

    return Case(
        f"endpoints/{name}", (*COMMAND, *options), right, begun("evaluated", make), (KEY,), {"OPENAI_API_KEY": KEY}
    )


# ---- replies --------------------------------------------------------------------------------------


def raw(content: bytes) -> Reply:
    """Return what sends bytes and hangs up."""
    return lambda connection: connection.sendall(content)


def http(body: Any = b"", status: str = "200 OK", **headers: str) -> Reply:
    """Return a proper reply: a body, as JSON unless it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = {"Content-Type": "application/json", "Content-Length": str(len(content)), "Connection": "close"}
    found |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in found.items())
    return raw(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + content)


def said_by(content: Any, **more: Any) -> dict[str, Any]:
    """Return a chat completion with this content."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop", **more}
    return {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 9}}


def dripping(start: bytes, piece: bytes, pause: float = 0.1) -> Reply:
    """Return what sends a beginning, and then a piece now and then, for ever."""

    def reply(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(piece)
            time.sleep(pause)

    return reply


def _silent(connection: socket.socket) -> None:
    time.sleep(60)


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BROKEN: dict[str, Reply] = {
    "hangs up": lambda connection: None,
    "says nothing": _silent,
    "drips its headers": dripping(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
    "drips one header after another": dripping(b"HTTP/1.1 200 OK\r\n", b"X-Slow: a\r\n"),
    "drips its status": dripping(b"HTTP/1.1 2", b"0"),
    "drips its body": dripping(OK + b"Content-Length: 100000\r\n\r\n", b" "),
    "drips chunks": dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "sends continuations for ever": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "sends headers without end": dripping(b"HTTP/1.1 200 OK\r\n", b"X-Long: " + b"a" * 65536 + b"\r\n", 0),
    "sends a header without end": dripping(b"HTTP/1.1 200 OK\r\nX-Long: ", b"a" * 65536, 0),
    "sends a body without end": dripping(
        OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"a" * 65536 + b"\r\n", 0
    ),
    "is no web server": raw(b"220 mail.example.org ESMTP\r\n"),
    "sends noise": raw(bytes(range(256)) * 10),
    "speaks HTTP/0.9": raw(b"<html>hello</html>"),
    "speaks HTTP/9": raw(b"HTTP/9.9 200 OK\r\n\r\n{}"),
    "sends a status that is none": raw(b"HTTP/1.1 what OK\r\n\r\n"),
    "sends status 999": http({}, "999 What"),
    "sends status 204": http(b"", "204 No Content"),
    "stops in its body": raw(OK + b'Content-Length: 1000\r\n\r\n{"choices": ['),
    "stops in a chunk": raw(OK + b"Transfer-Encoding: chunked\r\n\r\n100\r\nabc"),
    "sends a broken chunk": raw(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"),
    "gives a length below none": raw(OK + b"Content-Length: -5\r\n\r\n{}"),
    "gives two lengths": raw(OK + b"Content-Length: 2\r\nContent-Length: 5\r\n\r\n{}   "),
    "says gzip and sends text": http({"choices": []}, Content_Encoding="gzip"),
    "says brotli": http(b"\x8b\x02\x80abc\x03", Content_Encoding="br"),
    "sends a gzip bomb": http(gzip.compress(bytes(300_000_000), 9), Content_Encoding="gzip"),
    "sends nothing": http(b""),
    "sends a web page": http(b"<html><body>Sign in</body></html>", Content_Type="text/html"),
    "sends text": http(b"FIRST"),
    "sends half of it": http(b'{"choices": [{"message"'),
    "sends UTF-16": http(json.dumps(said_by("VERDICT")).encode("utf-16-le")[:-3]),
    "sends latin-1": http(b'{"choices": "\xe9"}'),
    "sends zeros": http(bytes(1000)),
    "sends nested lists": http(b"[" * 200_000),
    "sends an enormous integer": http(b'{"choices": ' + b"9" * 5000 + b"}"),
    "sends a list": http([]),
    "sends null": http(None),
    "sends a number": http(7),
    "sends an error with status 200": http({"error": {"message": "model is loading"}}),
    "leaves out choices": http({"model": "m"}),
    "sends no choices": http({"choices": []}),
    "sends null choices": http({"choices": None}),
    "sends choices as mapping": http({"choices": {"a": 1}}),
    "sends a choice that is text": http({"choices": ["FIRST"]}),
    "leaves out the message": http({"choices": [{"text": "FIRST"}]}),
    "sends a null message": http({"choices": [{"message": None}]}),
    "sends counts as words": http({**said_by("VERDICT: FIRST"), "usage": {"prompt_tokens": "many"}}),
    "sends infinite counts": http({**said_by("VERDICT: FIRST"), "usage": {"prompt_tokens": float("inf")}}),
    "sends usage as list": http({**said_by("VERDICT: FIRST"), "usage": [1]}),
    **{
        f"answers {status}": http({"error": {"message": f"no: {status}"}}, status)
        for status in (
            "301 Moved",
            "302 Found",
            "307 Temporary",
            "400 Bad Request",
            "401 Unauthorized",
            "402 Payment",
            "403 Forbidden",
            "404 Not Found",
            "405 Not Allowed",
            "408 Timeout",
            "413 Too Large",
            "422 Unprocessable",
            "429 Too Many",
            "500 Internal",
            "502 Bad Gateway",
            "503 Unavailable",
            "529 Overloaded",
        )
    },
    **{
        f"wants a pause of {wait}": http({}, "429 Too Many", Retry_After=wait)
        for wait in (
            "1000000000",
            "-5",
            "1e400",
            "nan",
            "soon",
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "Mon, 99 Foo 2026 99:99:99 GMT",
            "99999999999999999999",
        )
    },
    "sends one elsewhere for ever": http(b"", "302 Found", Location="/v1/chat/completions"),
    "repeats the key": http({"error": {"message": f"wrong key {KEY}"}}, "401 Unauthorized"),
    "repeats the key as a page": http(f"<p>{KEY}</p>".encode(), "500 Internal"),
    "sends an error of a megabyte": http({"error": {"message": "a" * 1_000_000}}, "400 Bad Request"),
    "sends an error that clears the screen": http(
        {"error": {"message": "\x1b[2J\x1b]0;x\x07\u202egnp"}}, "400 Bad Request"
    ),
    "sends an error as list": http({"error": ["a", {"b": 1}]}, "400 Bad Request"),
}
ODD: dict[str, Reply] = {
    "no content": http(said_by(None)),
    "content as number": http(said_by(7)),
    "content as list": http(said_by([{"type": "text", "text": "VERDICT: FIRST"}])),
    "another word": http(said_by("Both are fine.")),
    "an answer in the middle": http(said_by("VERDICT: FIRST\nor so I think")),
    "a megabyte of words": http(said_by("a" * 1_000_000)),
    "words that clear the screen": http(said_by("\x1b[2JVERDICT: \u202eTSRIF")),
    "an answer that was cut off": http(said_by("VERDICT: FIRST", finish_reason="length")),
    "a refusal": http(said_by("I cannot help with that.", finish_reason="content_filter")),
}
FINE: dict[str, Reply] = {
    "an answer": http(said_by("VERDICT: FIRST")),
    "no usage": http({"choices": said_by("VERDICT: SECOND")["choices"]}),
    "a byte order mark": http(b"\xef\xbb\xbf" + json.dumps(said_by("VERDICT: TIE")).encode()),
    "blanks around": http(said_by("\n\nVERDICT: FIRST  \n\n")),
    "another content type": http(said_by("VERDICT: FIRST"), Content_Type="text/plain"),
    "a name that clears the screen": http({**said_by("VERDICT: FIRST"), "model": "\x1b[2Jm"}),
}


def cases(seed: int) -> Iterator[Case]:
    """Yield every way in which an endpoint misbehaves."""
    for what, reply in BROKEN.items():
        yield case(f"an endpoint that {what}", reply, refused("127.0.0.1"))
    for what, reply in ODD.items():
        yield case(f"replies: {what}", reply, (*said("no verdict|no answer|refused and count"), *refused("127.0.0.1")))
    for what, reply in FINE.items():
        yield case(f"odd but right/{what}", reply, said())
    for what, variable in {
        "with a line end": "sk-1\nX-Evil: 1",
        "with a blank": "sk 1",
        "of letters of another kind": "schlüssel",
    }.items():
        bad = case(f"key {what}", http(said_by("VERDICT: FIRST")), refused("OPENAI_API_KEY"))
        yield Case(bad.name, bad.command, bad.right, bad.make, (variable,), {"OPENAI_API_KEY": variable})
    closed = [part.replace("{url}", "http://127.0.0.1:9/v1") for part in COMMAND]
    make = begun("evaluated", files({"r.jsonl": lines(answer_rows())}))
    yield Case("endpoints/nobody there", tuple(closed), refused("127.0.0.1:9"), make)
    nowhere = [part.replace("{url}", "http://no-such-host.invalid/v1") for part in COMMAND]
    yield Case("endpoints/no such host", tuple(nowhere), refused("no-such-host.invalid"), make)
    yield case(
        "the key in place of its variable",
        http({}),
        refused("judge_key_variable|judge-key-variable"),
        "--judge-key-variable",
        KEY,
    )
