"""Every integration test is searched for leaks; a run's configuration is written in one place."""

from collections.abc import Callable
from pathlib import Path

import pytest
from processes import free_port

# A stream of noise frames as `streamer.facility.simulator --kind noise` sends them, without a network.
NOISE = """
[[stream]]
name = "noise"
{stream}
[stream.source]
endpoint = "{endpoint}"
socket = "{socket}"
source = "{name}"
key = "image.data"
pulse_key = "image.pulseId"
axes = "{axes}"
shape = {shape}
dtype = "{dtype}"
{source}
[stream.publish]
results = "{results}"
verdicts = "{verdicts}"
{publish}
{routes}
"""
OUTPUT = """
[metrics]
port = {metrics}
[output]
directory = "{directory}"
segment_bytes = {segment_bytes}
reserve_bytes = 0
"""

WriteConfig = Callable[..., str]


@pytest.fixture(autouse=True)
def _search_for_leaks(leaks: None) -> None:
    """See `leaks`."""


@pytest.fixture
def noise(folder: Path) -> WriteConfig:
    """Text of a configuration of one stream, `noise`; every placeholder of the templates can be given."""

    def write(endpoint: str, **given: object) -> str:
        values: dict[str, object] = {
            "endpoint": endpoint,
            "socket": "PULL",
            "name": "SIM_DET_NOISE/DET/CAM:output",
            "axes": "pulse slow fast",
            "shape": [64, 64],
            "dtype": "uint16",
            "results": f"tcp://127.0.0.1:{free_port()}",
            "verdicts": f"tcp://127.0.0.1:{free_port()}",
            "directory": folder / "out",
            "segment_bytes": 8 << 20,
            **dict.fromkeys(("stream", "source", "publish", "routes", "top"), ""),
            "metrics": 0,
        }
        values |= given
        return (str(values["top"]) + OUTPUT + NOISE).format_map(values)

    return write
