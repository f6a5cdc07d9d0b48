"""A walk through a real gateway's dashboard, as an operator takes it. Whatever goes wrong in a page fails it (see devtools.py)."""

from __future__ import annotations

from tests.cli.gateways import ADMIN_KEY

from .devtools import Browser, Tab
from .house import House, enter


def test_a_key_lets_in_and_a_wrong_one_does_not(browser: Browser, gateway: House) -> None:
    """The session is a cookie that no script can read; after logging out nothing is shown or told."""
    with browser.tab(gateway.url) as tab:
        tab.open("/")
        tab.shows("Log in to Roundhouse", "h1")
        tab.forgive("^401 POST .*/admin/login")
        tab.fill("input[name=key]", "not-the-key")
        tab.press("Enter")
        tab.shows("This key is not known", "[role=alert]")
        tab.fill("input[name=key]", ADMIN_KEY)
        tab.click("button", "Log in")
        tab.shows("Now", "h1")
        tab.until("document.getElementById('link').textContent === 'Live'")
        assert tab.run("document.cookie") == ""

        tab.go("models")  # the session outlives the page
        tab.shows("alpha", "td.name")
        tab.click("button", "Log out")
        tab.shows("Log in to Roundhouse", "h1")
        tab.forgive("^401 GET .*/admin/residency")
        assert tab.run("fetch('/admin/residency').then((answer) => answer.status)") == 401


def test_a_load_is_seen_to_progress(browser: Browser, gateway: House) -> None:
    """How far it is can be told from its second load on: the first is timed."""
    gateway.act("alpha", "load")
    gateway.act("alpha", "unload")
    with browser.tab(gateway.url) as tab:
        enter(tab, "models")
        tab.click("button", "Load alpha")
        bar = "Number(rowOf('alpha').querySelector('[role=progressbar]')?.ariaValueNow)"
        first = tab.until(f"{bar} > 0 && {bar}")
        assert first < 100
        assert first < tab.until(f"{bar} > {first} && {bar}") < 100
        tab.until("rowOf('alpha').innerText.includes('ready')")
        tab.shows("alpha is ready after", ".toast")
        assert gateway.phases() == {"alpha": "ready"}


def test_a_model_is_pinned_and_unpinned(browser: Browser, gateway: House) -> None:
    """On its row and in the gateway."""
    gateway.act("alpha", "load")
    with browser.tab(gateway.url) as tab:
        enter(tab, "models")
        tab.click("button", "Pin alpha")
        tab.until("rowOf('alpha').innerText.includes('pinned')")
        assert gateway.residency()["residents"][0]["pinned"] is True
        tab.click("button", "Unpin alpha")
        tab.until("!rowOf('alpha').innerText.includes('pinned')")
        assert gateway.residency()["residents"][0]["pinned"] is False


def test_an_eviction_happens_before_ones_eyes(browser: Browser, gateway: House) -> None:
    """Another client asks for a third model: who leaves, for whom and why is said, and the memory is seen to change hands."""
    gateway.act("alpha", "load")
    gateway.act("beta", "load")
    with browser.tab(gateway.url) as tab:
        enter(tab)
        tab.until("rowOf('alpha') !== undefined && rowOf('beta') !== undefined")
        answer = gateway.chat_meanwhile("gamma")
        told = tab.until("said('.decisions li').find((words) => words.includes('evicted alpha for gamma: '))")
        assert "MiB needed" in told
        assert "MiB free" in told
        assert "alpha idle" in told
        tab.until("rowOf('gamma')?.innerText.includes('loading')")
        tab.until("rowOf('gamma')?.innerText.includes('ready') && rowOf('alpha') === undefined")
        tab.until("said('.seg b').includes('gamma') && !said('.seg b').includes('alpha')")
        assert answer.result().status_code == 200
        tab.until("said('#announcer')[0] !== ''")  # who cannot see it is told


def test_requests_are_seen_as_they_come_and_go(browser: Browser, gateway: House) -> None:
    """In Activity: while it runs, then with its status; the ones that failed by a filter; one of them in detail."""
    gateway.act("alpha", "load")
    badges = "said('.req .badge').join()"
    with browser.tab(gateway.url) as tab:
        enter(tab, "activity")
        tab.shows("No request has been made yet", ".empty-list")
        answer = gateway.chat_meanwhile("alpha", max_tokens=60)
        tab.until(f"{badges} === 'waiting'")
        assert answer.result().status_code == 200
        tab.until(f"{badges} === '200'")
        assert gateway.chat("nobody").status_code == 404
        tab.until(f"{badges} === '404,200'")
        tab.choose("Status", "errors")
        tab.until(f"{badges} === '404'")
        tab.click(".req[data-at='0']")
        tab.shows("model_not_found", ".detail-body")


def test_usage_adds_up(browser: Browser, gateway: House) -> None:
    """What was asked for, by model and key, and as a file."""
    for _ in range(3):
        assert gateway.chat("alpha", max_tokens=4).status_code == 200
    with browser.tab(gateway.url) as tab:
        enter(tab, "usage")
        tab.until("said('.tiles dd')[0] === '3'")
        tab.shows("alpha", ".share-cell")
        link = "[...document.querySelectorAll('a.button')].find((one) => one.textContent === 'CSV').href"
        lines = tab.run(f"fetch({link}).then((answer) => answer.text())").strip().splitlines()
        assert len(lines) == 4
        assert sum("alpha" in line for line in lines) == 3


def test_the_timeline_shows_who_was_in_memory(browser: Browser, gateway: House) -> None:
    """A bar from its load on, with words; and the same as a table."""
    gateway.act("alpha", "load")
    gateway.chat("alpha", max_tokens=1)
    with browser.tab(gateway.url) as tab:
        enter(tab, "timeline?hours=1")
        words = "[...document.querySelectorAll('.tl [data-words]')].map((one) => one.dataset.words)"
        tab.until(f"{words}.some((said) => said.includes('alpha') && said.includes('ready'))")
        tab.click("button", "As a table")
        tab.shows("alpha", "table")


def test_a_key_is_made_used_and_revoked(browser: Browser, gateway: House) -> None:
    """It is shown once, works at once for what it may, and from its revocation on does not."""
    with browser.tab(gateway.url) as tab:
        enter(tab, "settings")
        tab.click("button", "New key")
        tab.fill("dialog input[name=name]", "laptop")
        tab.fill("dialog input[name=models]", "alpha, beta")
        tab.click("dialog button", "Create")
        tab.shows("cannot be shown again", "dialog")
        key = tab.run("document.querySelector('dialog input').value")
        tab.click("dialog button", "I have copied it")
        tab.shows("laptop", "td.name")
        assert gateway.chat("alpha", key).status_code == 200
        assert gateway.chat("gamma", key).status_code == 403
        tab.click("button", "Revoke laptop")
        tab.click("dialog button.danger", "Revoke")
        tab.until("!document.querySelector('dialog') && !said('td.name').some((words) => words.includes('laptop'))")
        assert gateway.chat("alpha", key).status_code == 401
        assert key not in tab.run("document.documentElement.outerHTML")


def tab_to(tab: Tab, name: str, most: int = 60) -> None:
    """With the tab key only. Raises: AssertionError: it is not reached."""
    for _ in range(most):
        tab.press("Tab")
        if tab.focused() == name:
            return
    raise AssertionError(f"{name} is not reached by the keyboard; the focus is at {tab.focused()}")


def test_the_keyboard_is_enough(browser: Browser, gateway: House) -> None:
    """To log in, go to a page, look at what a load would cost and agree; without a mouse, and the focus is never lost."""
    gateway.act("alpha", "load")
    gateway.act("beta", "load")
    with browser.tab(gateway.url) as tab:
        tab.open("/")
        tab.shows("Log in", "h1")
        tab.type(ADMIN_KEY)  # the focus is there already
        tab.press("Enter")
        tab.shows("Now", "h1")
        tab.go("now")
        tab.press("Tab")
        assert tab.focused() == "Skip to the content"
        tab.press("Enter")
        tab.until("document.activeElement.id === 'main'")
        tab.go("now")
        tab_to(tab, "Models")
        tab.press("Enter")
        tab.shows("Models", "h1")
        tab.until("rowOf('gamma') !== undefined")
        tab_to(tab, "Load gamma")
        tab.press("Enter")
        tab.until("document.querySelector('dialog')?.contains(document.activeElement)")
        tab.shows("alpha", "dialog")
        tab.press("Escape")
        tab.until("!document.querySelector('dialog')")
        assert tab.focused() == "Load gamma"
        tab.press("Space")
        tab.until("document.activeElement.textContent === 'Evict and load'")
        tab.press("Enter")
        tab.until("rowOf('gamma').innerText.includes('ready')")
        assert tab.focused().endswith("gamma")  # still at its buttons, though they are others
        assert gateway.phases() == {"beta": "ready", "gamma": "ready"}
