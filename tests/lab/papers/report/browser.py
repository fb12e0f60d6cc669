"""A real browser without a window, driven over the WebDriver protocol."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

# So that it starts without a screen, asks nobody for anything, and leaves nothing behind.
_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1200,900",
)  # fmt: skip
_START_SECONDS, _ANSWER_SECONDS = 30.0, 60.0


class Browser:
    """A window with one page."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, path: Path) -> None:
        self._ask("POST", "/url", {"url": path.absolute().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, where the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def drag(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """Press the button of the mouse at one place and let go of it at another, in pixels of the window."""
        move = {"type": "pointerMove", "duration": 20, "origin": "viewport"}
        actions = [
            {**move, "x": round(x), "y": round(y)},
            {"type": "pointerDown", "button": 0},
            {**move, "x": round((x + to_x) / 2), "y": round((y + to_y) / 2)},
            {**move, "x": round(to_x), "y": round(to_y)},
            {"type": "pointerUp", "button": 0},
        ]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
        self._ask("POST", "/actions", {"actions": [mouse]})

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of the browser's own protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def resize(self, width: int, height: int = 900, *, scheme: str = "light") -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def complaints(self) -> list[str]:
        """What the console has heard since it was last asked."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def _ask(self, method: str, place: str, body: Any = None) -> Any:
        return _ask(method, f"{self._session}{place}", body)


@contextmanager
def a_browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with an empty profile, and end it."""
    assert DRIVER is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    driver = subprocess.Popen(
        [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        root = f"http://127.0.0.1:{port}"
        _wait(root)
        options = {"binary": BROWSER, "args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        found = _ask("POST", f"{root}/session", {"capabilities": {"alwaysMatch": wanted}})
        session = f"{root}/session/{found['sessionId']}"
        try:
            yield Browser(session)
        finally:
            _ask("DELETE", session)
    finally:
        driver.terminate()
        driver.wait(timeout=_START_SECONDS)


def _wait(root: str) -> None:
    """Wait until the driver listens."""
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            _ask("GET", f"{root}/status")
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def _ask(method: str, address: str, body: Any = None) -> Any:
    """Ask the driver, and give the value of its answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    # No proxy of the machine has a say in what goes on within it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_ANSWER_SECONDS) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(json.load(error)["value"]) from None
