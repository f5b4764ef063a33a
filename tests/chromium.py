"""A headless Chromium for tests, spoken to over a pipe by the DevTools protocol: pages as a reader's browser shows them."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


class Chromium:
    """A browser with one page; console errors, failed loads and dialogs are collected in `trouble`."""

    def __init__(self) -> None:
        self.trouble: list[str] = []
        self.requested: list[str] = []
        self._number = 0
        self._buffer = b""
        self._loaded = False

    def __enter__(self) -> Chromium:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        pipes = (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        theirs_in, theirs_out = (fcntl.fcntl(each, fcntl.F_DUPFD, 20) for each in (theirs_in, theirs_out))
        options = "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-extensions"
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}',
                str(CHROMIUM),
                *options.split(),
                f"--user-data-dir={self._profile.name}",
                "--remote-debugging-pipe",
            ],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for each in (theirs_in, theirs_out, pipes[0][0], pipes[1][1]):
            os.close(each)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session: str | None = None
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        payload = json.dumps(message).encode() + b"\0"
        while payload:
            payload = payload[os.write(self._out, payload) :]
        while True:
            found = self._receive(60)
            if found.get("id") == self._number:
                assert "error" not in found, (method, found["error"])
                return found["result"]

    def _receive(self, seconds: float) -> dict[str, Any]:
        ends = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, ends - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self._in, 1 << 20)
            assert more, "the browser has gone"
            self._buffer += more
        raw, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(raw)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, found: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.trouble.append(json.dumps(found["exceptionDetails"])[:1000])
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning", "assert"):
            self.trouble.append(json.dumps(found["args"])[:1000])
        elif method == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            self.trouble.append(found["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.trouble.append(f"dialog: {found['message']}")
        elif method == "Network.requestWillBeSent":
            self.requested.append(found["request"]["url"])

    def open(
        self, path: Path, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True, at: str = ""
    ) -> None:
        """Show a file as a screen of this size would, and wait until it is loaded and its browser is ready."""
        self.trouble, self.requested, self._loaded = [], [], False
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        for url in ("about:blank", path.resolve().as_uri() + at):  # else a new fragment alone would load nothing
            self._loaded = False
            self.call("Page.navigate", url=url)
            while not self._loaded:
                self._receive(60)
        if script:
            self.until("document.documentElement.dataset.browser === 'ready' || !document.querySelector('.browser')")

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, awaited."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        ends = time.monotonic() + seconds
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < ends, f"never true: {expression}; {self.trouble}"
            time.sleep(0.02)
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def press(self, key: str) -> None:
        """Press a key."""
        codes = {"ArrowDown": 40, "ArrowUp": 38, "End": 35, "Home": 36}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def photograph(self, path: Path, selector: str | None = None) -> None:
        """Write a screenshot of the whole page, or of the stripe of it that an element is in."""
        clip = {}
        if selector is not None:
            place = self.run(
                f"(() => {{ const r = document.querySelector({selector!r}).getBoundingClientRect();"
                "return {x: 0, y: r.y + scrollY, width: innerWidth, height: r.height}; })()"
            )
            clip = {"clip": {**place, "scale": 1}}
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True, **clip)
        path.write_bytes(base64.b64decode(found["data"]))
