# SPDX-License-Identifier: Apache-2.0
"""Which messages of a recording are used, and at which times."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sfseg_ros.errors import BagError, ImageError
from sfseg_ros.recordings.message_bytes import message_from_cdr, stamp_of_cdr, typestore
from sfseg_ros.recordings.recording import Message


@dataclass
class Damage:
    """Counts unreadable messages by topic and keeps the first error."""

    counts: Counter[str] = field(default_factory=Counter)  # by topic
    first: str = ""

    def add(self, topic: str, error: BagError | ImageError) -> None:
        self.first = self.first or f"{topic}: {error}"
        self.counts[topic] += 1

    @property
    def count(self) -> int:
        return self.counts.total()

    def __str__(self) -> str:
        return f"{self.count} damaged, the first on {self.first}"


def undamaged(messages: Iterable[Message], damage: Damage) -> Iterator[Message]:
    """Yield the messages that can be decoded as their type; count the others in `damage`.

    Player and report both use this function, so neither reads a time from a damaged message.
    """
    for message in messages:
        try:
            if message.type in typestore().fielddefs:  # others cannot be checked
                message_from_cdr(message.cdr, message.type)
        except BagError as error:
            damage.add(message.topic, error)
        else:
            yield message


def choose_clock(messages: Iterable[Message]) -> str:
    """Return the clock of these images of one topic: "header", or "log" as a fallback.

    "log" is returned if the header stamps do not rise; some recorders leave them zero.
    """
    stamps = [stamp_of_cdr(m.cdr) for m in messages]
    rising = all(earlier < later for earlier, later in itertools.pairwise(stamps))
    return "header" if rising and (len(stamps) > 1 or any(stamps)) else "log"


def with_times(messages: Iterable[Message], clock: str) -> Iterator[tuple[int, Message]]:
    """Yield (time by `clock`, message) for messages whose time rises within their topic.

    Other messages are left out, because a mask could not be matched to one of two images with the
    same time. Player and report both use this function, so they agree on the time of every frame.
    """
    last: dict[str, int] = {}
    for message in messages:
        time_ns = message.log_ns if clock == "log" else stamp_of_cdr(message.cdr)
        if time_ns > last.get(message.topic, -1):
            last[message.topic] = time_ns
            yield time_ns, message


@dataclass(frozen=True)
class Timeline:
    """Maps recorded times to playback times.

    The image recorded at `first_ns` is played at `start_ns`, later ones at `rate` times the
    original speed. At rate 1 all stamps are shifted by the same constant.
    """

    first_ns: int
    start_ns: int
    rate: float = 1.0

    def played_ns(self, time_ns: int) -> int:
        """Return the playback time, which is also the header stamp, of a recorded time."""
        since_first_ns = time_ns - self.first_ns
        if self.rate != 1.0:  # a float is exact enough for the difference, not for the sum
            since_first_ns = round(since_first_ns / self.rate)
        return self.start_ns + since_first_ns
