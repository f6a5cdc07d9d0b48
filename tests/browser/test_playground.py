"""SmolLM2 in the Playground of a real gateway: an answer as it is written, and one that is stopped."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.journeys.test_real_engines import weights

from .devtools import Browser, Tab
from .house import House, configuration, enter, house

pytestmark = pytest.mark.engine

WORDS = "said('.turn:not(.turn-user) > .said').at(-1)?.length"  # of the last answer, so far


@pytest.fixture
def gateway(browser: Browser, tmp_path: Path) -> Generator[House]:
    """One with the real engine."""
    source = weights()
    if source is None or not source.is_file():
        pytest.skip("no GGUF: set ROUNDHOUSE_TEST_GGUF, or run `roundhouse pull`")
    with house(tmp_path, configuration(source)) as found:
        yield found


def say(tab: Tab, words: str) -> None:
    """To the model, in the Playground."""
    tab.until("document.querySelector('.model-field input')?.value === 'small'")
    tab.fill(".composer textarea", words)
    tab.press("Enter")


def test_a_real_answer_is_seen_as_it_is_written(browser: Browser, gateway: House) -> None:
    """Its model is loaded by the first message; then it stands in Activity, in Usage and on the Timeline, with the same tokens."""
    with browser.tab(gateway.url) as tab:
        enter(tab, "playground?model=small")
        tab.fill("input[type=number]", "60", "Most tokens")
        say(tab, "Tell me a long story of a fox.")
        first = tab.until(f"{WORDS} > 0 && {WORDS}", 20)
        tab.until(f"{WORDS} > {first}")
        told = tab.until("said('.figures').find((words) => words.includes('in all'))")
        assert "tokens/s" in told

        tab.go("activity")
        tab.until("said('.req .badge').join() === '200'")
        assert tab.text(".req[data-at='0'] .req-model") == "small"
        completion = tab.text(".req[data-at='0'] .req-tokens").split()[-1]
        assert f"{completion} tokens" in told
        tab.go("usage")
        tab.until("said('.tiles dd')[0] === '1'")
        tab.shows("small", ".share-cell")
        tab.go("timeline?hours=1")
        tab.until(
            "[...document.querySelectorAll('.tl [data-words]')].some((one) => one.dataset.words.includes('small'))"
        )


def test_stopping_frees_the_model(browser: Browser, gateway: House) -> None:
    """At once, and the ledger knows that the caller left."""
    gateway.act("small", "load")
    with browser.tab(gateway.url) as tab:
        enter(tab, "playground?model=small")
        tab.fill("textarea.mono", '{"ignore_eos": true}')  # it would not stop by itself for a minute
        say(tab, "Count from one to one thousand.")
        tab.until(f"{WORDS} > 0")
        assert gateway.leases() == 1
        tab.click("button", "Stop")
        tab.shows("stopped", ".figures")
        free = "fetch('/admin/residency').then((answer) => answer.json()).then((all) => all.residents[0].leases === 0)"
        tab.until(free, 2)
        tab.go("activity?status=left")
        tab.until("said('.req .badge').join() === 'left'")
        tab.click(".req[data-at='0']")
        tab.shows("caller left in the answer", ".detail-body")
