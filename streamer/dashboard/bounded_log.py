"""A log that a page cannot fill: what the web server says of its visitors is shortened, and seldom.

Owns a filter for the handlers of this process. Whoever reaches the page may send what it likes; the libraries
below answer some of that with a traceback or with what was sent, each time.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

# Of one place in the code; what is left out is counted in the next.
EVERY_S: Final = 10.0
MAX_CHARS: Final = 300
MAX_PLACES: Final = 256


class Bounded(logging.Filter):
    """Lets warnings and errors of one place through once in EVERY_S, as one short line each."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        place, now_s = (record.pathname, record.lineno), self._clock()
        said_s, left_out = self._seen.get(place, (-EVERY_S, 0))
        if now_s - said_s < EVERY_S:
            self._seen[place] = said_s, left_out + 1
            return False
        if len(self._seen) >= MAX_PLACES:
            self._seen.clear()
        self._seen[place] = now_s, 0
        self._shorten(record, left_out)
        return True

    def _shorten(self, record: logging.LogRecord, left_out: int) -> None:
        text = " ".join(record.getMessage().split())
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            text += f": {error!r}"
        more = f" ({left_out} more like it)" if left_out else ""
        record.msg, record.args = text[:MAX_CHARS] + more, ()
        # The first of a place keeps its traceback: it is ours to mend.
        if left_out:
            record.exc_info = record.exc_text = None
