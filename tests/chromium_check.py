"""Drives Debian's chromium without a window through its debugging pipe: real clicks, keys and screenshots."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any


class Chromium:
    """A browser with one page, a context manager; `errors` collects exceptions, console errors and blocked requests."""

    def __init__(self, binary: str, profile: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        (down, self._down), (self._up, up) = os.pipe(), os.pipe()
        command = [binary, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        command += [f"--user-data-dir={profile}", "--no-first-run", "--disable-dev-shm-usage", "about:blank"]
        # The browser reads commands on descriptor 3 and writes answers on 4.
        shell = ["bash", "-c", f'exec "$@" 3<&{down} 4>&{up} 2>/dev/null', "chromium", *command]
        self._process = subprocess.Popen(shell, pass_fds=(down, up), stdout=subprocess.DEVNULL, start_new_session=True)
        os.close(down)
        os.close(up)
        self._numbers, self._rest, self._session = itertools.count(1), b"", ""
        self.errors: list[str] = []
        self._size, self._dark = (width, height), dark

    def __enter__(self) -> Chromium:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self.resize(*self._size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self._dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # the session started above: the browser and its children
        self._process.wait()
        os.close(self._down)
        os.close(self._up)

    def resize(self, width: int, height: int) -> None:
        """Give the page a window of this many CSS pixels."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def open(self, path: Path) -> None:
        """Open a file as a double click would and wait until its script has run."""
        self._call("Page.navigate", url=path.resolve().as_uri())
        self.wait(f"document.readyState === 'complete' && location.href.endsWith({json.dumps(path.name)})")

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression in the page, promises awaited."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {json.dumps(answer['exceptionDetails'])[:400]}")
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 20.0) -> None:
        """Wait until a JavaScript expression holds; TimeoutError if it does not come to that."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} did not come true in {seconds:g} s; errors: {self.errors}")
            time.sleep(0.05)

    def press(self, key: str, code: int = 0) -> None:
        """Press and release a key; `code` is its Windows virtual key code, which moves sliders and closes dialogs."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind, more in (("keyDown", text), ("keyUp", {})):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def click(self, selector: str) -> None:
        """Click into the middle of an element."""
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def hover(self, selector: str) -> None:
        """Move the pointer to the middle of an element."""
        x, y = self.middle(selector)
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def middle(self, selector: str) -> tuple[float, float]:
        """Where the middle of an element is in the window, scrolled into view."""
        found = f"document.querySelector({json.dumps(selector)})"
        box = self.run(
            f"(() => {{ {found}.scrollIntoView({{ block: 'center' }}); const b = {found}.getBoundingClientRect(); "
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        return box[0], box[1]

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """PNG of the window, or of the whole page."""
        answer = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._down, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _read(self, seconds: float = 60.0) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._up], [], [], seconds)
            piece = os.read(self._up, 1 << 20) if ready else b""
            if not piece:
                raise TimeoutError("chromium does not answer")
            self._rest += piece
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what a person would see as red lines in the console, and every request that leaves the file."""
        method, data = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(data["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif method == "Runtime.consoleAPICalled" and data["type"] in ("error", "warning"):
            self.errors.append(json.dumps(data["args"]))
        elif method == "Log.entryAdded" and data["entry"]["level"] in ("error", "warning"):
            self.errors.append(data["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not data["request"]["url"].startswith(("file:", "data:")):
            self.errors.append(f"request to {data['request']['url']}")
