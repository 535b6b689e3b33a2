"""The slots that ingest can fill, and those it has lent.

Owns the list of free slots; a slot comes back by token from the sink. What a dead sink could not say any more
is found by looking at the table: a lent slot that is FREE can mean nothing else.
"""

from streamer.ring import DONE, FREE, READY, TAKEN, Ring
from streamer.tokens import Tokens


class Slots:
    """Free and lent slots of one ring. `freed` is where their tokens come back."""

    def __init__(self, ring: Ring, freed: Tokens) -> None:
        self.freed = freed
        self._ring = ring
        # Last in, first out: the slot used last is still in the processor's cache.
        self._free: list[int] = []
        self._lent: dict[int, bool] = {}  # slot -> it went straight to the sink
        self.not_back = 0
        """Blocks given to inference whose slots are not back."""
        for slot, state in enumerate(ring.state.tolist()):  # one look: what comes free now comes by its token
            if state == FREE:
                self._free.append(slot)
            else:
                self.lend(slot, direct=state == DONE)

    @property
    def lent(self) -> bool:
        return bool(self._lent)

    def any_free(self) -> bool:
        self.look()
        return bool(self._free)

    def take(self) -> int | None:
        """A free slot, or None."""
        self.reclaim()
        if not self._free:
            self.look()
        return self._free.pop() if self._free else None

    def lend(self, slot: int, direct: bool) -> None:
        self._lent[slot] = direct
        self.not_back += not direct

    def reclaim(self) -> None:
        """Take back the slots that the sink says are free."""
        for slot, seq in self.freed.receive():
            if self._ring.holds(slot, seq, FREE):
                self._take_back(slot)

    def look(self) -> None:
        """Take back what is free without a token: with nothing to do, or nothing free."""
        self.reclaim()
        for slot in [slot for slot in self._lent if self._ring.state[slot] == FREE]:
            self._take_back(slot)

    def waiting_for_inference(self) -> int:
        """Blocks that inference has not finished. Looks at every slot: ask `not_back` first."""
        return len(self._ring.left_in(READY, TAKEN))

    def _take_back(self, slot: int) -> None:
        if slot in self._lent:
            self.not_back -= not self._lent.pop(slot)
            self._free.append(slot)
