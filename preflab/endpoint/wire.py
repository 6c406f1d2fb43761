"""One request to an OpenAI-compatible endpoint, and what each way of failing means.

The API key is read from the environment, put into the request's header and nowhere else.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from preflab.endpoint.answers import Answer
from preflab.endpoint.settings import Endpoint
from preflab.errors import UserError, crash
from preflab.errors.crash import described
from preflab.errors.terminal import one_line

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger(__name__)

LONGEST_REPLY = 4_000_000  # bytes
MOST_TOKENS = 10**9  # in one reply's own account of itself
ENCODINGS = ("identity", "gzip")  # not several in a row, of which each could grow a thousandfold
TRANSIENT = {408, 409, 425, 429}  # and all from 500 up
OF_THE_TEXT = {400, 413, 422}  # too long, or stopped by a content filter
ELSEWHERE = {301, 302, 303, 307, 308, 404, 405}


class TransientError(Exception):
    """Worth another try, after `wait` seconds where the endpoint says so."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


class RefusedError(Exception):
    """The endpoint never takes this text; others perhaps."""


class _Alarm:
    """Hangs up when a request has taken its time.

    The library's timeout is for each read and each write: whoever drips headers or a body, a byte at a time, would hold
    on for ever, and so would an endless series of interim responses.

    Args:
        seconds: that the request may take, from connecting to the last byte.

    Attributes:
        rung: whether the time is over.
    """

    def __init__(self, seconds: float) -> None:
        self.rung, self._sockets = False, list[socket.socket]()
        self._lock, self._timer = threading.Lock(), threading.Timer(seconds, self._ring)
        self._timer.daemon = True

    def __enter__(self) -> _Alarm:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, event: str, info: Mapping[str, Any]) -> None:
        """Take note of the socket, and of the one that encrypts it: an extension of the HTTP library."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            with self._lock:
                self._sockets.append(info["return_value"].get_extra_info("socket"))
                if self.rung:
                    self._hang_up()

    def _ring(self) -> None:
        with self._lock:
            self.rung = True
            self._hang_up()

    def _hang_up(self) -> None:
        for connection in self._sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)  # which also wakes whoever waits for it
            except OSError:
                pass  # closed already, or handed over to the one that encrypts


class Wire:
    """Sends requests.

    Args:
        config: url and model must be set.

    Raises:
        UserError: if they are not, or the environment variable holds something that is no key.
    """

    def __init__(self, config: Endpoint) -> None:
        if config.url is None or config.model is None:
            raise UserError(f"the {config.role} 'endpoint' needs {config.flag('url')} and {config.flag('model')}")
        self.config, self.model = config, config.model
        self.url = config.url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.name = f"{config.role} endpoint {self.url}"
        self._key = _read_key(config.key_variable)
        parts = urlsplit(self.url)
        if self._key and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            logger.warning("the key in %s goes out unencrypted: %surl is http", config.key_variable, config.prefix)

    def try_out(self) -> None:
        """Say before a long run what it will miss: a key that was named, or anybody at the address.

        An address that does not answer is no mistake yet: all answers may be in the cache, or the server be started
        later.

        Raises:
            UserError: if a variable of one's own is named for the key, and not set.
        """
        variable, default = self.config.key_variable, type(self.config).key_variable
        if variable and not self._key and variable != default:
            raise UserError(
                f"the environment variable {variable}, which is to hold the {self.config.role}'s key, is not set"
            )
        parts = urlsplit(self.url)
        if getproxies() or not parts.hostname:
            return
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname, port), timeout=min(5.0, self.config.timeout)).close()
        except (OSError, UnicodeError) as error:
            url, cache = f"{self.config.prefix}url", f"{self.config.prefix}cache"
            logger.warning("nobody answers at %s %s (%s); only answers in %s can be used", url, self.url, error, cache)

    @contextmanager
    def open(self) -> Iterator[httpx2.Client]:
        """Return a connection pool for all threads; it follows no redirect, so the key goes nowhere else."""
        import httpx2

        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "gzip"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        # A connection for each request: what an answer takes hides the handshake, and `_Alarm` learns of its socket.
        limits = httpx2.Limits(max_connections=self.config.concurrency, max_keepalive_connections=0)
        try:
            client = httpx2.Client(headers=headers, timeout=self.config.timeout, limits=limits)
        except Exception as error:  # proxies of the environment: no address, a scheme without its package, certificates
            raise UserError(
                f"the {self.config.role}'s HTTP client cannot start: {described(error)}; check HTTP_PROXY, "
                "HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE"
            ) from None
        with client:
            yield client

    def send(self, client: httpx2.Client, body: Mapping[str, Any]) -> Answer:
        """Send one request and read the reply.

        Raises:
            TransientError: for rate limits, timeouts, faults of server or network, and replies that make no sense.
            RefusedError: if the endpoint does not take this request's text.
            UserError: if it takes no request at all.
        """
        import httpx2

        # ASCII with JSON's escapes, which carry lone surrogates too.
        content = json.dumps(body).encode()
        received = bytearray()
        try:
            with _Alarm(self.config.timeout) as alarm:
                with client.stream("POST", self.url, content=content, extensions={"trace": alarm.watch}) as response:
                    if response.headers.get("content-encoding", "identity").strip().lower() not in ENCODINGS:
                        raise TransientError("the reply is packed in a way that was not asked for")
                    for part in response.iter_bytes():
                        received += part
                        if alarm.rung or len(received) > LONGEST_REPLY:
                            raise TransientError("the reply takes too long, or has no end")
        except (httpx2.TimeoutException, httpx2.HTTPError) as error:
            if alarm.rung or isinstance(error, httpx2.TimeoutException):
                raise TransientError(f"no whole reply within {self.config.timeout:g} s") from None
            raise TransientError(self._clean(f"{type(error).__name__}: {error}")) from None
        except (httpx2.InvalidURL, UnicodeError):  # UnicodeError: a host that the name system cannot write
            raise UserError(f"{self.config.prefix}url {self.url} is no address") from None
        if response.status_code != 200:
            raise self._fault(response.status_code, response.headers.get("retry-after"), bytes(received))
        return self._read(bytes(received))

    def _fault(self, status: int, retry_after: str | None, content: bytes) -> Exception:
        """Return what a status other than 200 means."""
        what = f"status {status}: {self._clean(_message(content))}"
        if status in TRANSIENT or status >= 500:
            return TransientError(what, _seconds(retry_after))
        if status in OF_THE_TEXT:
            return RefusedError(what)
        hint, variable = "", self.config.key_variable
        if status in (401, 403):
            state = "set" if self._key else "not set"
            hint = f"; the environment variable {variable} is {state}" if variable else "; no key was sent"
        elif status in ELSEWHERE:
            hint = f"; check {self.config.flag('url')} (it usually ends in /v1) and {self.config.flag('model')}"
        return UserError(f"{self.name} refuses: {what}{hint}")

    def _read(self, content: bytes) -> Answer:
        try:
            reply = json.loads(content)
            choice, usage = reply["choices"][0], reply.get("usage") or {}
            counts = [max(0, int(usage.get(name) or 0)) for name in ("prompt_tokens", "completion_tokens")]
            text, model = choice["message"]["content"] or "", str(reply.get("model") or self.model)
            if not isinstance(text, str) or max(counts) > MOST_TOKENS:
                raise ValueError
            # Some servers leave the reason out; only a named other one means that the end is missing.
            finished = choice.get("finish_reason") in ("stop", None)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
            raise TransientError(f"a reply that is no chat completion: {self._clean(_message(content))}") from None
        return Answer(self._hide(text), finished, counts[0], counts[1], self._clean(model))

    def _hide(self, text: str) -> str:
        """Return text without the key, which a server may well repeat; placeholders are too short to be secret."""
        return text.replace(self._key, "***") if len(self._key) > 5 else text

    def _clean(self, text: str) -> str:
        return one_line(self._hide(text), 300)


def _read_key(variable: str | None) -> str:
    key = os.environ.get(variable, "").strip() if variable else ""
    # The HTTP library would name the value in its complaint.
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UserError(f"the environment variable {variable} holds something that is no API key")
    crash.keep_secret(key)
    return key


def _message(content: bytes) -> str:
    """Return the endpoint's own words, or the beginning of whatever it sent."""
    try:
        error = json.loads(content)["error"]
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError, RecursionError):
        return content[:1000].decode(errors="replace") or "empty reply"


def _seconds(retry_after: str | None) -> float:
    """Read a Retry-After header: seconds, or a date (RFC 9110, section 10.2.3); 0 where it says nothing."""
    try:
        wait = float(retry_after or 0)
    except ValueError:
        try:
            wait = parsedate_to_datetime(str(retry_after)).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, OSError):  # no date, or one of no calendar
            return 0.0
    return max(0.0, wait) if wait == wait else 0.0
