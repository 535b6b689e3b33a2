"""What a decoder gives, whatever the wire format, and the limits it keeps.

Owns the nouns of one decoded message. Knows no format, no socket and no stream configuration.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

from numpy.typing import NDArray

from streamer.errors import FrameError

Array = NDArray[Any]
Buffer = memoryview | bytes
Version = Literal["2.2", "2.1", "2.0", "1.0"]

# Train ids are u8 in the result files and in the ledger; a signed reader must not see them turn negative, nor
# overflow where it holds the id + 1 because 0 says 'none'.
TRAIN_ID_END: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one message. What exceeds one is refused before anything is allocated for it."""

    # 16 detector modules with some 20 arrays each are 320 pairs; the rest is room for slow sources.
    max_frames: int = 4096
    # A real header has 100 to 300 bytes; one of this size is not a header.
    max_header_bytes: int = 64 * 1024
    # Headers and property maps of a message (in 1.0 all that is not an array). A slow device sends some kB.
    # Python objects take up to about 20 times their msgpack bytes, so this also bounds memory to some 80 MB.
    max_properties_bytes: int = 4 * 1024 * 1024
    # Items in them: 16 modules with three lists of 800 ids are 38 thousand. Walking this many takes 10 ms.
    max_items: int = 2**16
    # Maps and lists in them: an empty one is 1 byte on the wire, 80 in memory; a slow device has some tens.
    max_containers: int = 4096
    # (pulse, module, gain, slow, fast) are 5; nobody sends more than 8.
    max_ndim: int = 8
    # No frame of a message is larger; the full 1 Mpx detector with 352 pulses in float32 is 1.5 GB.
    max_array_bytes: int = 8 * 1024**3


DEFAULT_LIMITS: Final = Limits()


@dataclass(slots=True)
class SourceData:
    """One source in one train. Treat it as read-only: frozen would cost 1 us in each.

    values: all that is not an array, by key, of msgpack's types.
    arrays: read-only views of the received frames, by key, in wire byte order.
    metadata: 'timestamp', 'timestamp.tid', ...; any may be missing.
    """

    values: dict[str, Any]
    arrays: dict[str, Array]
    metadata: dict[str, Any]


@dataclass(slots=True)
class Train:
    """One decoded message: its sources by name."""

    sources: dict[str, SourceData]

    def train_id(self, source: str) -> int | None:
        """The id that `source` states in its metadata; None if it states none or is absent.

        Raises FrameError('bad_header') when the id is not an integer in 0 .. 2**63 - 2.
        """
        data = self.sources.get(source)
        train_id = data.metadata.get("timestamp.tid") if data is not None else None
        if train_id is None:
            return None
        if type(train_id) is not int or not 0 <= train_id < TRAIN_ID_END:
            raise FrameError(
                "bad_header",
                f"metadata of source {source!r}: 'timestamp.tid' must be an integer in 0 .. 2**63 - 2, "
                f"got {str(train_id)[:40]!r} ({type(train_id).__name__}); check the sender",
            )
        return train_id
