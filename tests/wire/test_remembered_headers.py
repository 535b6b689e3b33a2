"""Headers that a decoder remembers: same trains, same refusals, bounded memory."""

import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.errors import FrameError
from streamer.wire.karabo_bridge import Decoder, Limits, decode, encode
from streamer.wire.karabo_bridge_headers import REMEMBERED_BYTES, REMEMBERED_HEADERS

MIB = 2**20
LONGEST = "\U0001d11e" * 105  # four bytes per letter, on the wire and in memory


def array(path: str, payload: bytes = b"\0" * 4, /, **changes: Any) -> list[bytes]:
    header = {"source": "S", "content": "array", "path": path, "dtype": "uint16", "shape": [2]}
    return [msgpack.packb(header | changes), payload]


def outcome(decoder: Decoder, frames: list[bytes]) -> Any:
    """All that is in the train, or the text of the refusal."""
    try:
        train = decoder.decode(frames)
    except FrameError as error:
        return str(error)
    return {
        source: (
            repr(data.values),
            repr(data.metadata),
            {key: (a.dtype, a.shape, a.tobytes()) for key, a in data.arrays.items()},
        )
        for source, data in train.sources.items()
    }


def message(train_id: int) -> list[bytes]:
    data = np.full((1, 2, 3), train_id, "u2")
    sources = {"D": {"image.data": data, "image.pulseId": np.array([train_id % 5], "u8"), "n": train_id}}
    return [bytes(frame) for frame in encode(sources, {"D": {"timestamp.tid": train_id}})]


def test_each_message_has_its_own_data() -> None:
    decoder = Decoder()
    trains = [decoder.decode(message(train_id)) for train_id in range(1, 4)]
    assert [train.train_id("D") for train in trains] == [1, 2, 3]
    assert [train.sources["D"].values for train in trains] == [{"n": 1}, {"n": 2}, {"n": 3}]
    arrays = [train.sources["D"].arrays for train in trains]
    assert [a["image.data"].flat[0] for a in arrays] == [1, 2, 3]
    assert [a["image.pulseId"].tolist() for a in arrays] == [[1], [2], [3]]
    assert not any(a["image.data"].flags.writeable for a in arrays)


def test_the_payload_is_checked_each_time() -> None:
    decoder = Decoder()
    decoder.decode(array("k"))
    for payload in (b"", b"\0" * 3, b"\0" * 5):
        with pytest.raises(FrameError, match=rf"S\[k\].*takes 4 bytes, got {len(payload)}") as caught:
            decoder.decode(array("k", payload))
        assert caught.value.reason == "size_mismatch"
    assert decoder.decode(array("k", b"\1\0\2\0")).sources["S"].arrays["k"].tolist() == [1, 2]


def test_an_array_that_comes_twice_is_refused_each_time() -> None:
    decoder = Decoder()
    decoder.decode(array("k"))
    for _ in range(2):
        with pytest.raises(FrameError, match="array 'k' of source 'S' comes twice"):
            decoder.decode(array("k") * 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"path": 5},
        {"dtype": "object"},
        {"dtype": "c8"},
        {"shape": [-1]},
        {"shape": [2**62]},
        {"content": "x"},
    ],
)
def test_a_bad_header_is_refused_each_time(changes: dict[str, Any]) -> None:
    decoder, frames = Decoder(), array("k", **changes)
    first = outcome(decoder, frames)
    assert isinstance(first, str)
    assert outcome(decoder, frames) == first == outcome(Decoder(), frames)


def test_remembered_headers_count_for_the_limit_of_a_message() -> None:
    frames = array("a") + array("b") + array("c")
    size_bytes = sum(map(len, frames[::2]))
    decoder = Decoder(Limits(max_properties_bytes=size_bytes))
    assert isinstance(outcome(decoder, frames), dict)
    assert isinstance(outcome(decoder, frames), dict)
    more = frames + array("d")
    for _ in range(2):
        assert f"frame 6: above {size_bytes} bytes" in str(outcome(decoder, more))


def test_remembered_headers_count_as_items_where_others_do() -> None:
    """Beyond 256 kB every header of a message is walked and its items counted, known or not."""
    pairs = [array(f"{i:04}", params=[1] * 400) for i in range(800)]
    frames = [frame for pair in pairs for frame in pair]
    decoder = Decoder()
    for pair in pairs[-200:]:
        decoder.decode(pair)
    refusal = outcome(Decoder(), frames)
    assert "above 65536 items" in str(refusal)
    assert outcome(decoder, frames) == refusal


def grown_bytes(decoder: Decoder, messages: list[list[bytes]]) -> int:
    """Memory that stays in the decoder after these messages."""
    tracemalloc.start()
    try:
        for frames in messages:
            decoder.decode(frames)
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("count", [REMEMBERED_HEADERS, 20 * REMEMBERED_HEADERS - 1])
def test_ever_new_headers_take_bounded_memory(count: int) -> None:
    messages = [array(f"{i}", b"\0" * 2, source=LONGEST, shape=[1] * 8) for i in range(count)]
    assert REMEMBERED_BYTES * 0.9 < len(messages[-1][0]) <= REMEMBERED_BYTES
    assert 100 * REMEMBERED_HEADERS < grown_bytes(Decoder(), messages) < MIB


def test_long_headers_are_not_remembered() -> None:
    messages = [array(f"{i}" + "x" * REMEMBERED_BYTES) for i in range(1000)]
    assert grown_bytes(Decoder(), messages) < 64 * 1024


def test_ever_new_headers_change_nothing_for_others() -> None:
    """The worst is that an honest header is read again, as without a memory."""
    decoder = Decoder()
    for train_id in range(1, 8):
        flood = [frame for i in range(REMEMBERED_HEADERS) for frame in array(f"{train_id}.{i}")]
        assert len(decoder.decode(flood).sources["S"].arrays) == REMEMBERED_HEADERS
        assert outcome(decoder, message(train_id)) == outcome(Decoder(), message(train_id))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_history_gives_what_a_new_decoder_gives(data: st.DataObject) -> None:
    decoder = Decoder()
    for _ in range(data.draw(st.integers(1, 4))):
        frames = [bytearray(frame) for frame in message(data.draw(st.integers(1, 3)))]
        for _ in range(data.draw(st.integers(0, 2))):
            frame = data.draw(st.sampled_from(frames))
            frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
        parts = [bytes(frame) for frame in frames]
        assert outcome(decoder, parts) == outcome(Decoder(), parts)


def test_decode_is_a_decoder_for_one_message() -> None:
    assert decode(message(4)).train_id("D") == Decoder().decode(message(4)).train_id("D") == 4
