"""A real HTTP server on this machine that answers as a judge's endpoint would."""

from __future__ import annotations

import json
import re
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-only-for-this-test-0123456789"
HANG_UP, SILENCE, DRIP = "hang up", "silence", "drip"


def completion(text, finish="stop", tokens=(100, 20), **more):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return 200, {}, {"model": "judge-2026", "choices": [choice], "usage": usage, **more}


def verdict(word):
    return completion(f"Weighed.\nVERDICT: {word}")


def error(status, message="try later", **headers):
    return status, headers, {"error": {"message": message}}


def by_length(body):
    """Judge as a careful reader of the fences would who likes long responses."""
    question = body["messages"][1]["content"]
    mark = question.partition(" ")[0]
    pattern = "^{0} {1} RESPONSE BEGINS\n(.*?)\n{0} {1} RESPONSE ENDS$"
    first, second = (
        len(re.search(pattern.format(mark, name), question, re.DOTALL | re.MULTILINE)[1])
        for name in ("FIRST", "SECOND")
    )
    return verdict("TIE" if first == second else "FIRST" if first > second else "SECOND")


@contextmanager
def raw_server(behave):
    """Let `behave` answer each connection, byte by byte, once the request is there; yields the address."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection):
        with connection:
            try:
                connection.recv(1 << 20)
                behave(connection)
                connection.shutdown(socket.SHUT_WR)
            except OSError:  # the client has hung up, as it should
                pass

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        listening.close()


class Server:
    """Answers with `script`, one entry a request, then by `answer`; remembers requests."""

    def __init__(self):
        self.script, self.answer, self.requests = [], by_length, []
        self.over, self.lock, self.busy, self.most_busy = threading.Event(), threading.Lock(), 0, 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.requests.append((self.path, dict(self.headers), body))
                    planned = server.script.pop(0) if server.script else server.answer
                    server.busy += 1
                    server.most_busy = max(server.most_busy, server.busy)
                planned = planned(body) if callable(planned) else planned
                with server.lock:  # before the reply: whoever reads it may ask again at once
                    server.busy -= 1
                self.reply(planned)

            def reply(self, planned):
                if planned == SILENCE:
                    server.over.wait(30)
                    self.close_connection = True
                    return
                status, headers, content = planned if isinstance(planned, tuple) else (200, {}, b"")
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content) if isinstance(planned, tuple) else 1000))
                self.end_headers()
                self.wfile.write(content if isinstance(planned, tuple) else b'{"choices": [')
                if planned == DRIP:
                    try:
                        for _ in range(40):  # each byte in time, all of them not
                            server.over.wait(0.02)
                            self.wfile.write(b" ")
                    except OSError:
                        pass
                self.close_connection = self.close_connection or not isinstance(planned, tuple)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self.over.set()
        self.http.shutdown()
        self.http.server_close()
