"""A pipeline of several streams under measurement: its processes, its ledgers added up.

`running.Running` is the same for one stream. Owns the configuration of a point of `growth`, the window
between two looks, and the check at the end; knows nothing of axes and pictures.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.config import Load, run_config
from benchmarks.running import Started
from streamer.config import RunConfig

RING_BYTES: Final = 64 << 20
# `one_in` that draws none of any number of events, by the same way as the others.
NONE_OF: Final = 2**62


@dataclass(frozen=True)
class Point:
    """What is measured at one place of an axis."""

    load: Load
    streams: int = 1
    subscribers: int = 0
    """SUB sockets at the results of the first stream."""
    one_in: int = 100
    """One frame in so many is stored; NONE_OF: no frame."""

    def config(self, endpoints: list[str], folder: Path) -> RunConfig:
        """`endpoints`: the source of each stream."""
        route = [{"name": "sample", "one_in": self.one_in}]
        more: dict[str, Any] = {"ring_bytes": RING_BYTES, "route": route}
        runs = [run_config(self.load, endpoint, folder, **more).model_dump() for endpoint in endpoints]
        streams = [run["stream"][0] | {"name": f"bench{i}"} for i, run in enumerate(runs)]
        return RunConfig.model_validate(runs[0] | {"stream": streams})

    @property
    def ring_events(self) -> int:
        """Events of all streams that go once round their rings."""
        return self.streams * self.load.messages_in(RING_BYTES) * self.load.pulses


class Streams(Started):
    """A started pipeline of all streams of a point."""

    def __init__(self, point: Point, endpoints: list[str]) -> None:
        super().__init__(lambda folder: point.config(endpoints, folder))

    @property
    def results(self) -> str:
        """Where the first stream publishes."""
        return str(self._config.stream[0].publish.results)
