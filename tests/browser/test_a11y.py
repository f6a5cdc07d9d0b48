# ruff: noqa: E501 - markup
"""The accessibility check itself: it finds nothing in a good page, and in a bad one exactly what is bad."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from .a11y import check
from .devtools import Browser, Tab

STYLE = """body { background: #fff; color: #222; font: 16px sans-serif; } a { color: #1f57c3; } .unseen { position: absolute; clip-path: inset(50%); }
  button, input { min-height: 30px; min-width: 60px; } .dark { background: #222; color: #eee; } .hidden { display: none; }"""
GOOD = """
  <h1>A page</h1> <section aria-label="Things"><h2>Things</h2><ul><li>One</li></ul></section>
  <p>Words with <a href="#main">a link</a>.</p>
  <label>Name <input></label> <label for="b">Other</label><input id="b"> <input aria-label="Third" placeholder="x">
  <button>Do</button> <button aria-label="Load this">Load</button> <img src="data:," alt="A fox"> <img src="data:," alt="">
  <table><caption>Figures</caption><thead><tr><th>Name<th class="hidden"></thead><tbody><tr><td>1<td class="hidden"></tbody></table>
  <div role="grid" aria-label="Rows" aria-rowcount="1" tabindex="0"><div role="row" aria-rowindex="1" aria-selected="true"><span role="gridcell">x</span></div></div>
  <div role="progressbar" aria-label="Loading" aria-valuenow="4"></div> <dl><dt>a</dt><dd>b</dd></dl>
  <div style="height: 40px; overflow: auto" tabindex="0" role="region" aria-label="Long"><p style="height: 90px">Long</p></div>
  <p class="dark">On dark</p> <p style="color: #fff; background: linear-gradient(#222, #444)">Shaded</p> <button disabled style="color: #ddd">Not now</button>
  <svg role="img" aria-label="A curve"><rect width="60" height="30" fill="#222"></rect><text x="5" y="20" fill="#eee">On it</text></svg>
"""
BAD = {
    "button-name": "<button></button>",
    "link-name": "<a href='#main'><img src='data:,' alt=''></a>",
    "image-alt": "<img src='data:,'>",
    "label": "<input>",
    "label-title-only": "<input placeholder='Your name'>",
    "aria-progressbar-name": "<div role='progressbar' aria-valuenow='1'></div>",
    "aria-dialog-name": "<div role='dialog'><p>Words</p></div>",
    "grid-name": "<div role='grid'></div>",
    "empty-heading": "<h2></h2>",
    "heading-order": "<h4>Deep</h4>",
    "page-has-heading-one": "<h1>Another</h1>",
    "label-content-name-mismatch": "<button aria-label='Load alpha'>Fetch</button>",
    "landmark-unique": "<nav aria-label='Pages'>Same name</nav>",
    "landmark-one-main region": "<script>document.querySelector('main').setAttribute('role', 'group')</script>",
    "region": "<script>document.body.append('Outside')</script>",
    "duplicate-id": "<i id='b'></i>",
    "tabindex": "<p tabindex='3'>x</p>",
    "list": "<ul><p>x</p></ul>",
    "listitem": "<li>x</li>",
    "dlitem": "<dd>x</dd>",
    "definition-list": "<dl><p>x</p></dl>",
    "table-name": "<table><thead><tr><th>a</thead></table>",
    "empty-table-header": "<table aria-label='t'><thead><tr><th></thead></table>",
    "td-headers": "<table aria-label='t'><thead><tr><th>a</thead><tbody><tr><td>1<td>2</tbody></table>",
    "aria-roles": "<div role='buton'>x</div>",
    "aria-valid-attr": "<p aria-lable='x'>x</p>",
    "aria-valid-attr-value": "<button aria-pressed='yes'>x</button>",
    "aria-allowed-attr": "<div role='img' aria-label='a' aria-pressed='true'>x</div>",
    "aria-prohibited-attr": "<span aria-label='name'>x</span>",
    "aria-required-attr": "<div role='checkbox' aria-label='a' tabindex='0'></div>",
    "aria-required-parent": "<div role='row'></div>",
    "aria-hidden-focus": "<p aria-hidden='true'><button>x</button></p>",
    "nested-interactive": "<button>a <span tabindex='0'>b</span></button>",
    "focusable": "<div role='button'>x</div>",
    "scrollable-region-focusable": "<div style='height: 40px; overflow: auto'><p style='height: 90px'>x</p></div>",
    "target-size": "<button style='min-height: 9px; min-width: 9px; height: 9px; width: 9px; padding: 0'>a</button>"
    * 2,
    "color-contrast": "<p style='color: #999'>Grey on white</p>",
    "html-has-lang": "<script>document.documentElement.lang = ''</script>",
    "document-title": "<script>document.title = ''</script>",
    "skip-link": "<script>document.querySelector('.skip').href = '#nobody'</script>",
}
# other ways to be hard to read
FAINT = [
    "<p style='opacity: .5'>Half of black</p>",
    "<p style='color: rgb(0 0 0 / 40%)'>Thin</p>",
    "<p style='color: #fff; background: linear-gradient(#222, #ddd)'>Across</p>",
    "<div style='position: relative'><i style='position: absolute; inset: 0; background: #777'></i><b style='position: relative'>Over</b></div>",
    "<svg role='img' aria-label='x'><rect width='90' height='30' fill='#777'></rect><text x='5' y='20' fill='#555'>On grey</text></svg>",
    "<label>Name <input placeholder='pale' class='pale'></label><style>.pale::placeholder { color: #ccc; opacity: 1 }</style>",
    "<p style='color: color-mix(in srgb, #000 40%, #fff)'>Mixed</p>",
]


def found(browser: Browser, body: str) -> list[str]:
    """What the check says of a page with this in its main part."""
    page = f"""<!doctype html><html lang="en"><title>Page</title><style>{STYLE}</style><body>
      <a class="skip" href="#main">Skip</a><header><nav aria-label="Pages"><a href="#main">Here</a></nav></header><main id="main">{body}</main>"""
    with browser.tab("data:") as tab:
        tab.ask("Page.navigate", url=f"data:text/html;charset=utf-8,{quote(page)}")
        tab.until("document.readyState === 'complete' && document.querySelector('header')")
        return check(tab)


def test_a_good_page_is_good(browser: Browser) -> None:
    """Nothing is found where nothing is wrong."""
    assert found(browser, GOOD) == []


@pytest.mark.parametrize("rule", BAD)
def test_a_fault_is_found(browser: Browser, rule: str) -> None:
    """And nothing else."""
    assert {one.partition(":")[0] for one in found(browser, GOOD + BAD[rule])} == set(rule.split())


@pytest.mark.parametrize("body", FAINT)
def test_what_cannot_be_read_is_found(browser: Browser, body: str) -> None:
    """Whatever makes it so."""
    assert {one.partition(":")[0] for one in found(browser, GOOD + body)} == {"color-contrast"}


def test_a_tab_sees_what_goes_wrong(browser: Browser, pretended: str) -> None:
    """Each of: a word on the console, an exception, a violation, a refusal, another host."""
    wrong: dict[str, str] = {
        "console.error: no": "console.error('no')",
        "exception: Error: thrown": "setTimeout(() => { throw new Error('thrown') })",
        "console.error: CSP: style-src-attr": "document.body.setAttribute('style', 'color: red')",
        "404 GET": "fetch('/admin/none')",
        "a request to another host": "document.body.append(Object.assign(new Image(), { src: 'http://192.0.2.1/x.png' }))",
    }
    with browser.tab(pretended) as tab:
        tab.go("usage")
        for words, script in wrong.items():
            assert not _said(tab, words)
            tab.run(f"{script}; 0")
            tab.until("new Promise((done) => setTimeout(done, 20, true))")
            assert _said(tab, words), (words, tab.troubles)
        tab.forgive("")


def _said(tab: Tab, words: str) -> bool:
    return any(words in one for one in tab.troubles)
