"""Karabo Bridge: golden bytes, round trips, and every fault a message can have."""

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streamer.errors import FrameError
from streamer.wire.karabo_bridge import Limits, Train, decode, encode

SOURCE = "SPB_DET_AGIPD1M-1/DET/0CH0:xtdf"
VERSIONS = ("2.2", "2.1", "2.0", "1.0")
METADATA = {
    "source": SOURCE,
    "timestamp": 1700000000.5,
    "timestamp.sec": "1700000000",
    "timestamp.frac": "500000000000000000",
    "timestamp.tid": 10_000_000_000,
}
GOLDEN = {
    "image.data": np.arange(6, dtype="u2").reshape(1, 2, 3),
    "image.pulseId": np.array([0, 4], "u8"),
    "n": 3,
    "f": 1.5,
    "s": "x",
    "l": [1, 2],
    "b": b"\1",
}


def pair(payload: bytes = b"", **header: Any) -> list[bytes]:
    return [msgpack.packb(header), payload]


def array_pair(payload: bytes = b"\0" * 4, **changes: Any) -> list[bytes]:
    header = {"source": "S", "content": "array", "path": "k", "dtype": "uint16", "shape": [2]}
    return pair(payload, **(header | changes))


def properties_pair(values: Any, **changes: Any) -> list[bytes]:
    header = {"source": "S", "content": "msgpack", "metadata": {}}
    return pair(msgpack.packb(values), **(header | changes))


def refused(frames: list[Any], limits: Limits | None = None) -> FrameError:
    with pytest.raises(FrameError) as caught:
        decode(frames, limits or Limits())
    return caught.value


def same(got: Any, want: Any) -> bool:
    return got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes()


def test_golden_message_of_version_2_2():
    frames = [bytes(frame) for frame in encode({SOURCE: GOLDEN}, {SOURCE: METADATA})]
    assert [len(frame) for frame in frames] == [206, 29, 93, 12, 94, 16]
    assert frames[0] == msgpack.packb({"source": SOURCE, "content": "msgpack", "metadata": METADATA})
    assert frames[1] == msgpack.packb({"n": 3, "f": 1.5, "s": "x", "l": [1, 2], "b": b"\1"})
    assert frames[3].hex() == "000001000200030004000500"
    assert msgpack.unpackb(frames[4]) == {
        "source": SOURCE,
        "content": "array",
        "path": "image.pulseId",
        "dtype": "uint64",
        "shape": [2],
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_round_trip_of_every_version(version):
    arrays = {
        "native": np.arange(6, dtype="u2").reshape(1, 2, 3),
        "swapped": np.arange(6, dtype=">u2").reshape(2, 3),
        "scalar": np.array(2.5, "f4"),
        "empty": np.zeros((0, 512, 128), "f4"),
        "strided": np.arange(12, dtype="i4").reshape(3, 4).T,
        "flags": np.array([True, False]),
        "half": np.array([1.5], "f2"),
    }
    values = {"n": 3, "f": 1.5, "s": "x", "l": [1, 2], "b": b"\1", "map": {"x": None}, "none": None}
    train = decode(encode({SOURCE: arrays | values}, {SOURCE: METADATA}, version))
    data = train.sources[SOURCE]
    assert data.values == values
    assert data.metadata == METADATA
    assert data.arrays.keys() == arrays.keys()
    for key, array in arrays.items():
        assert same(data.arrays[key], np.ascontiguousarray(array).reshape(array.shape)), key
    assert train.train_id(SOURCE) == 10_000_000_000


@pytest.mark.parametrize("version", VERSIONS)
def test_source_without_metadata_and_numpy_scalars(version):
    train = decode(encode({"A": {"x": np.float32(1.5), "y": np.uint8(3)}, "B": {}}, {}, version))
    assert train.sources["A"].values == {"x": 1.5, "y": 3}
    assert train.sources["A"].metadata == {}
    assert train.sources["B"].values == {}
    assert train.train_id("A") is None
    assert train.train_id("absent") is None


def test_arrays_are_read_only_views_of_the_frames():
    payload = bytearray(np.arange(4, dtype="u2").tobytes())
    frames = [memoryview(frame) for frame in properties_pair({}) + array_pair(shape=[4])[:1]]
    array = decode([*frames, memoryview(payload)]).sources["S"].arrays["k"]
    assert not array.flags.writeable
    payload[0] = 7
    assert array.tolist() == [7, 1, 2, 3]


def test_encode_does_not_copy_contiguous_arrays():
    image = np.zeros((2, 3), "u2")
    payload = encode({"S": {"k": image}}, {})[3]
    image[0, 0] = 5
    assert bytes(payload[:2]) == b"\5\0"


def test_encode_refuses_what_has_no_place_on_the_wire():
    with pytest.raises(ValueError, match=r"'k' of dtype object"):
        encode({"S": {"k": np.array([None])}}, {})
    with pytest.raises(ValueError, match=r"version '3\.0': expected one of 1\.0, 2\.2, 2\.1, 2\.0"):
        encode({}, {}, "3.0")


def test_array_before_its_source_is_accepted():
    train = decode(array_pair() + properties_pair({"n": 1}, metadata={"timestamp.tid": 5}))
    assert train.sources["S"].values == {"n": 1}
    assert train.sources["S"].arrays["k"].tolist() == [0, 0]
    assert train.train_id("S") == 5


def test_image_data_is_an_array():
    train = decode(properties_pair({}) + array_pair(content="ImageData", params={"encoding": "GRAY"}))
    assert train.sources["S"].arrays["k"].shape == (2,)


@pytest.mark.parametrize("train_id", [True, 1.0, "5", -1, 2**63 - 1, 2**63, [1]])
def test_train_id_must_be_an_integer_in_range(train_id):
    train = decode(properties_pair({}, metadata={"timestamp.tid": train_id}))
    with pytest.raises(FrameError, match=r"source 'S': 'timestamp\.tid' must be an integer") as caught:
        train.train_id("S")
    assert caught.value.reason == "bad_header"


def test_largest_train_id():
    assert decode(properties_pair({}, metadata={"timestamp.tid": 2**63 - 2})).train_id("S") == 2**63 - 2


OBJECTS = np.array([None]).dtype
FAULTS = {
    "no frames": ([], "odd_frame_count", "got 0 frames"),
    "odd": ([*array_pair(), b""], "odd_frame_count", "got 3 frames"),
    "header is not msgpack": ([b"\xc1", b""], "bad_header", "frame 0: not msgpack"),
    "header is a list": ([b"\x90", b""], "bad_header", "frame 0: expected a map, got list"),
    "header is empty": ([b"", b""], "bad_header", "frame 0"),
    "header is truncated": ([array_pair()[0][:-1], b"\0" * 4], "bad_header", "frame 0"),
    "header has more": ([array_pair()[0] + b"\0", b"\0" * 4], "bad_header", "frame 0"),
    "header with integer key": ([b"\x81\x01\x01", b""], "bad_header", "frame 0"),
    "header with extension": ([b"\x81\xa1a\xd4\x05\x00", b""], "bad_header", "frame 0"),
    "header with empty extension": ([b"\x81\xa1a\xc7\x00\x05", b""], "bad_header", "extension type 5"),
    "header with timestamp": ([b"\x81\xa1a\xd7\xff" + b"\xff" * 8, b""], "bad_header", "frame 0"),
    "header with bad text": ([b"\x81\xa1\xff\x01", b""], "bad_header", "frame 0"),
    "later header": ([*array_pair(), b"\xc1", b""], "bad_header", "frame 2: not msgpack"),
    "no source": (pair(content="msgpack"), "bad_header", "got None and 'msgpack'"),
    "source is bytes": (pair(source=b"S", content="msgpack"), "bad_header", "got b'S'"),
    "no content": (pair(source="S"), "bad_header", "got 'S' and None"),
    "content is a list": (pair(source="S", content=[]), "bad_header", "and []"),
    "reversed parts": (properties_pair({"a": 1})[::-1], "bad_header", "got None and None"),
    "unknown content": (pair(source="S", content="xml"), "unknown_content", "'msgpack'], got 'xml'"),
    "pickle": (pair(source="S", content="pickle.HIGHEST_PROTOCOL"), "pickle_refused", "pickle.HIGHEST"),
    "properties not msgpack": (
        pair(b"\xc1", source="S", content="msgpack"),
        "bad_payload",
        "'S': not msgpack",
    ),
    "properties a list": (properties_pair([1]), "bad_payload", "'S': expected a map, got list"),
    "properties with bytes key": (properties_pair({b"a": 1}), "bad_payload", "must be text, got b'a'"),
    "metadata a list": (properties_pair({}, metadata=[1]), "bad_header", "'S': expected a map, got list"),
    "metadata bytes key": (properties_pair({}, metadata={b"a": 1}), "bad_header", "must be text, got b'a'"),
    "source twice": (properties_pair({"a": 1}) * 2, "bad_header", "'S' comes twice"),
    "array twice": (array_pair() * 2, "bad_header", "array 'k' of source 'S' comes twice"),
    "no path": (array_pair(path=None), "bad_header", "'path' must be text, got None"),
    "no dtype": (
        array_pair(dtype=None),
        "bad_dtype",
        "S[k]: expected a boolean, integer or float type, got None",
    ),
    "dtype a list": (array_pair(dtype=[["a", "u2"]]), "bad_dtype", "got [['a', 'u2']]"),
    "complex": (array_pair(dtype="complex64"), "bad_dtype", "got 'complex64'"),
    "text array": (array_pair(dtype="<U1"), "bad_dtype", "got '<U1'"),
    "date array": (array_pair(dtype="M8[s]"), "bad_dtype", "got 'M8[s]'"),
    "record array": (array_pair(dtype="u2,u2"), "bad_dtype", "got 'u2,u2'"),
    "object array": (array_pair(dtype="object"), "pickle_refused", "S[k]: object arrays"),
    "object array by code": (array_pair(dtype="|O"), "pickle_refused", "S[k]: object arrays"),
    "no shape": (array_pair(shape=None), "bad_shape", "S[k]: expected a list of at most 8 sizes, got None"),
    "too many axes": (array_pair(shape=[1] * 9), "bad_shape", "at most 8 sizes"),
    "negative": (array_pair(shape=[-1, -2]), "bad_shape", "integers >= 0, got [-1, -2]"),
    "shape of floats": (array_pair(shape=[2.0]), "bad_shape", "integers >= 0, got [2.0]"),
    "shape of bools": (array_pair(shape=[True]), "bad_shape", "integers >= 0, got [True]"),
    "2**63 elements": (array_pair(shape=[2**63]), "bad_shape", "above the limit"),
    "product wraps to 0": (array_pair(b"", shape=[2**32, 2**32]), "bad_shape", "above the limit"),
    "empty but too wide": (array_pair(b"", shape=[0, 2**40, 2**40]), "bad_shape", "above the limit"),
    "short payload": (array_pair(b"\0\0\0"), "size_mismatch", "[2] of uint16 takes 4 bytes, got 3"),
    "long payload": (array_pair(b"\0" * 5), "size_mismatch", "[2] of uint16 takes 4 bytes, got 5"),
    "empty payload": (array_pair(b""), "size_mismatch", "takes 4 bytes, got 0"),
    "0-d without bytes": (array_pair(b"", shape=[]), "size_mismatch", "[] of uint16 takes 2 bytes, got 0"),
    "server error": ([b"Error: bad request nxt"], "server_error", "'Error: bad request nxt'"),
    "binary server error": ([b"Error\xff"], "server_error", "'Error\ufffd'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_has_its_reason_and_says_where(fault):
    frames, reason, text = FAULTS[fault]
    error = refused(frames)
    assert error.reason == reason
    assert text in str(error)


def test_limits_of_frames_and_headers():
    error = refused(array_pair() * 3, Limits(max_frames=4))
    assert (error.reason, "got 6 frames, the limit is 4" in str(error)) == ("too_many_frames", True)
    error = refused([b"\x80" + b"\0" * 65536, b""])
    assert (error.reason, "65537 bytes, the limit is 65536" in str(error)) == ("header_too_large", True)


def test_properties_of_a_message_have_one_limit():
    frames = [frame for i in range(3) for frame in properties_pair({"a": "x" * 40}, source=f"S{i}")]
    assert len(decode(frames).sources) == 3
    size_bytes = sum(len(frame) for frame in frames)
    error = refused(frames, Limits(max_properties_bytes=size_bytes - 1))
    assert error.reason == "bad_payload"
    assert f"'S2': above {size_bytes - 1} bytes" in str(error)


def v1(properties: Any) -> list[bytes]:
    return [msgpack.packb({"S": properties})]


def numpy_map(**changes: Any) -> dict[bytes, Any]:
    fields = {"nd": True, "type": "<u2", "kind": b"", "shape": [2], "data": b"\0" * 4} | changes
    return {key.encode(): value for key, value in fields.items()}


V1_FAULTS = {
    "not msgpack": ([b"\xc1"], "bad_payload", "byte 0xc1"),
    "empty": ([b""], "bad_payload", "truncated"),
    "a number": ([b"\x01"], "bad_payload", "expected a map of sources, got int"),
    "source a list": (v1([1]), "bad_payload", "got 'S': [1]"),
    "source bytes": ([msgpack.packb({b"S": {}})], "bad_payload", "got b'S'"),
    "key bytes": (v1({b"k": 1}), "bad_payload", "keys must be text, got b'k'"),
    "metadata a list": (v1({"metadata": []}), "bad_header", "'S' is not a map: []"),
    "object array": (v1({"k": numpy_map(kind=b"O")}), "pickle_refused", "S[k]: object arrays"),
    "object array, text kind": (v1({"k": numpy_map(kind="O")}), "pickle_refused", "S[k]: object arrays"),
    "object array by type": (v1({"k": numpy_map(type="|O")}), "pickle_refused", "S[k]: object arrays"),
    "nested object": (v1({"k": {"a": [numpy_map(kind=b"O")]}}), "pickle_refused", "S[k]: a nested"),
    "record array": (v1({"k": numpy_map(kind=b"V", type=[["a", "<u2"]])}), "bad_dtype", "S[k]"),
    "no data": (
        v1({"k": numpy_map(data=None)}),
        "bad_payload",
        "S[k]: array data must be bytes, got NoneType",
    ),
    "short data": (
        v1({"k": numpy_map(data=b"")}),
        "size_mismatch",
        "S[k]: shape [2] of uint16 takes 4 bytes",
    ),
    "negative": (v1({"k": numpy_map(shape=[-2])}), "bad_shape", "S[k]: sizes must be integers >= 0"),
}


@pytest.mark.parametrize("fault", V1_FAULTS)
def test_fault_of_version_1(fault):
    frames, reason, text = V1_FAULTS[fault]
    error = refused(frames)
    assert error.reason == reason
    assert text in str(error)


def test_version_1_limits_what_is_not_an_array():
    properties = {"k": np.zeros(1000, "u1"), "text": "x" * 10}
    frames = encode({"S": properties}, {}, "1.0")
    assert decode(frames, Limits(max_properties_bytes=200)).sources["S"].arrays["k"].size == 1000
    error = refused(frames, Limits(max_properties_bytes=50))
    assert error.reason == "bad_payload"
    assert "above 50 bytes" in str(error)


names = st.text(min_size=1, max_size=12)
numbers = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.binary(max_size=8),
)
plain = st.recursive(
    numbers, lambda x: st.lists(x, max_size=3) | st.dictionaries(names, x, max_size=3), max_leaves=6
)
dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.floating_dtypes(sizes=(16, 32, 64)),
)
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3))
keys = names.filter(lambda name: name != "metadata" and not name.startswith("metadata."))
trains = st.dictionaries(names, st.dictionaries(keys, plain | arrays, max_size=4), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(trains, st.sampled_from(VERSIONS))
def test_decode_undoes_encode(sources, version):
    metadata = {source: {"source": source, "timestamp.tid": 7} for source in sources}
    train = decode(encode(sources, metadata, version))
    assert train.sources.keys() == sources.keys()
    for source, properties in sources.items():
        data = train.sources[source]
        assert data.metadata == metadata[source]
        assert data.values.keys() | data.arrays.keys() == properties.keys()
        for key, value in properties.items():
            if isinstance(value, np.ndarray):
                assert same(data.arrays[key], value)
            else:
                assert data.values[key] == value


def outcome(frames: list[bytes]) -> str:
    try:
        train = decode(frames)
    except FrameError as error:
        return error.reason
    assert isinstance(train, Train)
    return "train"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=64), max_size=6))
def test_any_frames_give_a_train_or_a_frame_error(frames):
    assert outcome(frames)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_of_a_message_gives_a_train_or_a_frame_error(data):
    version = data.draw(st.sampled_from(VERSIONS))
    frames = [bytearray(frame) for frame in encode({SOURCE: GOLDEN}, {SOURCE: METADATA}, version)]
    for _ in range(data.draw(st.integers(1, 3))):
        frame = data.draw(st.sampled_from(frames))
        if frame:
            frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    assert outcome([bytes(frame) for frame in frames])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["source", "content", "path", "dtype", "shape", "metadata"]), plain))
def test_any_header_gives_a_train_or_a_frame_error(changes):
    assert outcome(properties_pair({}) + array_pair(**changes))
    assert outcome(properties_pair({}, **changes))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([b"nd", b"type", b"kind", b"shape", b"data"]), plain))
def test_any_numpy_map_gives_a_train_or_a_frame_error(changes):
    assert outcome(v1({"k": numpy_map() | changes}))


def test_every_truncation_is_refused():
    for version in VERSIONS:
        frames = [bytes(frame) for frame in encode({SOURCE: GOLDEN}, {SOURCE: METADATA}, version)]
        for index, frame in enumerate(frames):
            for size in range(len(frame)):
                assert outcome([*frames[:index], frame[:size], *frames[index + 1 :]]) != "train"
