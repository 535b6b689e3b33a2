"""Frames out of the ring without owning a slot.

A picture for the page must cost the stream nothing, so no token is held and nothing is written: the memory
is mapped read-only, and the descriptor through which it could be written is closed. Slots are read while
others may write them, so each copy is checked. A slot whose state is DONE or FREE holds one finished block,
and before anything in it is written again its `seq` and then its `state` change (`filling`). Therefore a copy
made between two looks at both is whole if they are the same block, finished, both times; else it is thrown
away. The processor must keep the order of loads and of stores, as x86-64 does; on another one a picture may
be torn, and nothing else happens.

What is looked at: of the blocks that came since the last look the newest event of each class, the most novel
ones, and some at random. Copying is bounded in bytes a second.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from streamer import memory
from streamer.columns import Array, split, typed
from streamer.dashboard.gallery import Gallery, Shot, Value
from streamer.dashboard.labels import Labeller, novelties
from streamer.dashboard.thumbnail import thumbnail
from streamer.errors import ConfigError
from streamer.plan import StageSpec, attached_names, columns_of, layouts, route_names
from streamer.ring import DONE, FREE, Ring
from streamer.routing import REASON_VETO, REASONS

# A hundredth of what the memory gives: nobody notices it. A larger frame is copied when that much has been
# saved up.
COPIED_BYTES_A_S: Final = 8 << 20
EVENTS_A_LOOK: Final = 4096  # of the newest blocks
NOVEL_A_LOOK: Final = 2
RANDOM_A_LOOK: Final = 2
# A class is given a new picture so often: 64 of them then reach back half a minute.
CLASS_EVERY_S: Final = 0.5
# The raw frame goes with the picture up to this size: 724 x 724 pixels of uint16.
MAX_FULL_BYTES: Final = 1 << 20


class Seen(NamedTuple):
    """One finished block as it was when looked at. First axis of every array: event."""

    slot: int
    seq: int
    received_at_s: float
    events: dict[str, Array]
    """train_id, pulse_id, route, reason, results and attached scalars: copies."""


@dataclass(frozen=True)
class _Choice:
    """An event whose frame shall be copied."""

    seen: Seen
    at: int
    label: str
    novelty: float | None
    classes: tuple[str, ...]
    """In whose place of the gallery it goes."""


class Looks:
    """Pictures of one stream. Raises ConfigError if `spec.fd` is not its memory; closes the descriptor."""

    def __init__(self, spec: StageSpec, seed: int | None = None) -> None:
        self._columns, self._attached = columns_of(spec), attached_names(spec)
        self._routes = tuple(route_names(spec.settings))
        layout = layouts(spec.settings, spec.columns)
        whole = _map(spec.fd, layout.size_bytes)
        self.ring = Ring(memory.carve(whole, layout.sizes_bytes)[4], layout.ring)
        self._seen_seq = np.zeros(layout.ring.slots, np.uint64)
        self._random = np.random.default_rng(seed)
        self._class_at_s: dict[str, float] = {}
        self._allowance_bytes, self._allowed_at_s = 0.0, 0.0
        self.torn = 0
        """Copies thrown away because the slot was taken meanwhile."""

    def look(self, gallery: Gallery, labeller: Labeller, now_s: float) -> int:
        """Add pictures of what is new at `now_s` (unix); how many."""
        self._allow(now_s)
        added = 0
        for choice in self._choose(list(self._new_blocks()), gallery, labeller, now_s):
            if self._allowance_bytes <= 0:
                break
            shot = self._shoot(choice)
            if shot is not None:
                gallery.add(shot, now_s, choice.classes)
                added += 1
        return added

    def _allow(self, now_s: float) -> None:
        """Bytes that may be copied: at most those of one second are saved up; a copy may overdraw them."""
        passed_s = min(1.0, max(0.0, now_s - self._allowed_at_s))
        saved = self._allowance_bytes + passed_s * COPIED_BYTES_A_S
        self._allowance_bytes, self._allowed_at_s = min(saved, COPIED_BYTES_A_S), now_s

    # --- which blocks -------------------------------------------------------------------------------

    def _new_blocks(self) -> Iterator[Seen]:
        """Finished blocks not seen before, newest first, at most EVENTS_A_LOOK events."""
        ring, events = self.ring, 0
        seqs = ring.seq.copy()
        new = (seqs > 0) & (seqs != self._seen_seq) & np.isin(ring.state, (DONE, FREE))
        for slot in sorted(np.flatnonzero(new).tolist(), key=lambda slot: -int(seqs[slot])):
            if events >= EVENTS_A_LOOK:
                return
            seen = self._read(slot, int(seqs[slot]))
            if seen is not None:
                self._seen_seq[slot] = seen.seq
                events += len(seen.events["train_id"])
                yield seen

    def _read(self, slot: int, seq: int) -> Seen | None:
        """Everything of a block but its frames; None if it is not whole."""
        ring = self.ring
        n = int(ring.n[slot])
        if not (0 < n <= ring.layout.events and ring.holds(slot, seq, DONE, FREE)):
            return None
        names = ("train_id", "pulse_id", "route", "reason")
        events: dict[str, Array] = {name: getattr(ring, name)[slot, :n].copy() for name in names}
        packed, attached = ring.packed[slot, :n].copy(), ring.attached[slot, :n].copy()
        received_at_s = float(ring.received_at_s[slot])
        if int(ring.n[slot]) != n or not ring.holds(slot, seq, DONE, FREE):
            self.torn += 1
            return None
        events |= zip(self._attached, attached.T, strict=True)
        events |= typed(split(packed, self._columns), self._columns)
        return Seen(slot, seq, received_at_s, events)

    # --- which events -------------------------------------------------------------------------------

    def _choose(
        self, blocks: Sequence[Seen], gallery: Gallery, labeller: Labeller, now_s: float
    ) -> Iterator[_Choice]:
        """Most wanted first: the most novel, the newest of each class, a random rest. None twice."""
        if not blocks:
            return
        events = {name: np.concatenate([b.events[name] for b in blocks]) for name in blocks[0].events}
        labels, novelty = labeller(events), novelties(events)
        sizes = [len(block.events["train_id"]) for block in blocks]
        ends = np.cumsum(sizes)
        chosen: set[int] = set()
        newest = labeller.newest(events, labels)
        due = self._due(newest, now_s)
        novel = [] if novelty is None else _most_novel(novelty, gallery)
        rest = self._random.integers(0, len(labels), RANDOM_A_LOOK).tolist()
        for index in [*novel, *due, *rest]:
            if index in chosen:
                continue
            chosen.add(index)
            block = int(np.searchsorted(ends, index, side="right"))
            at = index - int(ends[block] - sizes[block])
            own = None if novelty is None or np.isnan(novelty[index]) else float(novelty[index])
            yield _Choice(blocks[block], at, labels[index], own, due.get(index, ()))

    def _due(self, newest: Mapping[str, int], now_s: float) -> dict[int, tuple[str, ...]]:
        """The newest event of each class that waits for a picture, with these classes."""
        due: dict[int, tuple[str, ...]] = {}
        for label, index in newest.items():
            if self._class_is_due(label, now_s):
                due[index] = (*due.get(index, ()), label)
        return due

    def _class_is_due(self, label: str, now_s: float) -> bool:
        if now_s - self._class_at_s.get(label, -np.inf) < CLASS_EVERY_S:
            return False
        if len(self._class_at_s) > 1024:  # made-up labels: forget when which was shown
            self._class_at_s.clear()
        self._class_at_s[label] = now_s
        return True

    # --- its picture --------------------------------------------------------------------------------

    def _shoot(self, choice: _Choice) -> Shot | None:
        """Copy one frame; None if its slot was taken meanwhile."""
        seen, ring = choice.seen, self.ring
        self._allowance_bytes -= ring.layout.event_bytes
        frame = ring.frames[seen.slot, choice.at].copy()
        if not ring.holds(seen.slot, seen.seq, DONE, FREE):
            self.torn += 1
            return None
        event = {name: column[choice.at] for name, column in seen.events.items()}
        picture = thumbnail(frame)
        fits = frame.nbytes <= MAX_FULL_BYTES
        return Shot(
            train_id=int(event.pop("train_id")),
            pulse_id=int(event.pop("pulse_id")),
            received_at_s=seen.received_at_s,
            verdict=self._verdict(int(event.pop("reason")), int(event.pop("route"))),
            label=choice.label,
            columns={name: _plain(value) for name, value in event.items()},
            picture=picture,
            novelty=choice.novelty,
            full=frame if fits else None,
        )

    def _verdict(self, reason: int, route: int) -> str:
        if reason == REASON_VETO:
            return "veto"
        name = REASONS[reason] if reason < len(REASONS) else "?"
        return f"keep:{self._routes[route]}" if 0 <= route < len(self._routes) else f"keep:{name}"


def _most_novel(novelty: npt.NDArray[np.float64], gallery: Gallery) -> list[int]:
    """The events that would be among the most novel, at most NOVEL_A_LOOK."""
    first = np.argsort(-np.nan_to_num(novelty, nan=-np.inf))[:NOVEL_A_LOOK].tolist()
    return [index for index in first if gallery.is_novel(float(novelty[index]))]


def _plain(value: Array) -> Value:
    plain = value.tolist()
    return tuple(plain) if isinstance(plain, list) else plain


def _map(fd: int, size_bytes: int) -> memoryview:
    """The memory behind an inherited descriptor, read-only; the descriptor is closed. Raises ConfigError."""
    try:
        kind = os.readlink(f"/proc/self/fd/{fd}")
        if not kind.startswith("/memfd:") or os.fstat(fd).st_size != size_bytes:
            raise ConfigError(
                f"descriptor {fd} is {kind[:80]} of {os.fstat(fd).st_size} bytes; expected the stream's "
                f"memory of {size_bytes}: start the page by the run, which passes it"
            )
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"descriptor {fd} of the stream's memory cannot be opened: {error.strerror}; "
            "start the page by the run, which passes it"
        ) from error
    os.close(fd)
    try:
        return memory.attach(own, read_only=True)
    finally:
        os.close(own)
