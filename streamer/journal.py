"""The journal of a run: who changed what in the running pipeline, when, from what to what.

Owns one file of JSON lines beside the run's data, or none if the run stores nothing, and the newest entries
in memory. An entry: {"at_s": unix time, "by", "stream", "action", "before", "after"}, or "refused": why, in
the place of the last.
"""

import json
import logging
import os
import stat
import time
from collections import deque
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

# What a page shows: a shift's worth of changes.
NEWEST = 100
MAX_BY_CHARS = 40


class Journal:
    """`path` None keeps entries in memory only."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.newest: deque[dict[str, Any]] = deque(maxlen=NEWEST)

    def add(self, by: object, stream: str, action: dict[str, Any], **result: Any) -> None:
        """Note what was done, or refused. It is done already: a file that cannot be written stops nothing."""
        entry = {"at_s": round(time.time(), 3), "by": str(by or "unknown")[:MAX_BY_CHARS], "stream": stream}
        entry |= {"action": action} | result
        self.newest.append(entry)
        log.info("steering: %s", json.dumps(entry))
        try:
            self._write(json.dumps(entry) + "\n")
        except OSError as error:
            log.error("steering journal %s cannot be written: %s; the log has the entry", self.path, error)

    def _write(self, line: str) -> None:
        if self.path is None:
            return
        # A link would be followed to somewhere else, and a FIFO would be waited for.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(self.path, flags, 0o644), "a") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError("it is not a regular file")
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
