"""A headless Chromium, driven over its DevTools protocol: open a page, ask it things, press keys, hear every complaint and request.

Tests that need it skip with the reason where no Chromium is installed.
"""

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--remote-debugging-port=0",
)
SECONDS = 60.0


@dataclass(kw_only=True)
class Page:
    """One open page; ``complaints`` are console errors, exceptions and log entries, ``requests`` every address that was asked for."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _socket: aiohttp.ClientWebSocketResponse
    _loop: asyncio.AbstractEventLoop
    _number: int = 0

    def open(self, path: Path, *, width: int = 1280, dark: bool = False) -> None:
        """Load a file and wait until it is there."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + SECONDS
        while self.ask("document.readyState") != "complete" or self.ask("location.protocol") != "file:":
            assert time.monotonic() < deadline, "the page was not loaded"

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path) -> None:
        """Keep a picture of the whole page."""
        found = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return what it answers."""
        return self._loop.run_until_complete(asyncio.wait_for(self._send(method, parameters), SECONDS))

    async def _send(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_str(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads((await self._socket.receive()).data)
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._hear(message.get("method", ""), message.get("params", {}))

    def _hear(self, event: str, what: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        said = event == "Runtime.consoleAPICalled" and what["type"] in {"error", "warning", "assert"}
        if said or event in {"Runtime.exceptionThrown", "Log.entryAdded"}:
            self.complaints.append(json.dumps(what))


@contextlib.contextmanager
def opened_browser() -> Iterator[Page]:
    """Start a browser for the length of a block; skip the test where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no headless browser: none of {', '.join(NAMES)} is installed")
    loop = asyncio.new_event_loop()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as browser,
    ):
        session, socket = None, None
        try:
            session, socket = loop.run_until_complete(_connected(_port(Path(profile) / "DevToolsActivePort")))
            yield Page(_socket=socket, _loop=loop)
        finally:
            if session is not None and socket is not None:
                loop.run_until_complete(_closed(session, socket))
            browser.terminate()
            loop.close()


def _port(path: Path) -> int:
    """Wait for the port that the browser has chosen."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if path.exists() and path.read_text(encoding="utf-8").count("\n"):
            return int(path.read_text(encoding="utf-8").splitlines()[0])
        time.sleep(0.05)
    pytest.skip("the headless browser did not start")


async def _connected(port: int) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    session = aiohttp.ClientSession()
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        targets = await answer.json()
    page = next(target for target in targets if target["type"] == "page")
    return session, await session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)


async def _closed(session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
    await socket.close()
    await session.close()
