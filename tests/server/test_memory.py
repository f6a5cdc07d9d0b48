"""How this program's memory is kept: by the C library, unless the operator has said otherwise; and given back after a crowd."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from gateway.server.memory import forget, give_back, started_anew

GLIBC = pytest.mark.skipif(
    sys.platform != "linux" or not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"),
    reason="only glibc gives single pages back",
)


@GLIBC
def test_it_is_chosen_once() -> None:
    """The program that is started anew is not started again."""
    environ = started_anew({"HOME": "/"}, "linux")
    assert environ is not None
    assert environ["HOME"] == "/"
    assert environ["PYTHONMALLOC"] == "malloc"
    assert "tcache_count" in environ["GLIBC_TUNABLES"]
    assert started_anew(environ, "linux") is None


@GLIBC
def test_what_is_set_for_us_is_nobody_elses() -> None:
    """A child of ours has the environment that we were given."""
    environ = started_anew({"HOME": "/"}, "linux")
    assert environ is not None
    forget(environ)
    assert environ == {"HOME": "/"}


@GLIBC
def test_what_the_operator_has_tuned_stays() -> None:
    """Also in the environment of our children."""
    environ = started_anew({"GLIBC_TUNABLES": "glibc.malloc.check=3"}, "linux")
    assert environ is not None
    assert environ["GLIBC_TUNABLES"] == "glibc.malloc.check=3"
    assert environ["PYTHONMALLOC"] == "malloc"
    forget(environ)
    assert environ == {"GLIBC_TUNABLES": "glibc.malloc.check=3"}


def test_names_that_were_looked_up_are_forgotten() -> None:
    """The interpreter holds on to them, wherever they lie."""

    class Thing:
        some_name = 1

    names = ["".join(("some_", "name")) for _ in range(100)]
    alone = [sys.getrefcount(name) for name in names]
    assert all(getattr(Thing, name) for name in names)
    assert [sys.getrefcount(name) for name in names] > alone
    give_back()
    assert [sys.getrefcount(name) for name in names] == alone


def test_the_operators_choice_and_other_systems_stay() -> None:
    """PYTHONMALLOC=pymalloc is the way back."""
    chosen = {"PYTHONMALLOC": "pymalloc"}
    assert started_anew(chosen, "linux") is None
    assert started_anew({}, "darwin") is None
    forget(chosen)
    assert chosen == {"PYTHONMALLOC": "pymalloc"}


def test_what_is_kept_is_out_of_the_way_meanwhile() -> None:
    """Whatever the C library is, and however it ends."""
    seen: list[str] = []

    @contextmanager
    def packed() -> Generator[None, None, None]:
        seen.append("packed")
        yield
        seen.append("as before")

    give_back(packed)
    assert seen == ["packed", "as before"]


# A hundred thousand objects of all sizes come and go; one in a hundred is made anew meanwhile, as what is kept of requests is.
_CROWD = """
import os
from contextlib import contextmanager
from gateway.server.memory import forget, give_back

kept = [bytes([n % 250]) * (40 + n % 300) for n in range(1000)]

def resident():
    with open("/proc/self/statm") as told:
        return int(told.read().split()[1])

@contextmanager
def packed():
    piece, sizes = b"".join(kept), [len(each) for each in kept]
    kept.clear()
    yield
    at = 0
    for size in sizes:
        kept.append(piece[at : at + size])
        at += size

forget(os.environ)
assert "PYTHONMALLOC" not in os.environ
give_back(packed)
before = resident()
crowd = []
for n in range(100_000):
    crowd.append([bytes(100 + n % 700), {"n": n, "m": str(n)}])
    if n % 100 == 0:
        kept[n // 100] = bytes([n % 250]) * (40 + n % 300)
most = resident()
crowd.clear()
give_back(packed)
give_back(packed)
print(before, most, resident())
"""


@GLIBC
def test_a_crowd_leaves_nothing_behind() -> None:
    """What a process has at its fullest is gone when the crowd has: in a process of its own, started as `serve` is."""
    environ = started_anew({name: value for name, value in os.environ.items() if name != "PYTHONMALLOC"}, "linux")
    told = subprocess.run(
        [sys.executable, "-c", _CROWD], env=environ, capture_output=True, text=True, check=True
    ).stdout
    before, most, after = map(int, told.split())
    assert most > 3 * before
    assert after < before * 1.15
