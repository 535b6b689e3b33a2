"""The field's own package, karabo-bridge, reads what we write and writes what we read."""

import numpy as np
import pytest
from karabo_bridge.serializer import deserialize, serialize

from streamer.wire.karabo_bridge import decode, encode

SOURCES = {
    "SPB_DET_AGIPD1M-1/DET/0CH0:xtdf": {
        "image.data": np.arange(24, dtype="u2").reshape(2, 3, 4),
        "image.gain": np.arange(24, dtype=">f4").reshape(2, 3, 4),
        "image.pulseId": np.array([0, 4], "u8"),
        "image.valid": np.array([True, False]),
        "image.none": np.zeros((0, 3), "f8"),
        "header.magic": b"\x01\x02",
        "comment": "naïve",
    },
    "SA1_XTD2_XGM/XGM/DOOCS": {"data.intensity": 1.5, "data.n": 3, "data.list": [1, 2, 3]},
}
METADATA = {
    source: {"source": source, "timestamp": 1.5, "timestamp.sec": "1", "timestamp.tid": 10_000_000_000}
    for source in SOURCES
}


def assert_same(got, want):
    if isinstance(want, np.ndarray):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    else:
        assert got == want


@pytest.mark.parametrize("version", ["2.2", "1.0"])
def test_it_reads_what_we_write(version):
    frames = [bytes(frame) for frame in encode(SOURCES, METADATA, version)]
    data, metadata = deserialize(frames)
    assert metadata == METADATA
    for source, properties in SOURCES.items():
        for key, value in properties.items():
            assert_same(data[source][key], value)


@pytest.mark.parametrize("version", ["2.2", "1.0"])
def test_we_read_what_it_writes(version):
    frames = serialize(SOURCES, METADATA, protocol_version=version)
    train = decode([bytes(frame) for frame in frames])
    for source, properties in SOURCES.items():
        data = train.sources[source]
        assert data.metadata == METADATA[source]
        assert data.values.keys() | data.arrays.keys() == properties.keys()
        for key, value in properties.items():
            assert_same(data.arrays[key] if isinstance(value, np.ndarray) else data.values[key], value)


def test_version_2_2_is_the_same_byte_for_byte():
    theirs = [bytes(frame) for frame in serialize(SOURCES, METADATA)]
    assert [bytes(frame) for frame in encode(SOURCES, METADATA)] == theirs


def test_its_version_1_scalars_become_numbers():
    frames = serialize({"S": {"x": np.uint16(7), "y": np.float32(0.5)}}, {"S": {}}, protocol_version="1.0")
    assert decode(frames).sources["S"].values == {"x": 7, "y": 0.5}
