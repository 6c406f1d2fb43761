"""Who may ask for the page, and what no answer goes without.

A page on this machine can be asked for by any web site that this machine's browsers show. They can neither read it
(the browser sees to that) nor write to it: not under a name of their own that leads here, since the name is looked at
(DNS rebinding), and not by a form that they send, since it lacks this process's own secret and comes from elsewhere.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer, with which browsers send forms as from nowhere.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # What is judged changes with every verdict, and is nobody else's.
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """Lets in who asks for this machine by one of its names and, where one is set, shows the token.

    Args:
        app: what is served behind it, as if at the root.
        host: the address that is served at.
        token: first part of the path of every address; None where none is needed.
    """

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        self._app, self._token = app, token
        self._names = {host.lower(), "localhost", "127.0.0.1", "::1"}
        self._anywhere = not is_loopback(host)
        if self._anywhere:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the page answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None and self._token is not None:
            scope = {**scope, "root_path": f"/{self._token}"}
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return what to answer to those who are not let in; None for others."""
        if not self._named_here(Headers(scope=scope).get("host", "")):
            return PlainTextResponse("There is no such host here: open the address that the command printed.\n", 421)
        if self._token is None:
            return None
        given, slash, _ = scope["path"][1:].partition("/")
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            return PlainTextResponse("Open the address that the command printed, its token included.\n", 403)
        return None if slash else RedirectResponse(f"/{self._token}/", 303)

    def _named_here(self, host: str) -> bool:
        """Whether a Host header names this machine: its port may be another's, that of a tunnel."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        return name in self._names or (self._anywhere and _is_address(name))


def _is_address(name: str) -> bool:
    """Whether a name is an IP address, which nobody can make lead elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def of_this_page(headers: Mapping[str, str]) -> bool:
    """Whether a form was sent by a page of this very address, as far as the browser says where it comes from."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site not in (None, "same-origin"):
        return False
    return origin is None or urlsplit(origin).netloc == headers.get("host")
