"""Small messages made to take much memory or time: refused with flat memory."""

import time
import tracemalloc

import msgpack
import pytest

from streamer.errors import FrameError
from streamer.wire.karabo_bridge import Limits, decode
from streamer.wire.msgpack_guard import MessageGuard

MAIN = msgpack.packb({"source": "S", "content": "msgpack", "metadata": {}})
MIB = 2**20

PAYLOADS = {
    "10 MB of empty maps": b"\xdd\x00\x98\x96\x80" + b"\x80" * 10_000_000,
    "10 MB of 0x80": b"\x80" * 10_000_000,
    "1 MB of empty maps": b"\xdd\x00\x0f\x42\x40" + b"\x80" * 1_000_000,
    "60 kB of empty maps": b"\xdc\xea\x60" + b"\x80" * 60_000,
    "depth 100 000": b"\x91" * 100_000 + b"\x00",
    "depth 2000": b"\x91" * 2000 + b"\x00",
    "nested claims of 65535 items": b"\xdc\xff\xff" * 1000 + b"\x00" * 65536,
    "nested claims of 2**32 - 1 items": b"\xdd\xff\xff\xff\xff" * 1000,
    "nested maps that claim 65535 pairs": (b"\xde\xff\xff\xa1a") * 1000,
    "text that claims 4 GB": b"\xdb\xff\xff\xff\xff",
    "bytes that claim 4 GB": b"\xc6\xff\xff\xff\xff",
    "a list that claims 4 G items": b"\xdd\xff\xff\xff\xff",
    "4 MB of numbers": b"\xdd\x00\x3d\x09\x00" + b"\x01" * 4_000_000,
    "4 MB of short texts": b"\xdd\x00\x14\x58\x55" + b"\xa2ab" * 1_333_333,
}


def refuse(frames: list[bytes]) -> tuple[str, float, int]:
    """(reason, seconds, peak of newly allocated bytes) of a refusal."""
    started_s = time.perf_counter()
    with pytest.raises(FrameError):
        decode(frames)
    took_s = time.perf_counter() - started_s
    tracemalloc.start()
    try:
        with pytest.raises(FrameError) as caught:
            decode(frames)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return caught.value.reason, took_s, peak_bytes


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("version", ["2.2", "1.0"])
def test_bomb_in_properties(name, version):
    payload = PAYLOADS[name]
    frames = [MAIN, payload] if version == "2.2" else [b"\x81\xa1S\x81\xa1k" + payload]
    reason, took_s, peak_bytes = refuse(frames)
    assert reason == "bad_payload"
    assert peak_bytes < 4 * MIB
    assert took_s < 0.5  # some 10 ms; the bound is that of a loaded build server


@pytest.mark.parametrize("name", PAYLOADS)
def test_bomb_in_header(name):
    reason, took_s, peak_bytes = refuse([PAYLOADS[name], b""])
    assert reason in ("bad_header", "header_too_large")
    assert peak_bytes < 4 * MIB
    assert took_s < 0.5


def test_bomb_in_pieces():
    piece = msgpack.packb({"k": [{}] * 490})  # below the size from which a payload is walked
    frames = [
        f for i in range(2048) for f in (msgpack.packb({"source": str(i), "content": "msgpack"}), piece)
    ]
    reason, _, peak_bytes = refuse(frames)
    assert reason == "bad_payload"
    assert peak_bytes < 32 * MIB  # 80 bytes for each of the 262144 that pass without a walk, and the headers


def test_endless_parts():
    reason, took_s, peak_bytes = refuse([b"\x80"] * 1_000_000)
    assert reason == "too_many_frames"
    assert peak_bytes < MIB
    assert took_s < 0.5


@pytest.mark.parametrize(
    "value",
    [
        list(range(65535)),
        {str(i): i for i in range(4000)},
        "x" * 1_000_000,
        b"\x80" * 1_000_000,
        [[1.5] * 20 for _ in range(2000)],
        {"a": [None, True, -1, 2**40, -(2**40), 1e300, "é" * 300, b"\xdc" * 70000, {"b": []}]},
    ],
    ids=["list", "map", "text", "bytes", "table", "all kinds"],
)
def test_large_honest_values_pass(value):
    packed = msgpack.packb(value)
    assert MessageGuard(Limits()).unpack(packed) == value
    assert MessageGuard(Limits()).walk(packed) <= len(packed)


def test_walk_counts_bytes_outside_binaries():
    assert (
        MessageGuard(Limits()).walk(msgpack.packb({"k": b"x" * 1000})) == 6
    )  # map, 'k', and the 3 bytes of bin 16


@pytest.mark.parametrize("limits", [Limits(max_items=10), Limits(max_containers=10)])
def test_walk_keeps_its_limits(limits):
    with pytest.raises(ValueError, match="above"):
        MessageGuard(limits).walk(msgpack.packb([[]] * 11))
