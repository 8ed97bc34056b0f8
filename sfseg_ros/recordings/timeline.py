# SPDX-License-Identifier: Apache-2.0
"""Which messages of a recording are played or counted, and when."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sfseg_ros.errors import BagError, ImageError
from sfseg_ros.recordings.message_bytes import message_from_cdr, stamp_of_cdr, typestore
from sfseg_ros.recordings.recording import Message


@dataclass
class Damage:
    """Messages that were left out because they cannot be read, and what is wrong with the first."""

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
    """Those whose bytes are a message of their type; the others are counted in `damage`. Player and
    report both go through here, so neither takes a time from rubbish."""
    for message in messages:
        try:
            if message.type in typestore().fielddefs:  # others cannot be checked
                message_from_cdr(message.cdr, message.type)
        except BagError as error:
            damage.add(message.topic, error)
        else:
            yield message


def choose_clock(messages: Iterable[Message]) -> str:
    """Which time says when these images of one topic were taken: "header", or "log" where their
    header stamps do not rise (some recorders leave them zero)."""
    stamps = [stamp_of_cdr(m.cdr) for m in messages]
    rising = all(earlier < later for earlier, later in itertools.pairwise(stamps))
    return "header" if rising and (len(stamps) > 1 or any(stamps)) else "log"


def with_times(messages: Iterable[Message], clock: str) -> Iterator[tuple[int, Message]]:
    """(time by `clock`, message) of those whose time rises within their topic.

    The others are left out: with two images of one time nobody could say which mask belongs to
    which. Player and report both go through here, so they agree on every frame's time.
    """
    last: dict[str, int] = {}
    for message in messages:
        time_ns = message.log_ns if clock == "log" else stamp_of_cdr(message.cdr)
        if time_ns > last.get(message.topic, -1):
            last[message.topic] = time_ns
            yield time_ns, message


@dataclass(frozen=True)
class Timeline:
    """When recorded times are played: the image taken at `first_ns` at `start_ns`, the others at
    `rate` times the speed of then. At rate 1 all stamps are shifted by one constant."""

    first_ns: int
    start_ns: int
    rate: float = 1.0

    def played_ns(self, time_ns: int) -> int:
        """The moment, and so the header stamp, at which a recorded time is played."""
        since_first_ns = time_ns - self.first_ns
        if self.rate != 1.0:  # a float has too few digits for the sum, but enough for the part
            since_first_ns = round(since_first_ns / self.rate)
        return self.start_ns + since_first_ns
