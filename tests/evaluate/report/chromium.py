"""A headless Chromium, spoken to in its DevTools protocol through a pair of pipes: no driver, no package, no port."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """The program, if there is one; ``SLIMBIND_CHROMIUM`` names another."""
    given = os.environ.get("SLIMBIND_CHROMIUM")
    return given or next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One page at a time. ``complaints`` are console messages, errors and refusals; ``requests`` what was asked for."""

    def __init__(self, program: str) -> None:
        self.complaints: list[str] = []
        self._is_loaded = False
        self.requests: list[str] = []
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        read, its_write = os.pipe()
        its_read, write = os.pipe()
        # It reads from 3 and writes to 4: its ends of the pipes are moved there, from numbers that are neither.
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (its_read, its_write)]
        os.close(its_read)
        os.close(its_write)
        arguments = f"--headless=new --remote-debugging-pipe --no-sandbox --disable-gpu --disable-dev-shm-usage \
            --no-first-run --disable-background-networking --disable-extensions --hide-scrollbars \
            --user-data-dir={self._profile.name}".split()
        plumbing = f'exec 3<&{theirs[0]} 4>&{theirs[1]} {theirs[0]}<&- {theirs[1]}>&-; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", plumbing, "chromium", program, *arguments, "about:blank"],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in theirs:
            os.close(end)
        self._read, self._write, self._buffer, self._number, self._session = read, write, b"", 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Security"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params):
        """Send one command and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._number:
                assert "error" not in told, f"{method}: {told['error']}"
                return told["result"]
            self._note(told)

    def open(self, page: Path, *, width: int, dark: bool = False, height: int = 800) -> None:
        """Show a file in a window of so many pixels; what was noted before is forgotten."""
        self.complaints.clear()
        self.requests.clear()
        self._is_loaded = False
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.absolute().as_uri())
        while not self._is_loaded:
            self._note(self._next())
        self.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def ask(self, expression: str):
        """The value of an expression in the page."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write what is shown as a PNG; ``whole``: the page from top to bottom."""
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))

    def printed(self) -> bytes:
        """The page as it would be printed, a PDF."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"])

    def close(self) -> None:
        """End it and all that it started."""
        os.close(self._write)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._read)
        self._profile.cleanup()

    def _next(self, seconds: float = 60.0):
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready = select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]
            part = os.read(self._read, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError(f"Chromium {'ended' if ready else 'did not answer'}")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, told) -> None:
        method, params = told.get("method"), told.get("params", {})
        if method == "Page.loadEventFired":
            self._is_loaded = True
        elif method == "Log.entryAdded":
            self.complaints.append(f"{params['entry']['level']}: {params['entry']['text']}")
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(f"console: {params['args']}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(f"exception: {params['exceptionDetails'].get('text')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
