"""A real headless Chromium, driven over a pipe by its DevTools protocol: no driver, no port, no package."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-background-networking --no-first-run "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
).split()
PIPES = (
    "import os, sys, fcntl\n"
    "ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 20) for end in sys.argv[1:3]]\n"
    "os.dup2(ends[0], 3), os.dup2(ends[1], 4)\n"
    "os.execv(sys.argv[3], sys.argv[3:])\n"
)
"""Chromium reads commands from descriptor 3 and writes to 4."""
KEYS = {
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Backspace": 8, "Escape": 27, "Enter": 13, "Tab": 9,
}  # fmt: skip


class Browser:
    """One browser with one page; `kill` ends it as a crash would."""

    def __init__(self, folder: Path, width: int = 1280, height: int = 900) -> None:
        read_commands, self._out = os.pipe()
        self._in, write_replies = os.pipe()
        ends = (read_commands, write_replies)
        command = [sys.executable, "-c", PIPES, *map(str, ends), CHROMIUM, *FLAGS]
        self.process = subprocess.Popen(
            [*command, f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank"],
            pass_fds=ends,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},
        )
        for end in ends:
            os.close(end)
        self._number = 0
        self._rest = b""
        self._page: str | None = None
        self.requests: list[str] = []
        """Every address that the page asked for."""
        self.problems: list[str] = []
        """Exceptions and errors of the page's script."""
        targets = self.send("Target.getTargets")["targetInfos"]
        self._attach(next(each["targetId"] for each in targets if each["type"] == "page"))
        self._context: str | None = None

    def _attach(self, page: str) -> None:
        self._page = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def renew(self) -> None:
        """Go on with a new page in a new profile; the page before and all it kept is thrown away."""
        self._page, before = None, self._context
        self._context = self.send("Target.createBrowserContext")["browserContextId"]
        page = self.send("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        if before is not None:
            self.send("Target.disposeBrowserContext", browserContextId=before)
        self._attach(page)
        self.send("Page.bringToFront")
        self.requests, self.problems = [], []

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL the browser and everything it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
            os.close(self._in)
            os.close(self._out)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a DevTools method and return its result; events on the way are noted."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._page is not None:
            message["sessionId"] = self._page
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            found = self._receive()
            if found.get("id") == self._number:
                assert "error" not in found, found["error"]
                return found["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = os.read(self._in, 65536)
            assert chunk, "the browser has ended"
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        params = found.get("params", {})
        if found.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif found.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"]))
        elif found.get("method") == "Log.entryAdded" and params["entry"]["source"] != "network":
            self.problems.append(params["entry"]["text"])
        return found

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 15.0) -> Any:
        """Wait until an expression is true and return its value."""
        until = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < until, (
                f"not so after {seconds} s: {script}: {self.run('document.body.innerText')}"
            )
            time.sleep(0.02)
        return value

    def press(self, key: str, repeat: bool = False) -> None:
        """Press and release one key."""
        code = KEYS.get(key) or ord(key.upper())
        text = {"text": key} if len(key) == 1 else {}
        self.send(
            "Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, autoRepeat=repeat, **text
        )
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def ready(self) -> str:
        """Wait until the page takes an answer (or is finished) and say for which question."""
        return str(self.wait("document.body?.dataset.ready || ''"))

    def picture(self, path: Path) -> None:
        found = self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))
