"""The server: bound, said, run until Ctrl-C, and what stands then said too."""

from __future__ import annotations

import secrets
import socket
import webbrowser
from collections.abc import Sequence

import uvicorn

from preflab.errors import UserError
from preflab.errors.terminal import say
from preflab.eval.annotation.log import VerdictLog
from preflab.eval.annotation.pairs import Pair
from preflab.eval.annotation.settings import AnnotateConfig
from preflab.eval.annotation.web.guard import Guard, is_loopback
from preflab.eval.annotation.web.site import Site

LOOPBACK, PORT = "127.0.0.1", 8765
AT_ONCE = 100  # connections; a browser has six
PATIENCE = 3  # seconds, for what is under way when the server ends


def serve(pairs: Sequence[Pair], log: VerdictLog, config: AnnotateConfig) -> None:
    """Serve the page until it is interrupted.

    Args:
        pairs: to be judged.
        log: where verdicts go.
        config: where to serve, and who is asked.

    Raises:
        UserError: if the address cannot be served at.
    """
    host = config.host or LOOPBACK
    site = Site(pairs, log, annotator=config.annotator, seed=config.seed)
    with _bound(host, PORT if config.port is None else config.port) as bound:
        token = None if is_loopback(host) else secrets.token_urlsafe(24)
        address = _address(host, bound.getsockname()[1], token)
        _say_where(address, token is not None, len(pairs))
        if config.open and not webbrowser.open(address):
            say("no browser could be opened here: open the address yourself")
        server = uvicorn.Server(
            uvicorn.Config(
                Guard(site.app, host, token),
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,  # it would name annotators, and the token
                server_header=False,
                proxy_headers=False,
                limit_concurrency=AT_ONCE,
                timeout_graceful_shutdown=PATIENCE,
            )
        )
        _run(server, bound)
    for line in site.progress_lines():
        say(line)
    say(f"verdicts are in {config.output}; run the same command again to go on")


def _run(server: uvicorn.Server, bound: socket.socket) -> None:
    """Run until Ctrl-C, which is how such a server ends; another signal goes its own way."""
    try:
        server.run(sockets=[bound])
    except KeyboardInterrupt as interrupt:
        if type(interrupt) is not KeyboardInterrupt:  # SIGTERM, by `preflab.errors.answering`
            raise
        print()  # behind the terminal's ^C


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens; who comes before the server runs waits."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(
            f"--web cannot serve at {host}, port {port}: {error.strerror or error}; give another --port (0: any free "
            "one), or another --host"
        ) from None


def _address(host: str, port: int, token: str | None) -> str:
    """Return the page's address, of every machine's own name where it is served at all of them."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/{token + '/' if token else ''}"


def _say_where(address: str, abroad: bool, pairs: int) -> None:
    print(f"{pairs:,} pairs to judge at {address}", flush=True)
    if abroad:
        say(
            "Whoever has this address can give verdicts under any name, and read the pairs. It is not encrypted: use "
            "it on networks that you trust, or through ssh -L without --host"
        )
    print("Ctrl-C ends it; every verdict is on disk by then.", flush=True)
