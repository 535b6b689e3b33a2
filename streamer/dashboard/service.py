"""What all pages share: the views, the letters of a tick, the journal, the gate, the threads that wait.

Owns nothing that a single page shows for itself; that is page.py's.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from streamer.dashboard.board import TICK_S, Board
from streamer.dashboard.explain import Explainer
from streamer.dashboard.feed import Feed
from streamer.dashboard.mail import dumps
from streamer.dashboard.security import Gate
from streamer.errors import ConfigError

Entries = Sequence[Mapping[str, Any]]


class Texts:
    """The letters of the tick, made once for all pages."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], tuple[float, str]] = {}

    def get(self, name: str, stream: str, make: Callable[[], Any], every_s: float = TICK_S) -> str:
        """The text of that name, made anew if it is older than `every_s`."""
        now_s = time.monotonic()
        made_s, text = self._made.get((name, stream), (-1e9, ""))
        if now_s - made_s >= every_s * 0.9:  # pages do not tick exactly
            text = dumps(make())
            self._made[name, stream] = now_s, text
        return text


class Journal:
    """The entries of the journal, asked for in another thread: nobody waits for an answer here."""

    def __init__(self, read: Callable[[], Entries], executor: Executor) -> None:
        self._read, self._executor = read, executor
        self._entries: Entries = ()
        self._problem = ""
        self._asked: Future[None] | None = None

    def newest(self) -> tuple[Entries, str]:
        """What is known now, and what is wrong ('' if nothing); begins to ask for newer ones."""
        if self._asked is None or self._asked.done():
            self._asked = self._executor.submit(self._ask)
        return self._entries, self._problem

    def _ask(self) -> None:
        try:
            self._entries, self._problem = self._read(), ""
        except (ConfigError, TimeoutError) as error:
            self._problem = str(error)


@dataclass(frozen=True)
class Service:
    """Shared by all pages of the process."""

    board: Board
    gate: Gate
    explainer: Explainer
    executor: Executor
    texts: Texts
    journal: Journal


def make_service(feed: Feed, token: str, executor: Executor) -> Service:
    """The service over a feed that runs."""
    return Service(Board(feed), Gate(token), Explainer(), executor, Texts(), Journal(feed.journal, executor))
