"""A catalogue on disk: whole or not at all, for one's own eyes, and never mistaken for another's."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from providers.contract import Offer
from providers.offer_cache import FILE_MAX_BYTES, OfferCache, file_stem
from providers.pricing import Price

SOURCE = "https://upstream.example/api"
OFFERS = (
    Offer(name="a/b", price=Price(prompt=Decimal("1.0E-7"), completion=Decimal("0.0000006")), capabilities=("chat",)),
    Offer(name="c", description="wörds"),
)


def cache(folder: Path, *, name: str = "openrouter", source: str = SOURCE, now_s: float = 1000.0) -> OfferCache:
    return OfferCache(folder, name, source, lambda: now_s)


def test_what_is_kept_comes_back_exactly(tmp_path: Path) -> None:
    """Prices digit for digit, and when it was confirmed."""
    cache(tmp_path).save(OFFERS)
    kept = cache(tmp_path).load()
    assert kept is not None
    assert (kept.offers, kept.at_s) == (OFFERS, 1000.0)
    assert kept.offers[0].price is not None
    assert str(kept.offers[0].price.prompt) == "1.0E-7"


def test_nothing_kept_is_nothing(tmp_path: Path) -> None:
    """No file, no folder: no word about it either."""
    assert cache(tmp_path / "absent").load() is None
    assert not (tmp_path / "absent").exists()


def test_folder_and_file_are_for_our_eyes_only(tmp_path: Path) -> None:
    """0700 and 0600, whatever the umask; and no temporary file stays."""
    before = os.umask(0)
    try:
        cache(tmp_path / "state").save(OFFERS)
    finally:
        os.umask(before)
    folder = tmp_path / "state" / "catalogues"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [(path.name, path.stat().st_mode & 0o777) for path in folder.iterdir()] == [("openrouter.json", 0o600)]


def test_the_same_catalogue_is_not_written_again(tmp_path: Path) -> None:
    """Only its time moves on; another one is a new file."""
    cache(tmp_path).save(OFFERS)
    path = cache(tmp_path).path
    first = path.stat().st_ino
    cache(tmp_path, now_s=2000.0).save(list(OFFERS))
    assert (path.stat().st_ino, path.stat().st_mtime) == (first, 2000.0)
    cache(tmp_path, now_s=3000.0).save(OFFERS[:1])
    kept = cache(tmp_path).load()
    assert kept is not None
    assert (kept.offers, kept.at_s) == (OFFERS[:1], 3000.0)
    assert path.stat().st_ino != first


def test_a_catalogue_from_elsewhere_does_not_count(tmp_path: Path) -> None:
    """The operator has given the name another address."""
    cache(tmp_path).save(OFFERS)
    assert cache(tmp_path, source="https://other.example").load() is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"version":2,"source":"%s","offers":[]}' % SOURCE.encode(),
        b'{"version":1,"source":"%s","offers":[{}]}' % SOURCE.encode(),
        b'{"version":1,"source":"%s","offers":[{"name":"a","price":{"prompt":"NaN","completion":"0"}}]}'
        % SOURCE.encode(),
        b'{"version":1,"source":"%s","offers":[{"name":"a","price":{"prompt":"-1","completion":"0"}}]}'
        % SOURCE.encode(),
        b"[" * 100_000,
    ],
)
def test_a_file_that_makes_no_sense_is_ignored_and_replaced(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once in the log, and the next catalogue takes its place."""
    it = cache(tmp_path)
    it.path.parent.mkdir()
    it.path.write_bytes(content)
    assert it.load() is None
    assert ["makes no sense" in record.getMessage() for record in caplog.records] == [True]
    it.save(OFFERS)
    kept = it.load()
    assert kept is not None
    assert kept.offers == OFFERS


def test_a_file_without_end_is_not_taken_into_memory(tmp_path: Path) -> None:
    """More than any catalogue may have: it is not ours."""
    it = cache(tmp_path)
    it.save(OFFERS)
    with it.path.open("ab") as file:
        file.write(b" " * FILE_MAX_BYTES)
    assert it.load() is None


def test_a_file_that_cannot_be_read_is_no_catalogue(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder in its place, for one."""
    it = cache(tmp_path)
    it.path.mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert it.load() is None
    assert "cannot be read" in caplog.text


def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """The caller says so and goes on; the temporary file is gone."""
    it = cache(tmp_path)
    it.path.mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        it.save(OFFERS)
    assert list(it.path.parent.iterdir()) == [it.path]


def test_two_threads_may_keep_it_at_once(tmp_path: Path) -> None:
    """Two refreshes that overlap: the file is one of the two, whole."""
    it = cache(tmp_path)
    choices = [OFFERS, OFFERS[:1], OFFERS[1:]]
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(it.save, choices[n % 3]) for n in range(60)]:
            done.result()
    kept = it.load()
    assert kept is not None
    assert kept.offers in choices
    assert [path.name for path in it.path.parent.iterdir()] == ["openrouter.json"]


@pytest.mark.parametrize(
    "name", ["open/router", "../../etc/passwd", "", ".", "..", "ünï", "a b", "n" * 300, "a.b", "\n"]
)
def test_odd_names_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    """Whatever the operator calls the provider, it is one file in our folder."""
    it = cache(tmp_path, name=name)
    it.save(OFFERS)
    assert [path.name for path in (tmp_path / "catalogues").iterdir()] == [it.path.name]
    kept = it.load()
    assert kept is not None


def test_no_two_names_share_a_file() -> None:
    """Also where they differ only in what a file's name cannot hold; a plain one is itself."""
    names = ["a_b", "a/b", "a.b", "a b", "n" * 65, "n" * 64, "n" * 66, ""]
    assert len({file_stem(name) for name in names}) == len(names)
    assert file_stem("open-router_2") == "open-router_2"


def test_the_file_says_whose_catalogue_it_is(tmp_path: Path) -> None:
    """And holds no key: nothing but names, facts and prices is ever handed in."""
    it = cache(tmp_path)
    it.save(OFFERS)
    assert set(msgspec.json.decode(it.path.read_bytes(), type=dict[str, object])) == {"version", "source", "offers"}
