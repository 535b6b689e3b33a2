"""The results of one stream as they come to the page: read, checked against the stream, put together.

Owns the subscribing socket. A subscriber that is too slow misses blocks, and holds nobody up.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import zmq

from streamer.client import Client
from streamer.columns import Array
from streamer.plan import StageSpec
from streamer.results import Block
from streamer.routing import REASONS

# Of a turn: some 25 ms of decoding, ten times what the sink sends. More waits in the socket, then is missed.
MESSAGES_A_TURN: Final = 250
EVENTS_A_TURN: Final = 65536


class Arrivals:
    """A subscription to a stream's results. Raises ConfigError for an endpoint that cannot be.

    `columns`: {name: (dtype, width)} that every event has; a block without them is not the stream's.
    """

    def __init__(
        self,
        spec: StageSpec,
        columns: Mapping[str, tuple[str, int]],
        routes: Sequence[str],
        context: "zmq.Context[zmq.Socket[bytes]]",
    ) -> None:
        self._columns, self._routes = dict(columns), tuple(routes)
        self._client = Client(spec.settings.publish.results, spec.stream, timeout_s=0.0, context=context)
        self._foreign = 0

    @property
    def socket(self) -> "zmq.Socket[bytes]":
        """To poll for what has come."""
        return self._client.socket

    @property
    def missed_blocks(self) -> int:
        return self._client.missed_blocks

    @property
    def bad_messages(self) -> int:
        """Those that are not results, and results that are not of this stream's columns and routes."""
        return self._client.bad_messages + self._foreign

    def take(self) -> dict[str, Array] | None:
        """The events that wait, as one table of every column [n] or [n, width]; None if none does."""
        tables: list[dict[str, Array]] = []
        events = 0
        for _ in range(MESSAGES_A_TURN):
            if events >= EVENTS_A_TURN or not self.socket.poll(0):
                break
            try:
                table = self._table(self._client.receive(0.0))
            except TimeoutError:  # what came was bad
                break
            if table is not None:
                tables.append(table)
                events += len(table["train_id"])
        if len(tables) <= 1:
            return tables[0] if tables else None
        return {name: np.concatenate([table[name] for table in tables]) for name in self._columns}

    def _table(self, block: Block) -> dict[str, Array] | None:
        """The block's columns; None, and counted, if it cannot be of this stream."""
        if len(block) == 0:
            return None
        if not self._fits(block):
            self._foreign += 1
            return None
        return {name: block.columns[name] for name in self._columns}

    def _fits(self, block: Block) -> bool:
        for name, (dtype, width) in self._columns.items():
            column = block.columns.get(name)
            if column is None or column.dtype != np.dtype(dtype):
                return False
            if column.shape[1:] != ((width,) if width else ()):
                return False
        known = (block.columns["route"] < len(self._routes)) & (block.columns["reason"] < len(REASONS))
        return block.route_names == self._routes and bool(known.all())

    def close(self) -> None:
        self._client.close()
