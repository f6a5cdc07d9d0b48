"""The dashboard's files on the wire: types, policy, caching, and that nothing else of this machine can be had."""

from __future__ import annotations

import gzip
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.api.dashboard import FOLDER, PREFIX, TYPES, dashboard_routes, files_in, wants_page
from tests.fakes.running import Answer, ask

from .small import small

INDEX = {"name": "roundhouse", "openai_base_url": "/v1"}
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
BIG = b"export const x = 1;\n" * 200
PAGE = [("accept", "text/html,application/xhtml+xml,*/*;q=0.8")]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a page, a module, and what must not be served."""
    tmp_path = tmp_path_factory.mktemp("site")
    inside = tmp_path / "dashboard"
    (inside / "pages").mkdir(parents=True)
    (inside / ".hidden").mkdir()
    (tmp_path / "secret.js").write_text("outside")
    for name, body in {
        "index.html": b"<!doctype html>",
        "app.css": b"a {}",
        "icon.svg": b"<svg/>",
        "pages/big.js": BIG,
        "notes.md": b"for ourselves",
        ".env.js": b"hidden",
        ".hidden/a.js": b"hidden",
    }.items():
        (inside / name).write_bytes(body)
    (inside / "link.js").symlink_to(tmp_path / "secret.js")
    (inside / "up").symlink_to(tmp_path)
    return inside


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(folder: Path) -> AsyncGenerator[int, None]:
    """Its port."""
    async with small(dashboard_routes(files_in(folder), INDEX)) as port:
        yield port


async def get(site: int, path: str, fields: Iterable[tuple[str, str]] = (), method: str = "GET") -> Answer:
    """One request."""
    return await ask(site, method, path, None, fields)


async def test_only_what_is_meant_is_there(folder: Path) -> None:
    """Neither hidden files, nor links, nor kinds without a type."""
    assert set(files_in(folder)) == {"index.html", "app.css", "icon.svg", "pages/big.js"}


@pytest.mark.parametrize(
    ("path", "type"),
    [
        ("/", "text/html; charset=utf-8"),
        (f"{PREFIX}/app.css", "text/css; charset=utf-8"),
        (f"{PREFIX}/icon.svg", "image/svg+xml"),
        (f"{PREFIX}/pages/big.js", "text/javascript; charset=utf-8"),
    ],
)
async def test_files_come_with_their_type_and_a_strict_policy(site: int, path: str, type: str) -> None:
    """And are asked for anew each time, which costs a 304."""
    answer = await get(site, path, PAGE)
    assert (answer.status, answer.field("content-type")) == (200, type)
    assert answer.field("content-security-policy") == POLICY
    assert answer.field("x-content-type-options") == "nosniff"
    assert answer.field("referrer-policy") == "no-referrer"
    assert answer.field("cache-control") == "no-cache"
    etag = answer.field("etag")
    assert etag is not None
    for said in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
        again = await get(site, path, [*PAGE, ("if-none-match", said)])
        assert (again.status, again.body, again.field("etag")) == (304, b"", etag)
        assert again.field("content-security-policy") == POLICY
    assert (await get(site, path, [*PAGE, ("if-none-match", '"other"')])).status == 200


async def test_large_files_are_packed_for_who_takes_that(site: int) -> None:
    """The same bytes under the same name; caches are told what it depends on."""
    path = f"{PREFIX}/pages/big.js"
    packed = await get(site, path, [("accept-encoding", "gzip, deflate, br")])
    plain = await get(site, path)
    refused = await get(site, path, [("accept-encoding", "gzip;q=0, deflate")])
    assert (packed.field("content-encoding"), gzip.decompress(packed.body)) == ("gzip", BIG)
    assert len(packed.body) < len(BIG) / 4
    for answer in (plain, refused):
        assert (answer.field("content-encoding"), answer.body) == (None, BIG)
    assert plain.field("vary") == packed.field("vary") == "accept-encoding"
    assert plain.field("etag") == packed.field("etag")


@pytest.mark.parametrize(
    "path",
    [
        f"{PREFIX}/",
        f"{PREFIX}/nothing.js",
        f"{PREFIX}/pages",
        f"{PREFIX}/notes.md",
        f"{PREFIX}/.env.js",
        f"{PREFIX}/link.js",
        f"{PREFIX}/up/secret.js",
        f"{PREFIX}/../secret.js",
        f"{PREFIX}/..%2fsecret.js",
        f"{PREFIX}/%2e%2e/secret.js",
        f"{PREFIX}/pages/../../secret.js",
        f"{PREFIX}//etc/passwd",
        f"{PREFIX}/%2fetc/passwd",
        f"{PREFIX}/..\\secret.js",
        f"{PREFIX}/app.css%00.js",
        f"{PREFIX}/APP.CSS",
    ],
)
async def test_nothing_else_can_be_had(site: int, path: str) -> None:
    """Whatever is written in the path: 404, in the usual form."""
    answer = await get(site, path)
    assert answer.status == 404, answer.body
    assert answer.error["code"] == "not_found"
    assert b"outside" not in answer.body


async def test_programs_are_told_where_they_are(site: int) -> None:
    """Who asks for JSON, and who says nothing of what it takes, gets the index; HEAD is answered too."""
    for fields in ([("accept", "application/json")], [], [("accept", "application/json, */*")]):
        answer = await get(site, "/", fields)
        assert (answer.status, answer.json()) == (200, INDEX)
        assert answer.field("vary") == "accept"
    for fields in ([], PAGE):
        assert (await get(site, "/", fields, "HEAD")).status == 200
    assert (await get(site, f"{PREFIX}/app.css", method="HEAD")).field("content-length") == "4"
    assert (await get(site, "/", PAGE, "POST")).status == 405


async def test_without_a_page_there_is_the_index(tmp_path: Path) -> None:
    """An installation that has left the dashboard out."""
    async with small(dashboard_routes(files_in(tmp_path), INDEX)) as port:
        assert (await get(port, "/", PAGE)).json() == INDEX


@pytest.mark.parametrize(
    ("accept", "page"),
    [("*/*", True), ("text/html", True), ("application/json, text/html", True), ("", False), ("text/plain", False)],
)
async def test_who_wants_a_page(accept: str, page: bool) -> None:
    """curl does, by its `*/*`; a probe does not."""
    assert wants_page(accept) is page


async def test_our_own_dashboard_can_be_served() -> None:
    """All that lies in its folder has a type, and nothing in its page would break the policy."""
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert [path.name for path in files if path.suffix not in TYPES] == []
    page = (FOLDER / "index.html").read_text()
    assert "<style" not in page
    assert " style=" not in page
    assert " onclick=" not in page
    assert page.count("<script") == page.count('<script type="module" src="dashboard/')
    assert not any(word in page for word in ('src="http', 'href="http', 'src="//', 'href="//'))
