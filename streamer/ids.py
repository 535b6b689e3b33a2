"""Gaps, duplicates and disorder in the ids of one stream.

Owns the reading of train and pulse ids against what came before; knows neither sockets nor files.
What it must remember after a crash lies in memory given to it: the counters in the ingest page (committed
with the block they belong to) and the table of seen pulses, which is marked after that commit.

Losses before us (missing_upstream) come from gaps in the train ids and are never mixed with our own:
a message that we rejected explains one missing train.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamer.ledger import Page

# Trains remembered for duplicates and late arrivals: 102 s at 10 Hz, 10 s at 100 Hz.
WINDOW_TRAINS = 1024
# Pulses of a train, by id: European XFEL has at most 2700. 1024 x 4096 bytes = 4 MiB of shared memory.
MAX_PULSES = 4096
# A larger step forward is a new clock or a new run, not a loss of that many trains: 28 h at 10 Hz.
MAX_GAP_TRAINS = 1_000_000

TABLE_BYTES = WINDOW_TRAINS * (8 + MAX_PULSES)

Ids = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Arrival:
    """What one train's ids say. `fresh` is None when every pulse is new, else a mask of the new ones."""

    late: bool = False
    fresh: npt.NDArray[np.bool_] | None = None


_IN_ORDER = Arrival()


class TrainTracker:
    """Reads the ids of one stream; the counters are the `page`'s, the table of seen pulses is `table`.

    `step` is the distance of neighbouring train ids (1 at European XFEL).
    """

    def __init__(self, page: Page, table: memoryview, step: int = 1) -> None:
        self._page = page
        self._values = page.values
        self._step = step
        self._trains = np.frombuffer(table, np.int64, WINDOW_TRAINS)
        seen = np.frombuffer(table, np.uint8, WINDOW_TRAINS * MAX_PULSES, offset=8 * WINDOW_TRAINS)
        self._seen = seen.reshape(WINDOW_TRAINS, MAX_PULSES)
        # Of each row, the columns that may be set. After a restart nobody knows.
        self._used = np.full(WINDOW_TRAINS, MAX_PULSES, np.intp)
        index = page.layout.index
        self._started, self._last = index("started"), index("last_train")
        self._nominal, self._rejected = index("nominal_pulses"), index("rejected_since")
        self._missing, self._missing_trains = index("missing_upstream"), index("missing_upstream_trains")
        self._jumps, self._stray = index("id_jumps"), index("stray_train")
        # The last train, None before the first: asked of every message, so kept as a plain number too.
        self._newest = int(page.values[self._last]) if page.values[self._started] else None

    def in_order(self, train_id: int) -> bool:
        """True if `train_id` lies after every train so far: nothing of it can have been seen."""
        return self._newest is None or train_id > self._newest

    def arrive(self, train_id: int, pulse_ids: Ids) -> Arrival:
        """Count what the ids of one train say, in the page's private values.

        A train that is not `in_order` must find the table marked with all that came before it.
        """
        if not self.in_order(train_id):
            return self._arrive_late(train_id, pulse_ids)
        values = self._values
        if self._newest is not None and (gap := (train_id - self._newest) // self._step - 1) > 0:
            self._count_gap(gap)
        values[self._started], values[self._last], values[self._rejected] = 1, train_id, 0
        self._newest = train_id
        if len(pulse_ids):
            values[self._nominal] = len(pulse_ids)
        return _IN_ORDER

    def reject(self) -> None:
        """A message was refused: one missing train is explained by it."""
        self._values[self._rejected] += 1

    def mark(self, train_ids: Ids, pulse_ids: Ids) -> None:
        """Remember events as seen, after the commit that counts them. Idempotent.

        Of the trains of one row the newest has it, with its own pulses only.
        """
        if len(train_ids) and (train_ids == train_ids[0]).all():
            self._mark_one(int(train_ids[0]), pulse_ids)
            return
        rows = (train_ids // np.uint64(self._step) % WINDOW_TRAINS).astype(np.intp)
        entries = train_ids.astype(np.int64) + 1  # 0 marks an unused row
        if not np.array_equal(self._trains[rows], entries):
            newest = np.zeros(WINDOW_TRAINS, np.int64)
            np.maximum.at(newest, rows, entries)
            # Rows beyond the last train are of a clock that was set back since.
            current = np.where(self._trains > self._values[self._last] + 1, 0, self._trains)
            claimed = newest > current
            # Only what was used: clearing whole rows would walk through the table's 4 MiB again and again.
            self._seen[claimed, : int(self._used[claimed].max(initial=0))] = 0
            self._used[claimed] = 0
            self._trains[claimed] = newest[claimed]
            own = self._trains[rows] == entries
            rows, pulse_ids = rows[own], pulse_ids[own]
        columns = pulse_ids.astype(np.intp)
        self._seen[rows, columns] = 1
        self._used[rows] = np.maximum(self._used[rows], columns.max(initial=-1) + 1)

    def mark_train(self, train_id: int) -> None:
        """Remember that a train came of which nothing is kept, or without pulses: they may still come."""
        row = self._row(train_id)
        held = int(self._trains[row]) - 1
        if held == train_id or train_id < held <= int(self._values[self._last]):
            return
        self._seen[row, : self._used[row]] = 0
        self._used[row] = 0
        self._trains[row] = train_id + 1

    def _mark_one(self, train_id: int, pulse_ids: Ids) -> None:
        """`mark` for events of one train."""
        self.mark_train(train_id)
        row = self._row(train_id)
        if int(self._trains[row]) == train_id + 1:
            columns = pulse_ids.astype(np.intp)
            self._seen[row, columns] = 1
            self._used[row] = max(int(self._used[row]), int(columns.max()) + 1)

    def _row(self, train_id: int) -> int:
        return train_id // self._step % WINDOW_TRAINS

    def _count_gap(self, gap: int) -> None:
        if gap > MAX_GAP_TRAINS:
            self._values[self._jumps] += 1
            return
        lost = max(0, gap - int(self._values[self._rejected]))
        self._values[self._missing_trains] += lost
        self._values[self._missing] += lost * int(self._values[self._nominal])

    def _arrive_late(self, train_id: int, pulse_ids: Ids) -> Arrival:
        values = self._values
        if int(values[self._last]) - train_id >= WINDOW_TRAINS * self._step:
            return self._far_back(train_id)
        row = self._row(train_id)
        if int(self._trains[row]) != train_id + 1:
            if train_id == int(values[self._last]):
                return _IN_ORDER  # it came without pulses
            self._fill_gap()
            return Arrival(late=True)
        fresh = self._seen[row, pulse_ids.astype(np.intp)] == 0
        return Arrival(late=train_id != int(values[self._last]), fresh=fresh)

    def _far_back(self, train_id: int) -> Arrival:
        """Older than we remember: a stray, unless the next goes on from it; then the clock was set back."""
        values = self._values
        stray = int(values[self._stray]) - 1
        if 0 <= stray < train_id <= stray + WINDOW_TRAINS * self._step:
            values[self._jumps] += 1
            values[self._last], values[self._rejected], values[self._stray] = train_id, 0, 0
            self._newest = train_id
            return _IN_ORDER
        values[self._stray] = train_id + 1
        return Arrival(late=True)

    def _fill_gap(self) -> None:
        """A late train was counted missing before; it is not."""
        values = self._values
        if values[self._missing_trains] > 0:
            values[self._missing_trains] -= 1
            values[self._missing] = max(0, int(values[self._missing]) - int(values[self._nominal]))
