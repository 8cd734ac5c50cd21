"""One browser with one page, spoken to over pipes."""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)


class Chromium:
    """One browser with one page; a context manager.

    `requests` are the URLs that pages asked for, `errors` the exceptions their scripts threw.
    """

    def __init__(self, width: int = 1400, height: int = 1000, timeout: float = 60):
        self._size, self._timeout = (width, height), timeout
        self.requests: list[str] = []
        self.errors: list[str] = []

    def __enter__(self) -> "Chromium":
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # The browser reads commands from descriptor 3 and writes answers to 4. Ours may be these,
        # swapped, so a small Python moves both out of the way first.
        move = (
            "import fcntl, os, sys\n"
            "pair = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]\n"
            "os.dup2(pair[0], 3), os.dup2(pair[1], 4), os.execv(sys.argv[3], sys.argv[3:])"
        )
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                move,
                str(to_read),
                str(to_write),
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-sync",
                "--disable-component-update",
                "--no-first-run",
                "--disable-dev-shm-usage",
                f"--user-data-dir={self._home.name}",
                "--remote-debugging-pipe",
                "about:blank",
            ],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer, self._number, self._session = b"", 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        answer = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = answer["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")
        self.resize(*self._size)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._home.cleanup()

    def call(self, method: str, **parameters: object) -> dict:
        """The result of one command of the DevTools protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda event: event.get("id") == self._number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _until(self, wanted) -> dict:
        end = time.monotonic() + self._timeout
        while True:
            while b"\0" in self._buffer:
                line, _, self._buffer = self._buffer.partition(b"\0")
                event = json.loads(line)
                if event.get("method") == "Network.requestWillBeSent":
                    self.requests.append(event["params"]["request"]["url"])
                if event.get("method") == "Runtime.exceptionThrown":
                    self.errors.append(json.dumps(event["params"]["exceptionDetails"]))
                if wanted(event):
                    return event
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                raise TimeoutError(f"Chromium said nothing for {self._timeout} s")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise RuntimeError("Chromium ended")
            self._buffer += data

    def open(self, url: str) -> None:
        """Loads a page and waits for its load event."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self._until(lambda event: event.get("method") == "Page.loadEventFired")
        while self.run("location.href === 'about:blank' || document.readyState !== 'complete'"):
            self._until(lambda event: "method" in event)

    def run(self, script: str) -> object:
        """The value of a JavaScript expression in the page; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def scheme(self, name: str) -> None:
        """Sets what the system is said to prefer: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.call("Emulation.setEmulatedMedia", features=features)
