"""When things are not as they should be: no model, a key that is taken back, a gateway that goes and comes."""

from __future__ import annotations

from pathlib import Path

from tests.cli.gateways import ADMIN_KEY, served

from .devtools import Browser, Tab
from .house import House, configuration, enter, house

NO_MODEL = "[server]\nport = 0\n"
LIVE = "document.getElementById('link').textContent === 'Live'"


def move(tab: Tab, page: str) -> None:
    """As a person does: by the address, without loading the document anew."""
    tab.run(f"location.hash = '#/{page}'")


def test_who_has_no_model_is_told_what_to_do(browser: Browser, tmp_path: Path) -> None:
    """On every page where one looks first; without a key, no login is asked for."""
    with served(tmp_path, NO_MODEL) as gateway, browser.tab(gateway.url) as tab:
        for page, place in (("now", ".residents"), ("models", ".card .empty"), ("playground", ".play-chat .empty")):
            tab.go(page)
            tab.shows("Fetch a small one with roundhouse pull", place)
        tab.go("activity")
        tab.shows("No request has been made yet", ".empty-list")
        # in sight, not below an empty list
        assert tab.run("document.querySelector('.empty-list p').getBoundingClientRect().top") < 400
        tab.go("timeline")
        tab.shows("Load one of the Models", ".empty")


def test_a_key_that_is_taken_back_is_told_nothing_more(browser: Browser, gateway: House) -> None:
    """Also where the page asks for nothing: the stream itself ends within seconds, and the login says why."""
    key = gateway.admin.post("/admin/keys", json={"name": "ops", "admin": True}).raise_for_status().json()
    with browser.tab(gateway.url) as tab:
        tab.open("/")
        tab.fill("input[name=key]", key["key"])
        tab.press("Enter")
        tab.until(LIVE)
        tab.forgive("^401 GET ")
        gateway.admin.delete(f"/admin/keys/{key['id']}").raise_for_status()
        tab.shows("Log in to Roundhouse", "h1")
        tab.shows("Your session is over", "[role=alert]")


def test_a_stream_that_is_taken_up_again_is_no_news(browser: Browser, gateway: House) -> None:
    """Its end is announced: the page says Live all the time, and what happens is told once."""
    with browser.tab(gateway.url) as tab:
        enter(tab)
        tab.run(
            "globalThis.words = new Set(); new MutationObserver(() => words.add(document.getElementById('link').textContent))"
            ".observe(document.getElementById('link'), { childList: true, characterData: true, subtree: true })"
        )
        before = sum("/admin/live" in one for one in tab.requests.values())
        tab.until(
            f"{LIVE} && performance.getEntriesByType('resource').filter(({{ name }}) => name.endsWith('/live')).length > 0"
        )
        gateway.act("alpha", "load")
        tab.until("said('.decisions li').filter((words) => words.includes('loaded alpha')).length === 1")
        assert sum("/admin/live" in one for one in tab.requests.values()) > before
        assert tab.run("[...words]") == []


def test_a_gateway_that_goes_and_comes(browser: Browser, tmp_path: Path) -> None:
    """Other pages can be looked at meanwhile and say what is wrong; when it is back, the page is whole by itself."""
    with served(tmp_path, NO_MODEL) as gateway, browser.tab(gateway.url) as tab:
        port = gateway.url.rpartition(":")[2]
        tab.go("now")
        tab.until(LIVE)
        fetched = "performance.getEntriesByType('resource').some(({ name }) => name.endsWith('/pages/settings.js'))"
        tab.until(fetched)
        tab.forgive("ERR_CONNECTION|ERR_EMPTY|ERR_INCOMPLETE")
        gateway.stop()
        tab.shows("The connection to the gateway is lost", ".banner")
        assert tab.run("document.querySelectorAll('.banner').length") == 1
        move(tab, "usage")
        tab.shows("The gateway cannot be reached", ".failed")
        with served(tmp_path / "again", NO_MODEL, "--port", port):
            tab.until(LIVE)
            tab.until("said('.tiles dd')[0] === '0'")
            assert tab.run("document.querySelectorAll('.banner').length") == 0


def test_what_is_being_worked_on_does_not_wait(browser: Browser, gateway: House) -> None:
    """A request that has its model is not "queued", and its age is counted from its beginning, whenever one looks."""
    gateway.act("alpha", "load")
    with browser.tab(gateway.url) as tab:
        enter(tab)
        answer = gateway.chat_meanwhile("alpha", max_tokens=250)
        working = "said('[aria-label=\"Requests in progress\"] tbody tr')[0]"
        tab.until(f"{working}?.includes('working')")
        tab.until(f"Number(/(\\d+) s$/.exec({working})?.[1]) >= 1")
        tab.go("now")  # a new document
        tab.until(f"Number(/(\\d+) s$/.exec({working})?.[1]) >= 1", 1.0)
        assert answer.result().status_code == 200


def test_usage_goes_on_by_itself(browser: Browser, gateway: House) -> None:
    """What is asked while one looks is added."""
    with browser.tab(gateway.url) as tab:
        enter(tab, "usage")
        tab.until("said('.tiles dd')[0] === '0'")
        assert gateway.chat("nobody").status_code == 404
        tab.until("said('.tiles dd')[0] === '1'", 15)


def test_the_playground_answers_while_one_looks_elsewhere(browser: Browser, gateway: House) -> None:
    """And a model's "Try it" leads to that model, whatever was chosen before."""
    with browser.tab(gateway.url) as tab:
        enter(tab, "playground?model=alpha")
        tab.until("document.querySelector('.model-field input')?.value === 'alpha'")
        tab.fill(".composer textarea", "hi")
        tab.press("Enter")
        tab.until("said('.turn').length === 2")
        move(tab, "now")
        tab.until("rowOf('alpha')?.innerText.includes('loading')")
        tab.until("rowOf('alpha')?.innerText.includes('ready')")
        move(tab, "playground")
        tab.shows("in all", ".figures")
        assert "stopped" not in tab.text(".figures")
        move(tab, "playground?model=beta")
        tab.until("document.querySelector('.model-field input')?.value === 'beta'")
        assert tab.run("said('.turn').length") == 2


def test_a_long_way_from_the_page_nothing_is_missing(browser: Browser, gateway: House) -> None:
    """More requests than a page of the list ended meanwhile: it begins anew, without a gap."""
    with browser.tab(gateway.url) as tab:
        enter(tab, "activity")
        tab.until("document.querySelector('.empty-list p')")
        gateway.chat("nobody")
        tab.shows("1 request", ".heading")
        tab.run("import('/dashboard/live.js').then(({ live }) => live.stop())")
        for _ in range(205):
            gateway.chat("nobody")
        tab.run("import('/dashboard/live.js').then(({ live }) => live.start())")
        tab.until(LIVE)
        tab.run("document.querySelector('.vlist').scrollTop = 1e6")
        tab.shows("206 requests", ".heading")


def test_a_model_that_did_not_load_says_so(browser: Browser, tmp_path: Path) -> None:
    """In the list and on its own page, also when its time of cooling down is over."""
    broken = '[models.broken]\ntargets = ["rig/broken"]\nmemory = "10MiB"\nargs = ["--say", "out of luck", "--fail-code", "3"]\n'
    with house(tmp_path, configuration(more=broken)) as gateway, browser.tab(gateway.url) as tab:
        assert gateway.chat("broken").status_code == 503
        enter(tab)
        tab.shows("out of luck", ".troubles")
        tab.click(".troubles a", "broken")
        tab.shows("its last load failed", "dl.facts")
        tab.go("models?show=trouble")
        tab.until("said('td.name a').join() === 'broken'")


def test_logging_out_leaves_nothing_behind(browser: Browser, gateway: House) -> None:
    """What was written in the Playground is not there for who logs in next."""
    with browser.tab(gateway.url) as tab:
        enter(tab, "playground")
        tab.fill(".composer textarea", "a secret of mine")
        tab.click("button", "Log out")
        tab.shows("Log in to Roundhouse", "h1")
        tab.fill("input[name=key]", ADMIN_KEY)
        tab.press("Enter")
        tab.until("document.querySelector('.composer textarea')?.value === ''")
