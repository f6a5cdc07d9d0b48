"""Every page, wide and narrow, light and dark: readable for everybody, and not wider than the screen."""

from __future__ import annotations

import pytest

from .a11y import check
from .devtools import Browser, Tab
from .house import PAGES, House, enter

NARROW = 360
WIDE = 1440
HEIGHT = 1600  # so that most of a page is looked at
THERE = {
    "now": "document.querySelector('.seg.ready')",
    "models": "document.querySelectorAll('tbody tr').length > 2",
    "activity": "document.querySelector('.req[data-at]')",
    "usage": "document.querySelector('.share-cell')",
    "timeline": "document.querySelector('.tl [data-words]')",
    "playground": "document.querySelector('.composer')",
    "settings": "document.querySelectorAll('.in').length === 4",
}
LOOKS = pytest.mark.parametrize(("theme", "width"), [(t, w) for t in ("light", "dark") for w in (WIDE, NARROW)])


def see(tab: Tab, page: str) -> None:
    """A page with all that is on it."""
    tab.go(page)
    tab.until(f"Boolean({THERE[page.split('?')[0]]})")


def is_well(tab: Tab, where: str) -> None:
    """What stands there can be read, reached and operated, and is not wider than the screen."""
    assert check(tab) == [], where
    too_wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert tab.run(too_wide) == 0, f"{where}: it scrolls sideways"


@LOOKS
def test_every_page_is_well(browser: Browser, pretended: str, theme: str, width: int) -> None:
    """With 500 models and 2,000 requests of all kinds, some loading and some failing."""
    with browser.tab(pretended, theme=theme, width=width, height=HEIGHT) as tab:
        for page in PAGES:
            see(tab, page)
            is_well(tab, page)


@LOOKS
def test_what_opens_is_well(browser: Browser, pretended: str, theme: str, width: int) -> None:
    """A model, a request, dialogs, the other sides of the Playground, a page that is not there."""
    with browser.tab(pretended, theme=theme, width=width, height=HEIGHT) as tab:
        see(tab, "models?show=local")
        tab.click("td.name a")
        tab.until("document.querySelector('dl.facts dd')")
        is_well(tab, "a model")
        see(tab, "activity")
        tab.click(".req[data-at='3']")
        tab.until("document.querySelector('.detail-body dd')")
        is_well(tab, "a request")
        see(tab, "settings")
        tab.click("button", "New key")
        tab.until("document.querySelector('dialog:modal')")
        is_well(tab, "a new key")
        tab.fill("dialog input[name=name]", "phone")
        tab.click("dialog button", "Create")
        tab.shows("cannot be shown again", "dialog")
        is_well(tab, "the key")
        for side in ("compare", "embeddings", "load"):
            tab.go(f"playground/{side}")
            tab.until("document.querySelector('.page-playground input')")
            is_well(tab, side)
        tab.open("/#/nowhere")
        tab.shows("There is no such page", "h1")
        is_well(tab, "nowhere")


@LOOKS
def test_a_real_gateway_is_well(browser: Browser, gateway: House, theme: str, width: int) -> None:
    """Its login, and its pages after a load, an eviction and some requests."""
    gateway.act("alpha", "load")
    gateway.act("beta", "load")
    assert gateway.chat("gamma", max_tokens=2).status_code == 200
    gateway.chat("nobody")
    with browser.tab(gateway.url, theme=theme, width=width, height=HEIGHT) as tab:
        tab.open("/")
        tab.shows("Log in", "h1")
        is_well(tab, "login")
        enter(tab)
        for page in PAGES:
            see(tab, page)
            is_well(tab, page)


def test_trouble_is_well(browser: Browser, pretended: str) -> None:
    """Banners: the ledger is away, the gateway closes; and they go when that is over."""
    with browser.tab(pretended, height=HEIGHT) as tab:
        see(tab, "now")
        tab.run("fetch('/fake', { method: 'POST', body: JSON.stringify({ ledger: false, closing: true }) })")
        tab.shows("The ledger cannot be written", ".banner")
        tab.shows("shutting down", ".banner")
        is_well(tab, "banners")
        tab.go("activity?q=no-such-request")
        tab.shows("The ledger cannot be read now", ".empty-list")
        tab.run("fetch('/fake', { method: 'POST', body: JSON.stringify({ ledger: true, closing: false }) })")
        tab.until("document.querySelectorAll('.banner').length === 0")


def test_the_stream_comes_back(browser: Browser, pretended: str) -> None:
    """When the gateway ends it, the page goes on by itself."""
    with browser.tab(pretended) as tab:
        see(tab, "now")
        tab.until("document.getElementById('link').textContent === 'Live'")
        tab.run("fetch('/fake', { method: 'POST', body: JSON.stringify({ cut: true }) })")
        tab.until("document.getElementById('link').textContent === 'Connecting'")
        tab.until("document.getElementById('link').textContent === 'Live'")


def test_light_and_dark_follow_the_system_until_one_is_chosen(browser: Browser, pretended: str) -> None:
    """By the button; the choice outlives the page."""
    paper = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    with browser.tab(pretended, theme="dark") as tab:
        see(tab, "now")
        assert tab.run(paper) < 60
        tab.look("light")
        assert tab.run(paper) > 200
        tab.click("#theme")
        tab.click("#theme")
        assert tab.run("document.getElementById('theme').ariaLabel") == "Theme: dark"
        assert tab.run(paper) < 60
        see(tab, "settings")
        assert tab.run(paper) < 60
