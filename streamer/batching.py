"""Which waiting blocks go into the next batch. Pure: time is an argument, blocks are opaque.

Work-conserving: when the device is free it takes all that waits, whole blocks, oldest first, up to
`max_events`; under light load a batch is small and latency minimal, under heavy load it grows by itself.
`max_wait_s` (default 0) lets a batch grow on purpose; the end of a train ends the wait, because the next
pulse is then most of a tenth of a second away.
"""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """A block that waits for the device."""

    slot: int
    seq: int
    events: int
    received_ns: int
    end_of_train: bool


class Batcher:
    """The queue in front of the device.

    `max_events` bounds a batch; one block larger than that goes alone (the runner cuts it up).
    """

    def __init__(self, max_events: int, max_wait_s: float = 0.0) -> None:
        if max_events < 1:
            raise ValueError(f"max_events must be at least 1, got {max_events}")
        self._max_events = max_events
        self._max_wait_ns = round(max_wait_s * 1e9)
        self._queue: deque[Waiting] = deque()
        self._events = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def events(self) -> int:
        return self._events

    def add(self, block: Waiting) -> None:
        self._queue.append(block)
        self._events += block.events

    def ready_at_ns(self) -> int | None:
        """Monotonic time from which `take` gives a batch; None with nothing waiting."""
        if not self._queue:
            return None
        first = self._queue[0]
        full = self._events >= self._max_events
        ended = any(block.end_of_train for block in self._queue) if self._max_wait_ns else True
        return first.received_ns if full or ended else first.received_ns + self._max_wait_ns

    def take(self, now_ns: int) -> list[Waiting]:
        """The next batch, oldest block first; empty if there is none or it is still to grow."""
        ready_at_ns = self.ready_at_ns()
        if ready_at_ns is None or ready_at_ns > now_ns:
            return []
        batch: list[Waiting] = []
        events = 0
        while self._queue and (not batch or events + self._queue[0].events <= self._max_events):
            block = self._queue.popleft()
            batch.append(block)
            events += block.events
        self._events -= events
        return batch
