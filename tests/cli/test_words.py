"""Sizes, durations and foreign text as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.words import bar, footprint_text, printable, seconds_text, size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (98_362_432, "93.8 MiB"),
        (16 << 30, "16.0 GiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_size_is_shown_in_the_largest_unit_that_fits(size: int, text: str) -> None:
    """Never "1024.0 KiB", and nothing beyond the last unit."""
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (2.34, "2.3 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.7, "1 h 0 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_seconds_are_rounded_without_showing_sixty(seconds: float, text: str) -> None:
    """A rounded second carries into the minute."""
    assert seconds_text(seconds) == text


def test_footprint_names_each_device_and_says_nothing_when_empty() -> None:
    """An empty footprint is told in a word, not as an empty string."""
    assert footprint_text({"ram": 1 << 20, "gpu0": 3 << 30}) == "ram 1.0 MiB + gpu0 3.0 GiB"
    assert footprint_text({}) == "nothing"


@given(st.lists(st.integers(0, 2**45), min_size=3, max_size=3), st.integers(3, 60))
def test_bar_has_its_width_and_shows_whatever_is_not_nothing(sizes: list[int], width: int) -> None:
    """Rounding neither changes the length nor hides a small part."""
    drawn = bar(dict(zip("#.x", sizes, strict=True)), width)
    assert len(drawn) == width
    if any(sizes):
        assert {char for char, size in zip("#.x", sizes, strict=True) if size} == set(drawn)


@given(st.text())
def test_printable_text_cannot_steer_a_terminal(text: str) -> None:
    """No escape, no line break, no half of a character is left in what others wrote."""
    shown = printable(text)
    assert all(char.isprintable() or char == "\t" for char in shown)
    assert printable("a\x1b[2Jb\nc é 模") == "a\\x1b[2Jb\\nc é 模"
