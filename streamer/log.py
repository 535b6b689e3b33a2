"""Log lines that a flood of bad messages cannot turn into a flood of lines."""

import logging
from collections import Counter

# The first ten of a kind tell what happens; after that one in each power of ten tells that it goes on.
FIRST = 10


def setup(process: str) -> None:
    """Lines on stderr: time, process, level, text."""
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s {process} %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )


class Repeated:
    """Logs the first ten of a kind, then the 100th, the 1000th, ... with the count."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._counts: Counter[str] = Counter()

    def warn(self, kind: str, text: object) -> None:
        self._counts[kind] += 1
        count = self._counts[kind]
        if count <= FIRST or str(count).strip("0") == "1":
            self._logger.warning("%s (number %d of its kind)", printable(str(text)), count)


def printable(text: str) -> str:
    """Names from the network stand in these lines: no control character of theirs reaches the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
