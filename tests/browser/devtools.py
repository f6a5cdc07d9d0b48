"""A real Chromium, driven over the DevTools protocol; and everything that goes wrong in its pages.

The law: a tab watches from before its first page on, and what it saw go wrong fails the test when the tab is closed: errors and
warnings on the console, exceptions, violations of the content security policy, requests that failed or went to another host.

The protocol goes through two pipes of ours, so that neither a driver, nor a port, nor a WebSocket is needed: JSON, ended by a zero
byte. Source: Chromium's `--remote-debugging-pipe` (content/browser/devtools/devtools_pipe_handler.cc), chromedevtools.github.io.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

Json = dict[str, Any]
WITHIN_S = 10.0  # a bound on every wait; a quiet machine needs a tenth of a second
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-default-apps",
    "--disable-features=Translate,MediaRouter,OptimizationHints",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--disable-background-timer-throttling",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
    "--lang=en-US",
    "--password-store=basic",
    "about:blank",
)
# the pipes must be the descriptors 3 and 4
_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
# In every page from its beginning: see watch.js.
_WATCH = Path(__file__).with_name("watch.js").read_text()
_KEYS = {
    "Enter": (13, "\r"),
    "Tab": (9, ""),
    "Escape": (27, ""),
    "Space": (32, " "),
    "ArrowDown": (40, ""),
    "End": (35, ""),
}


def find() -> str | None:
    """Where Chromium is installed, if it is; $ROUNDHOUSE_TEST_CHROMIUM names another one."""
    named = os.environ.get("ROUNDHOUSE_TEST_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


class Broken(AssertionError):
    """The browser, or what was asked of it, failed."""


class Browser:
    """A Chromium that runs. One thread may use it."""

    def __init__(self, process: subprocess.Popen[bytes], reads: int, writes: int) -> None:
        self._process = process
        self._reads = reads
        self._writes = writes
        self._buffer = b""
        self._number = 0
        self._answers: dict[int, Json] = {}
        self.heard: dict[str, Callable[[str, Json], None]] = {}  # session → who is told its events

    def ask(self, method: str, params: Json | None = None, session: str = "", within_s: float = WITHIN_S) -> Json:
        """One command and its answer. Raises: Broken."""
        self._number += 1
        number = self._number
        said = {"id": number, "method": method, "params": params or {}} | ({"sessionId": session} if session else {})
        data = json.dumps(said).encode() + b"\0"
        while data:
            data = data[os.write(self._writes, data) :]
        deadline_s = time.monotonic() + within_s
        while number not in self._answers:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise Broken(f"{method} {str(params)[:200]}: no answer within {within_s} s")
            self.listen(left_s)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise Broken(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def listen(self, for_s: float) -> None:
        """Take what comes, at most for so long; returns when something came."""
        if not select.select([self._reads], [], [], for_s)[0]:
            return
        piece = os.read(self._reads, 1 << 20)
        if not piece:
            raise Broken(f"Chromium ended with {self._process.wait(5)}")
        *whole, self._buffer = (self._buffer + piece).split(b"\0")
        for one in whole:
            message = json.loads(one)
            if "id" in message:
                self._answers[message["id"]] = message
            elif told := self.heard.get(message.get("sessionId", "")):
                told(message["method"], message["params"])

    @contextmanager
    def tab(self, base: str, *, width: int = 1440, height: int = 900, theme: str = "light") -> Generator[Tab]:
        """A window without a past: no cookies, no storage. Raises: Broken: at its end, where something had gone wrong in it."""
        context = self.ask("Target.createBrowserContext")["browserContextId"]
        try:
            target = self.ask("Target.createTarget", {"url": "about:blank", "browserContextId": context})["targetId"]
            session = self.ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
            tab = Tab(self, session, base)
            tab.begin(width, height, theme)
            yield tab
            if tab.troubles:
                raise Broken("\n".join(tab.troubles))
        finally:
            self.heard.clear()
            self.ask("Target.disposeBrowserContext", {"browserContextId": context})


class Tab:
    """One page and its inside. `base`: the only host it may speak to."""

    def __init__(self, browser: Browser, session: str, base: str) -> None:
        self.base = base
        self.troubles: list[str] = []
        self.requests: dict[str, str] = {}  # id → "GET URL"
        self._browser = browser
        self._session = session
        self._forgiven: list[str] = []

    def begin(self, width: int, height: int, theme: str) -> None:
        """Watch, and look as told."""
        self._browser.heard[self._session] = self._heard
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
        self.ask("Emulation.setFocusEmulationEnabled", enabled=True)
        self.resize(width, height)
        self.look(theme)

    def ask(self, method: str, **params: Any) -> Json:
        """One command to this page."""
        return self._browser.ask(method, params, self._session)

    def forgive(self, pattern: str) -> Self:
        """What this test provokes: matching troubles are none."""
        self._forgiven.append(pattern)
        self.troubles = [one for one in self.troubles if not re.search(pattern, one)]
        return self

    # ------------------------------------------------------------ what goes wrong

    def _heard(self, method: str, said: Json) -> None:
        trouble = self._trouble(method, said)
        if trouble and not any(re.search(pattern, trouble) for pattern in self._forgiven):
            self.troubles.append(trouble)

    def _trouble(self, method: str, said: Json) -> str:
        match method:
            case "Network.requestWillBeSent":
                url = said["request"]["url"]
                self.requests[said["requestId"]] = f"{said['request']['method']} {url}"
                own = url.startswith((self.base, "data:", "blob:"))
                return "" if own else f"a request to another host: {url}"
            case "Network.responseReceived" if said["response"]["status"] >= 400:
                return f"{said['response']['status']} {self.requests.get(said['requestId'], said['response']['url'])}"
            case "Network.loadingFailed" if not said.get("canceled"):
                return f"failed: {self.requests.get(said['requestId'])}: {said['errorText']}"
            case "Runtime.consoleAPICalled" if said["type"] in ("error", "warning", "assert"):
                words = [str(one.get("value", one.get("description", ""))) for one in said["args"]]
                return f"console.{said['type']}: {' '.join(words)}"
            case "Runtime.exceptionThrown":
                return f"exception: {_thrown(said['exceptionDetails'])}"
            # what the network has to say was told above, with its request
            case "Log.entryAdded" if (
                said["entry"]["level"] in ("error", "warning") and said["entry"]["source"] != "network"
            ):
                return f"log: {said['entry']['source']}: {said['entry']['text']}"
            case "Inspector.targetCrashed":
                return "the page crashed"
            case _:
                return ""

    # ------------------------------------------------------------ looking

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """A window of so many CSS pixels."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )

    def look(self, theme: str, *, calm: bool = True) -> None:
        """What the system prefers; `calm`: no animations."""
        preferred = {"prefers-color-scheme": theme, "prefers-reduced-motion": "reduce" if calm else "no-preference"}
        features = [{"name": name, "value": value} for name, value in preferred.items()]
        self.ask("Emulation.setEmulatedMedia", features=features)

    def run(self, script: str) -> Any:
        """The value of an expression, awaited. Raises: Broken: it threw."""
        done = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in done:
            raise Broken(f"{_thrown(done['exceptionDetails'])} in {script[:200]}")
        return done["result"].get("value")

    def until(self, script: str, within_s: float = WITHIN_S) -> Any:
        """The expression's first value that is truthy. Raises: Broken: there was none in time."""
        deadline_s = time.monotonic() + within_s
        look = f"(async () => {{ const value = await ({script}); return value instanceof Node ? true : value; }})()"
        while True:
            with contextlib.suppress(Broken):  # between two documents
                if value := self.run(look):
                    return value
            if time.monotonic() > deadline_s:
                shown = self.run("document.body.innerText.slice(0, 1500)")
                raise Broken(f"not within {within_s} s: {script}\n--- the page says\n{shown}\n--- {self.troubles}")
            self._browser.listen(0.03)

    def shows(self, words: str, css: str = "body", within_s: float = WITHIN_S) -> None:
        """Wait until these words can be read in such an element."""
        wanted = f"[...document.querySelectorAll({_js(css)})].some((node) => node.innerText?.includes({_js(words)}))"
        self.until(wanted, within_s)

    def text(self, css: str) -> str:
        """What the first such element says."""
        return str(self.run(f"document.querySelector({_js(css)}).innerText"))

    def picture(self) -> bytes:
        """What is to be seen, as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])

    # ------------------------------------------------------------ doing

    def go(self, page: str) -> None:
        """To a page of the dashboard, with its heading there: "models?show=local"."""
        self.open(f"/#/{page}")
        title = page.split("?")[0].split("/")[0].capitalize()
        self.until(f"document.title.startsWith({_js(title)}) && document.querySelector('#main h1') !== null")

    def open(self, path: str) -> None:
        """Load an address anew."""
        self.ask("Page.navigate", url="about:blank")
        self.ask("Page.navigate", url=self.base + path)
        self.until("document.readyState === 'complete' && location.protocol === 'http:'")

    def click(self, css: str, words: str | None = None) -> None:
        """With the mouse, where it is to be seen and nothing lies over it; waited for. `words`: its text or label."""
        x, y = self.until(f"pointAt({_js(css)}, {_js(words)})")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def rest(self) -> None:
        """The mouse out of the way: what it points at stands still."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)

    def press(self, key: str, times: int = 1, *, shift: bool = False) -> None:
        """A key, by its name."""
        code, text = _KEYS[key]
        name = " " if key == "Space" else key
        held = {"key": name, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        for _ in range(times):
            self.ask("Input.dispatchKeyEvent", type="keyDown", **held, **({"text": text} if text else {}))
            self.ask("Input.dispatchKeyEvent", type="keyUp", **held)

    def type(self, words: str) -> None:
        """Where the focus is."""
        self.ask("Input.insertText", text=words)

    def fill(self, css: str, words: str, label: str | None = None) -> None:
        """Into a field, instead of what is in it."""
        self.click(css, label)
        self.run("document.activeElement.select?.()")
        self.type(words)

    def choose(self, label: str, words: str) -> None:
        """An option of a list."""
        change = "list.value = [...list.options].find((one) => one.text === words).value; list.dispatchEvent(new Event('change'))"
        self.run(f"((list, words) => {{ {change} }})(seen('select', {_js(label)}), {_js(words)})")

    def focused(self) -> str:
        """What has the focus, as it is called."""
        return str(
            self.run(
                "((node) => node.ariaLabel || node.innerText?.trim() || node.name || node.tagName)(document.activeElement)"
            )
        )


def _js(value: object) -> str:
    return json.dumps(value)


def _thrown(details: Json) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])


@contextmanager
def chromium(path: str, folder: Path) -> Generator[Browser]:
    """Start it with a profile of its own in `folder`, and end it with the block, its children too."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # beyond 3 and 4, which the child needs
    given = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (theirs_in, theirs_out)]
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | {
        "HOME": str(folder)
    }
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-IS",
                "-c",
                _LAUNCH,
                *map(str, given),
                path,
                *FLAGS,
                f"--user-data-dir={folder / 'profile'}",
            ],
            pass_fds=given,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            start_new_session=True,
        )
    for one in (theirs_in, theirs_out, *given):
        os.close(one)
    try:
        yield Browser(process, ours_in, ours_out)
    finally:
        os.close(ours_out)  # the end of the pipe is the end of the browser
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(ours_in)
