"""The metadata that the Karabo Bridge sends with each source. Format: `karabo_bridge.serializer`."""

from typing import Any


def stamp(source: str, train_id: int, time_ns: int) -> dict[str, Any]:
    """Metadata of one source in one train; `time_ns` since 1970."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return {
        "source": source,
        "timestamp": time_ns / 1e9,
        "timestamp.sec": str(seconds),
        "timestamp.frac": f"{nanoseconds:09d}000000000",  # attoseconds
        "timestamp.tid": train_id,
    }
