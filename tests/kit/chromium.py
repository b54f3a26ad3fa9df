"""Debian's Chromium, headless, driven through its pipe (DevTools protocol)."""

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.kit.parts import program
from tests.kit.ports import wait_for


class Chromium:
    """One browser with one page, for `with`. `profile` is a folder for it alone."""

    def __init__(self, profile: Path, language: str = "en") -> None:
        self._profile = profile
        self._language = language
        self._number = 0
        self._session = ""
        self._left = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> "Chromium":
        (from_us, to_browser), (from_browser, to_us) = os.pipe(), os.pipe()

        def as_the_browser_expects() -> None:
            read, write = os.dup(from_us), os.dup(to_us)
            os.dup2(read, 3)
            os.dup2(write, 4)

        self._process = subprocess.Popen(
            [
                program("chromium"), "--headless", "--no-sandbox", "--disable-gpu",
                "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
                f"--user-data-dir={self._profile}", "--remote-debugging-pipe",
                f"--lang={self._language}", f"--accept-lang={self._language}", "about:blank",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            close_fds=False, preexec_fn=as_the_browser_expects,
        )  # fmt: skip
        os.close(from_us)
        os.close(to_us)
        self._to, self._from = to_browser, from_browser
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network"):
            self._ask(f"{domain}.enable")
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait(20)
        os.close(self._to)
        os.close(self._from)

    def open(self, url: str) -> str:
        """Load a URL; return the resulting page."""
        self._ask("Page.navigate", url=url)
        return self._settled()

    def show(self, page: str) -> None:
        """Show this HTML in the current page: twice as fast as loading a file."""
        frame = self._ask("Page.getFrameTree")["frameTree"]["frame"]["id"]
        self._ask("Page.setDocumentContent", frameId=frame, html=page)
        self._settled()

    def press(self, selector: str) -> str:
        """Click on the element of a selector; return the page that follows."""
        self.run("document.title = 'pressed'")
        self.run(f"document.querySelector({json.dumps(selector)}).click()")
        wait_for(lambda: self.run("document.title") != "pressed", "the next page")
        return self._settled()

    def run(self, script: str) -> Any:
        """Return the value of a script; None if its page is left meanwhile."""
        found = self._ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found.get("result", {}).get("value")

    def requested(self) -> list[str]:
        """Every URL requested, in order, except the browser's own."""
        sent = [e["params"]["request"]["url"] for e in self.events
                if e["method"] == "Network.requestWillBeSent"]  # fmt: skip
        return [url for url in sent if not url.endswith("/favicon.ico")]

    def resize(
        self, width: int, height: int = 900, *, paper: bool = False, dark: bool = False
    ) -> None:
        """Show pages at this size (CSS pixels); with `paper`, as printed."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask(
            "Emulation.setEmulatedMedia",
            media="print" if paper else "screen", features=[scheme],
        )  # fmt: skip

    def screenshot(self, file: Path, **options: Any) -> None:
        file.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", **options)["data"]))

    def _settled(self) -> str:
        wait_for(lambda: self.run("document.readyState") == "complete", "the page")
        return str(self.run("document.documentElement.outerHTML"))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        order = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            order["sessionId"] = self._session
        os.write(self._to, json.dumps(order).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == self._number:
                if "navigated or closed" in str(message.get("error")):
                    return {}
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            if "method" in message:
                self.events.append(message)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            piece = os.read(self._from, 65_536)
            assert piece, "the browser has ended"
            self._left += piece
        raw, _, self._left = self._left.partition(b"\0")
        found: dict[str, Any] = json.loads(raw)
        return found
