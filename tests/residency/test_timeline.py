"""The timeline: spans and marks out of what the journal notes, within bounds, whatever comes in whichever order."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from gateway.residency.journal import Happening, Journal
from gateway.residency.timeline import MARKS_KEPT, SPANS_KEPT, Timeline

Note = tuple[float, str, str, str]  # at, what, target, why


def lived(*notes: Note) -> Timeline:
    """After these happenings."""
    timeline = Timeline()
    for seq, (at_s, what, target, why) in enumerate(notes, 1):
        timeline.heed(Happening(seq, at_s, what, target, why=why))
    return timeline


def spans(timeline: Timeline, from_s: float = 0.0) -> list[tuple[str, str, float, float | None, str]]:
    """As plain tuples."""
    return [(s.target, str(s.phase), s.from_s, s.to_s, s.why) for s in timeline.spans(from_s)]


LIFE: Sequence[Note] = (
    (10.0, "load_started", "a", "requested"),
    (12.0, "loaded", "a", ""),
    (50.0, "draining", "a", "evicted"),
    (51.0, "unload_started", "a", "evicted"),
    (52.0, "gone", "a", "evicted"),
)


def test_a_whole_life_has_four_spans() -> None:
    """Each from where the last one ended; why it was loaded stays said while it is ready."""
    assert spans(lived(*LIFE)) == [
        ("a", "loading", 10.0, 12.0, "requested"),
        ("a", "ready", 12.0, 50.0, "requested"),
        ("a", "draining", 50.0, 51.0, "evicted"),
        ("a", "unloading", 51.0, 52.0, "evicted"),
    ]


def test_what_is_under_way_has_no_end() -> None:
    """And is shown however early one looks back."""
    assert spans(lived(*LIFE[:2]), from_s=1000.0) == [("a", "ready", 12.0, None, "requested")]


def test_only_what_had_not_ended_is_shown() -> None:
    """A span that reaches into the time looked at is told whole."""
    assert [span[1] for span in spans(lived(*LIFE), from_s=50.5)] == ["draining", "unloading"]
    assert [mark.what for mark in lived(*LIFE).marks_since(50.5)] == ["gone"]


def test_failed_loads_deaths_and_servers_models_end_too() -> None:
    """Found without a load, vanished without an unload, dead without a drain."""
    timeline = lived(
        (1.0, "load_started", "a", "requested"),
        (2.0, "load_failed", "a", ""),
        (3.0, "found", "b", ""),
        (4.0, "vanished", "b", ""),
        (5.0, "loaded", "c", ""),
        (6.0, "died", "c", ""),
        (6.0, "unload_started", "c", "died"),
        (7.0, "gone", "c", "died"),
    )
    assert spans(timeline) == [
        ("a", "loading", 1.0, 2.0, "requested"),
        ("b", "ready", 3.0, 4.0, "found"),
        ("c", "ready", 5.0, 6.0, ""),
        ("c", "unloading", 6.0, 7.0, "died"),
    ]


def test_a_clock_that_was_set_back_makes_no_span_end_before_it_begins() -> None:
    """It is empty then."""
    assert spans(lived((100.0, "loaded", "a", ""), (40.0, "draining", "a", "idle"))) == [
        ("a", "ready", 100.0, 100.0, ""),
        ("a", "draining", 40.0, None, "idle"),
    ]


def test_requests_that_wait_leave_no_marks() -> None:
    """There may be thousands; the rest would be lost."""
    timeline = lived(*((float(n), "queued", "a", "") for n in range(9)), (10.0, "pinned", "a", ""))
    assert [mark.what for mark in timeline.marks] == ["pinned"]


def test_the_load_s_part_of_a_wait() -> None:
    """What of it fell into the last load, or into the one under way; never more than the wait."""
    timeline = lived(*LIFE[:2])
    assert timeline.load_part("a", 12.0, 5.0) == 2.0  # waited for room first
    assert timeline.load_part("a", 12.0, 0.5) == 0.5  # came while it was loading
    assert timeline.load_part("a", 30.0, 3.0) == 0.0  # of an earlier load
    assert timeline.load_part("other", 12.0, 5.0) == 0.0
    assert lived(LIFE[0]).load_part("a", 11.5, 9.0) == 1.5  # left while it was loading


def test_it_listens_to_a_journal_and_stays_within_its_bounds() -> None:
    """Far more than is kept: the oldest go."""
    now = iter(range(1, 1_000_000))
    journal, timeline = Journal(lambda: float(next(now))), Timeline()
    journal.listeners.append(timeline.heed)
    for _ in range(SPANS_KEPT):
        journal.note("load_started", "a")
        journal.note("loaded", "a")
    assert len(list(timeline.spans(0.0))) == SPANS_KEPT + 1
    assert len(timeline.marks) == MARKS_KEPT


FATES = ["gone", "died", "load_failed", "vanished", "draining", "unload_started"]
WHATS = ["queued", "granted", "rejected", "load_started", "loaded", "found", "pinned", "unpinned", *FATES]


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from(WHATS), st.sampled_from("ab"), st.just(""))))
def test_whatever_comes_no_target_is_in_two_phases(notes: list[Note]) -> None:
    """At most one open span a target, and none that ends before it begins."""
    timeline = lived(*notes)
    found = spans(timeline, from_s=-1.0)
    still = [target for target, _, _, to_s, _ in found if to_s is None]
    assert len(still) == len(set(still))
    assert all(to_s is None or from_s <= to_s for _, _, from_s, to_s, _ in found)
