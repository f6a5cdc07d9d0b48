"""Pictures of every page for the documentation: `python -m tests.browser.screenshots [FOLDER]`, or `make screenshots`.

What is on them is made up: the pretended gateway of the dashboard's tests, which has lived through six hours in a moment.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.dashboard.fake_admin import Admin, serving
from tests.dashboard.fake_world import World
from tests.fakes.background import in_background

from .devtools import Browser, Tab, chromium, find
from .house import PAGES

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
SIZES = {1440: (850, 0.8), 360: (740, 1.25)}  # width → height, pixels of the picture for each of the page's
BYTES_MAX = 150_000
HOURS = 6
TURN_S = 2.0


def lived() -> World:
    """A small house after a month and a working day."""
    world = World(models=46, rows=2400)
    now_s = time.time()
    begun_s = now_s - HOURS * 3600
    for row in world.rows:
        row["at_us"] = int((begun_s - (now_s - row["at_us"] / 1e6) * 24) * 1e6)
    for resident in world.residents.values():
        resident |= {name: value - HOURS * 3600 for name, value in resident.items() if name.endswith("_at")}
    for span in world.spans:
        span["from_s"] = begun_s
    at_s = begun_s
    while at_s < now_s:
        at_s += TURN_S
        world.tick(at_s)
    world.rows.sort(key=lambda row: row["at_us"], reverse=True)
    return world


def prepare(tab: Tab, page: str) -> None:
    """The page with something on it."""
    tab.go(page)
    match page:
        case "now":
            tab.until("document.querySelectorAll('.seg.ready').length > 2")
        case "playground":
            tab.fill(".composer textarea", "What is a roundhouse?")
            tab.press("Enter")
            tab.shows("in all", ".figures")
        case "settings":
            tab.until("document.querySelectorAll('.in').length === 4")
        case _:
            tab.until("document.querySelector('.share-cell, .tl [data-words], .req[data-at], tbody tr')")
    tab.rest()


def take(browser: Browser, base: str, folder: Path) -> list[str]:
    """All of them. Returns what is too large."""
    heavy: list[str] = []
    for width, (height, scale) in SIZES.items():
        with browser.tab(base, width=width, height=height) as tab:
            tab.resize(width, height, scale)
            tab.ask("Emulation.setScrollbarsHidden", hidden=True)
            for page in PAGES:
                prepare(tab, page)
                picture = tab.picture()
                path = folder / f"{page}-{width}.png"
                path.write_bytes(picture)
                sys.stdout.write(f"{path} {len(picture) // 1000} kB\n")
                if len(picture) > BYTES_MAX:
                    heavy.append(path.name)
    return heavy


def main() -> int:
    """The exit code."""
    chromium_path = find()
    if chromium_path is None:
        sys.stderr.write("Chromium is needed: on Debian, apt-get install chromium\n")
        return 1
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    # the profile of a browser that ends may still be written to
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        chromium(chromium_path, Path(profile)) as browser,
        in_background(serving(Admin(lived()))) as base,
    ):
        heavy = take(browser, base, folder)
    if heavy:
        sys.stderr.write(f"larger than {BYTES_MAX // 1000} kB: {', '.join(heavy)}\n")
    return 1 if heavy else 0


if __name__ == "__main__":
    sys.exit(main())
