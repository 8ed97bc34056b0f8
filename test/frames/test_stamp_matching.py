# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfseg_ros.frames.stamp_matching import StampBuffer, StampMatcher

MS = 1_000_000
S = 1_000_000_000


def buffer_of(*stamps, capacity=10):
    buffer = StampBuffer(capacity)
    for stamp in stamps:
        buffer.add(stamp, stamp)
    return buffer


@pytest.mark.parametrize(("wanted", "found"), [(0, 10), (14, 10), (16, 20), (50, 30)])
def test_the_nearest_stamp_is_found_before_and_after(wanted, found):
    assert buffer_of(10, 30, 20).nearest(wanted, 100) == found


@pytest.mark.parametrize(("tolerance", "found"), [(5, 20), (4, None), (0, None)])
def test_an_item_beyond_the_tolerance_is_not_found(tolerance, found):
    assert buffer_of(20).nearest(25, tolerance) == found


def test_an_empty_buffer_finds_nothing():
    assert StampBuffer(3).nearest(0, 10) is None


def test_the_later_arrival_is_taken_of_two_equally_near_items():
    buffer = StampBuffer(3)
    for item in ("first", "second"):
        buffer.add(0, item)  # a driver that sets no stamps
    assert buffer.nearest(0, 0) == "second"


def test_a_full_buffer_drops_its_oldest_item():
    buffer = buffer_of(10, 20, 30, capacity=2)
    assert len(buffer) == 2
    assert buffer.nearest(10, 0) is None


def test_a_looped_bag_empties_the_buffer_and_a_swapped_pair_does_not():
    assert len(buffer_of(100 * S, 100 * S - 50 * MS)) == 2
    buffer = buffer_of(100 * S, 101 * S, 20 * S)
    assert len(buffer) == 1
    assert buffer.nearest(100 * S, S) is None


def matcher(waiting=10, partners=10):
    return StampMatcher(waiting, partners)


class Played:
    """A matcher with one tolerance; items are their own stamps in ms."""

    def __init__(self, matcher, tolerance_ms=50):
        self._matcher = matcher
        self._tolerance_ns = tolerance_ms * MS
        self.pairs = []

    def subject(self, stamp_ms):
        self.pairs += self._matcher.add_subject(stamp_ms * MS, stamp_ms, self._tolerance_ns)
        return self.pairs

    def partner(self, stamp_ms):
        self.pairs += self._matcher.add_partner(stamp_ms * MS, stamp_ms, self._tolerance_ns)
        return self.pairs


def test_equal_stamps_are_paired_at_once_in_either_order_of_arrival():
    played = Played(matcher())
    assert played.subject(100) == []
    assert played.partner(100) == [(100, 100)]
    played.partner(133)
    assert played.subject(133) == [(100, 100), (133, 133)]


def test_an_early_subject_does_not_take_the_previous_partner():
    """At 30 Hz, the depth image of the previous frame lies within a tolerance of 50 ms."""
    played = Played(matcher())
    played.partner(67)
    played.partner(100)
    assert played.subject(133) == []
    assert played.partner(133) == [(133, 133)]


def test_a_slightly_earlier_partner_is_taken_without_waiting_for_the_next():
    played = Played(matcher())
    played.partner(67)
    played.partner(100)
    assert played.subject(110) == [(110, 100)]


def test_a_subject_is_counted_as_unmatched_once_no_partner_can_come():
    matcher = StampMatcher(10, 10)
    played = Played(matcher)
    played.subject(100)
    assert matcher.unmatched == 0
    played.partner(200)
    assert played.pairs == []
    assert matcher.unmatched == 1


def test_several_subjects_share_a_partner():
    played = Played(matcher())
    for stamp in (80, 100, 120):
        played.subject(stamp)
    assert played.partner(125) == [(80, 125), (100, 125), (120, 125)]


def test_waiting_subjects_are_bounded_without_partners():
    matcher = StampMatcher(3, 10)
    played = Played(matcher)
    for stamp in range(10):
        played.subject(stamp)
    assert matcher.unmatched == 7
    assert played.partner(9) == [(7, 9), (8, 9), (9, 9)]


def test_older_items_are_not_paired_after_a_jump_back():
    matcher = StampMatcher(10, 10)
    played = Played(matcher)
    for stamp in (100_000, 100_100, 100_200):
        played.partner(stamp)
    played.subject(100_900)
    assert played.subject(10) == []  # the subjects have restarted, the partners have not
    assert matcher.unmatched == 1
    assert played.partner(10) == [(10, 10)]


def test_partners_are_released_when_no_later_subject_can_match():
    """Partners are depth images and clouds of several megabytes."""
    matcher = StampMatcher(10, 10)
    played = Played(matcher)
    for stamp in (0, 100, 200, 300):
        played.partner(stamp)
    played.subject(300)
    assert len(matcher._partners) == 1


def test_clearing_counts_waiting_subjects_as_unmatched():
    matcher = StampMatcher(10, 10)
    Played(matcher).subject(5)
    matcher.clear()
    assert matcher.unmatched == 1


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 500)), max_size=40),
    st.integers(0, 60),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_each_subject_is_paired_once_within_tolerance_or_unmatched_or_waits(
    arrivals, tolerance, waiting, partners
):
    matcher = StampMatcher(waiting, partners)
    played = Played(matcher, tolerance)
    for is_subject, stamp in arrivals:
        (played.subject if is_subject else played.partner)(stamp)
    assert all(abs(subject - partner) <= tolerance for subject, partner in played.pairs)
    paired, unmatched = len(played.pairs), matcher.unmatched
    matcher.clear()
    assert paired + matcher.unmatched == sum(is_subject for is_subject, _ in arrivals)
    assert matcher.unmatched - unmatched <= waiting


@given(
    st.lists(st.integers(0, 1000), unique=True, min_size=1, max_size=30).map(sorted),
    st.lists(st.integers(0, 1000), unique=True, min_size=1, max_size=30).map(sorted),
)
def test_ordered_subjects_get_the_nearest_partner_if_all_partners_came_first(subjects, partners):
    played = Played(StampMatcher(50, 50), 20)
    for stamp in partners:
        played.partner(stamp)
    for stamp in subjects:
        played.subject(stamp)
    for subject, partner in played.pairs:
        assert abs(subject - partner) == min(abs(subject - other) for other in partners)
