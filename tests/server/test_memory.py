"""How this program's memory is kept: by the C library, unless the operator has said otherwise."""

from __future__ import annotations

import sys

import pytest

from gateway.server.memory import give_back, with_plain_malloc

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives single pages back")


@LINUX
def test_it_is_chosen_once() -> None:
    """The program that is started anew is not started again."""
    environ = with_plain_malloc({"HOME": "/"}, "linux")
    assert environ == {"HOME": "/", "PYTHONMALLOC": "malloc"}
    assert with_plain_malloc(environ or {}, "linux") is None


def test_the_operators_choice_and_other_systems_stay() -> None:
    """PYTHONMALLOC=pymalloc is the way back."""
    assert with_plain_malloc({"PYTHONMALLOC": "pymalloc"}, "linux") is None
    assert with_plain_malloc({}, "darwin") is None


def test_giving_back_harms_nobody() -> None:
    """Whatever the C library is."""
    give_back()
