# SPDX-License-Identifier: Apache-2.0
"""Joins two streams by their stamps, in any order of arrival.

All stamps and tolerances are integer nanoseconds. Not thread-safe: the caller holds a lock.
"""

from collections import deque
from typing import Generic, TypeVar

from sfseg_ros.frames.pacing import JUMP_BACK_NS

Item = TypeVar("Item")
Subject = TypeVar("Subject")
Partner = TypeVar("Partner")


class _Stream:
    """The last stamp of a stream."""

    def __init__(self) -> None:
        self._last_ns: int | None = None

    def jumped_back(self, stamp_ns: int) -> bool:
        last_ns, self._last_ns = self._last_ns, stamp_ns
        return last_ns is not None and stamp_ns < last_ns - JUMP_BACK_NS


class StampBuffer(Generic[Item]):
    """The latest items of a stream; cleared if the stamps jump back by JUMP_BACK_NS."""

    def __init__(self, capacity: int) -> None:
        self._items: deque[tuple[int, Item]] = deque(maxlen=capacity)
        self._stream = _Stream()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, stamp_ns: int, item: Item) -> None:
        """Keep the item; a full buffer drops its first arrival."""
        if self._stream.jumped_back(stamp_ns):
            self.clear()
        self._items.append((stamp_ns, item))

    def nearest(self, stamp_ns: int, tolerance_ns: int) -> Item | None:
        """Return the item nearest to `stamp_ns`, or None if none is within `tolerance_ns`.

        Of two equally near items, the later arrival is returned.
        """
        best = min(reversed(self._items), key=lambda row: abs(row[0] - stamp_ns), default=None)
        return best[1] if best and abs(best[0] - stamp_ns) <= tolerance_ns else None

    def drop_before(self, stamp_ns: int) -> None:
        """Drop the items with an earlier stamp."""
        self._items = deque(
            (row for row in self._items if row[0] >= stamp_ns), maxlen=self._items.maxlen
        )

    def clear(self) -> None:
        self._items.clear()


class StampMatcher(Generic[Subject, Partner]):
    """Gives each subject the partner that is nearest in time.

    A subject waits until no nearer partner can arrive: a partner with its stamp or a later one has
    arrived, or the nearest is closer than half of the partners' last interval. So a mask that
    arrives before its depth image waits for it instead of taking the previous one.
    """

    def __init__(self, waiting: int, partners: int) -> None:
        """`waiting`: most subjects that wait. `partners`: most partners kept for later subjects."""
        self.unmatched = 0
        """Number of subjects that got no partner."""
        self._most_waiting = waiting
        self._waiting: list[tuple[int, Subject]] = []
        self._partners: StampBuffer[tuple[int, Partner]] = StampBuffer(partners)
        self._begin()

    def _begin(self) -> None:
        self._subject_stream, self._partner_stream = _Stream(), _Stream()
        self._newest_ns: int | None = None
        self._interval_ns = 0

    def add_subject(
        self, stamp_ns: int, subject: Subject, tolerance_ns: int
    ) -> list[tuple[Subject, Partner]]:
        """Return the pairs that are now certain, oldest first."""
        if self._subject_stream.jumped_back(stamp_ns):
            self.clear()
        self._waiting.append((stamp_ns, subject))
        pairs = self._certain_pairs(tolerance_ns)
        surplus = len(self._waiting) - self._most_waiting
        if surplus > 0:
            self._waiting = self._waiting[surplus:]
            self.unmatched += surplus
        return pairs

    def add_partner(
        self, stamp_ns: int, partner: Partner, tolerance_ns: int
    ) -> list[tuple[Subject, Partner]]:
        """Return the pairs that are now certain, oldest first."""
        if self._partner_stream.jumped_back(stamp_ns):
            self.clear()
        if self._newest_ns is None or stamp_ns >= self._newest_ns:
            self._interval_ns = 0 if self._newest_ns is None else stamp_ns - self._newest_ns
            self._newest_ns = stamp_ns
        self._partners.add(stamp_ns, (stamp_ns, partner))
        return self._certain_pairs(tolerance_ns)

    def clear(self) -> None:
        """Drop everything; waiting subjects count as unmatched."""
        self.unmatched += len(self._waiting)
        self._waiting.clear()
        self._partners.clear()
        self._begin()  # both streams: if one restarts, the other follows

    def _certain_pairs(self, tolerance_ns: int) -> list[tuple[Subject, Partner]]:
        pairs = []
        still_waiting = []
        for stamp_ns, subject in self._waiting:
            nearest = self._partners.nearest(stamp_ns, tolerance_ns)
            if not self._certain(stamp_ns, nearest[0] if nearest else None):
                still_waiting.append((stamp_ns, subject))
                continue
            if nearest:
                pairs.append((subject, nearest[1]))
            else:
                self.unmatched += 1
            # Subjects come in the order of their stamps, so the next one needs nothing older.
            self._partners.drop_before(stamp_ns - tolerance_ns)
        self._waiting = still_waiting
        return pairs

    def _certain(self, stamp_ns: int, nearest_ns: int | None) -> bool:
        if self._newest_ns is None:
            return False
        if self._newest_ns >= stamp_ns:
            return True
        return nearest_ns is not None and 2 * (stamp_ns - nearest_ns) <= self._interval_ns
