"""A headless Chromium driven over its DevTools pipe: no port, no driver, no library.

https://chromedevtools.github.io/devtools-protocol: messages are JSON, ended by a zero byte; the browser reads
them from descriptor 3 and writes answers and events to descriptor 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 120  # seconds for one answer, before a browser that hangs fails the test


def installed() -> str | None:
    """Return the path of a Chromium, if there is one."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


# Puts two pipes where the browser looks for them, by way of numbers that neither can have, and becomes the browser.
PLUMBING = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 100) for end in sys.argv[1:3]]
os.dup2(ends[0], 3), os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One browser with one page.

    Attributes:
        problems: what went wrong in the page so far: uncaught errors, console errors, refused or wanted loads, dialogs.
    """

    def __init__(self, program: str, profile: Path) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        flags = [
            "--headless=new",
            "--remote-debugging-pipe",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ]
        flags += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", PLUMBING, str(commands), str(answers), program, *flags],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(commands)
        os.close(answers)
        self.problems: list[str] = []
        self._home = "file:"
        self._buffer, self._last, self._session = b"", 0, ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        """End the browser and what it started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])
            self._notice(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], PATIENCE)
            assert ready, "the browser does not answer"
            part = os.read(self._answers, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def _notice(self, event: dict[str, Any]) -> None:
        method, about = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(about["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert", "warning"):
            self.problems.append(str(about["args"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.problems.append(about["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not about["request"]["url"].startswith((self._home, "data:")):
            self.problems.append(f"loads {about['request']['url']}")
        elif method == "Page.javascriptDialogOpening":
            self.problems.append(f"dialog: {about['message']}")
            os.write(self._commands, self._dismissal())

    def _dismissal(self) -> bytes:
        message = {"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": False}}
        return json.dumps({**message, "sessionId": self._session}).encode() + b"\0"

    # ---- what a person does ----------------------------------------------------------------------

    def open(
        self, page: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False, media: str = ""
    ) -> None:
        """Open a file, or an address, in a window of this size, or on paper of it, and wait until it is loaded.

        What comes from the same address, or from files where it is one, is no problem afterwards.
        """
        url = page if isinstance(page, str) else page.resolve().as_uri()
        self._home = "/".join(url.split("/")[:3]) + "/" if isinstance(page, str) else "file:"
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        calm = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme, calm])
        self.send("Page.navigate", url=url)
        self.run("new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))")

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript in the page, waiting for a promise, and return its JSON-ready value."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def settle(self) -> None:
        """Wait for two frames, in which layout and observers are brought up to date."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))")

    def click(self, selector: str, *, away: bool = False) -> None:
        """Click the middle of the first element that fits, with the mouse; `away` as in `press`."""
        box = self.run(
            "(selector => { const e = document.querySelector(selector); e.scrollIntoView({block: 'center'});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })"
            f"({json.dumps(selector)})"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)
        if not away:
            self.settle()

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.send("Input.insertText", text=text)
        self.settle()

    def wait(self, expression: str) -> Any:
        """Wait until JavaScript gives something true, on this page or the one it is on its way to, and return it."""
        for _ in range(PATIENCE * 10):
            with suppress(AssertionError):  # the page that was asked has made room for the next, or has no body yet
                if found := self.run(expression):
                    return found
            time.sleep(0.05)  # not in the page: one that is left answers nothing any more
        raise AssertionError(f"never true: {expression}")

    def press(self, key: str, *, again: bool = False, away: bool = False) -> None:
        """Press a key that has a name, Tab, Enter, ArrowLeft or ArrowRight, or a letter or digit.

        Args:
            key: the key.
            again: whether it comes as one that has been held down.
            away: whether it leads to another page, for which `wait` waits.
        """
        code = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}.get(key) or ord(key.upper())
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, autoRepeat=again, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)
        if not away:
            self.settle()

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of a select element."""
        self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)};"
            " e.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Save what the window shows, or the whole page."""
        picture = self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(picture))
