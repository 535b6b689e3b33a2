"""The codec of the results stream: round trips, and every way a message can be broken."""

from dataclasses import replace

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streamer.errors import FrameError
from streamer.results import (
    DTYPES,
    MAX_COLUMNS,
    MAX_HEADER_BYTES,
    VERDICT_COLUMNS,
    BundleRef,
    Encoder,
    ResultHeader,
    decode,
    encode,
    trains,
)

LABELS = ("Streak", "Core/shell", "Empty")
HEADER = ResultHeader(
    run=7,
    stream="droplets",
    received_at=1.7e9,
    bundles=(BundleRef("classifier", "a" * 64), BundleRef("encoder", "b" * 64)),
    rules_sha256="c" * 64,
    routes=("streaks", "sample"),
    labels={"p": LABELS},
    publisher="0011",
    sequence=5,
)


# Names that mean something to the header: ids, and the column that has labels.
TAKEN = ("train_id", "pulse_id", *HEADER.labels)


def columns(n=4):
    return {
        "train_id": np.full(n, 2_000_000_001, np.uint64),
        "pulse_id": np.arange(n, dtype=np.uint64),
        "verdict": np.ones(n, np.uint8),
        "route": np.full(n, -1, np.int16),
        "reason": np.zeros(n, np.uint8),
        "received_at": np.linspace(0, 1, n),
        "p": np.arange(3 * n, dtype=np.float32).reshape(n, 3),
        "labels": np.arange(n, dtype=np.uint32),
    }


def same(block, expected):
    assert list(block.columns) == list(expected)
    for name, column in expected.items():
        np.testing.assert_array_equal(block.columns[name], column)
        assert block.columns[name].shape == column.shape


@pytest.mark.parametrize("n", [0, 1, 4, 1000])
def test_round_trip(n):
    frames = [bytes(frame) for frame in encode(HEADER, columns(n))]
    assert frames[0] == b"results.droplets"
    block = decode(frames)
    assert (block.kind, block.stream, len(block), block.header) == ("results", "droplets", n, HEADER)
    assert block.route_names == ("streaks", "sample")
    same(block, columns(n))


def test_views_are_read_only_and_not_copies():
    frames = encode(HEADER, columns())
    block = decode(frames)
    assert np.shares_memory(block.column("p"), np.frombuffer(frames[8], np.float32))
    with pytest.raises(ValueError, match="read-only"):
        block.column("p")[0] = 1


def test_columns_by_name_and_label():
    block = decode(encode(HEADER, columns()))
    assert block.p("Core/shell").tolist() == [1, 4, 7, 10]
    assert block.element("p", "Empty").tolist() == [2, 5, 8, 11]
    with pytest.raises(KeyError, match=r"no column 'mu'.*train_id"):
        block.column("mu")
    with pytest.raises(KeyError, match=r"no 'streak'.*Streak"):
        block.p("streak")
    with pytest.raises(KeyError, match="no 'x'"):
        block.element("labels", "x")


def test_verdicts_have_their_own_topic():
    only = {name: columns()[name] for name in VERDICT_COLUMNS}
    frames = encode(HEADER, only, "verdicts")
    assert frames[0] == b"verdicts.droplets"
    block = decode(frames)
    assert block.kind == "verdicts"
    same(block, only)


@pytest.mark.parametrize("given", [np.dtype(">f4"), np.dtype(">u2")])
def test_big_endian_and_strided_columns_are_converted(given):
    source = columns()
    source["x"] = np.arange(8, dtype=given)[::2]
    assert decode(encode(HEADER, source)).column("x").tolist() == [0, 2, 4, 6]


@given(
    st.integers(0, 5).flatmap(
        lambda n: st.dictionaries(
            st.text(min_size=1, max_size=8).filter(lambda name: name not in TAKEN),
            st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 3), max_size=3)).flatmap(
                lambda spec: hnp.arrays(spec[0], (n, *spec[1]))
            ),
            max_size=4,
        ).map(lambda extra: {name: columns(n)[name] for name in ("train_id", "pulse_id")} | extra)
    )
)
@settings(max_examples=100, deadline=None)
def test_round_trip_of_any_columns(table):
    same(decode([bytes(frame) for frame in encode(HEADER, table)]), table)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("x", np.array([object()] * 4)),
        ("x", np.array(["a"] * 4)),
        ("x", np.zeros(4, np.complex64)),
        ("x", np.zeros(3)),
        ("x", np.float64(1)),
        ("x", np.zeros((4, 1, 1, 1, 1))),
    ],
)
def test_encode_refuses_what_decode_would(name, column):
    with pytest.raises(ValueError, match="column 'x' is"):
        encode(HEADER, columns() | {name: np.asarray(column)})


def test_encode_refuses_too_much():
    with pytest.raises(ValueError, match="columns of 4 events"):
        encode(HEADER, columns() | {f"x{i}": np.zeros(4) for i in range(MAX_COLUMNS)})
    labels = tuple(f"{i:0100}" for i in range(700))
    with pytest.raises(ValueError, match="shorten the labels"):
        encode(
            ResultHeader(1, "s", 0.0, labels={"x": labels}), columns() | {"x": np.zeros((4, 700), np.float32)}
        )


def header_map(header, table, n, sequence):
    """The header as a plain map: what the bytes must be, whatever was packed before."""
    described = []
    for name, column in table.items():
        described.append({"name": name, "dtype": column.dtype.str, "shape": column.shape})
        if header.labels.get(name):
            described[-1]["labels"] = header.labels[name]
    return {
        "version": 1,
        "run": header.run,
        "stream": header.stream,
        "train_id": int(table["train_id"][0]) if n else 0,
        "n": n,
        "publisher": header.publisher,
        "sequence": sequence,
        "received_at": header.received_at,
        "bundles": [{"name": b.name, "sha256": b.sha256} for b in header.bundles],
        "rules_sha256": header.rules_sha256,
        "routes": header.routes,
        "columns": described,
    }


def test_one_block_after_another_whatever_changes_between_them():
    encoder, labels = Encoder("results", HEADER.publisher), {"p": LABELS}
    own = replace(HEADER, labels=labels)
    swapped = replace(own, bundles=(BundleRef("other", "d" * 64),))
    plans = [(own, 4), (own, 1), (own, 128), (own, 300), (own, 70_000), (swapped, 4), (own, 0), (swapped, 2)]
    for sequence, (header, n) in enumerate(plans):
        frames = encoder.frames(header, columns(n), sequence)
        assert bytes(frames[1]) == msgpack.packb(header_map(header, columns(n), n, sequence))
        same(decode([bytes(frame) for frame in frames]), columns(n))
    labels["p"] = ("a", "b", "c")
    assert decode(encoder.frames(own, columns(), 0)).header.labels == {"p": ("a", "b", "c")}
    fewer = {name: columns()[name] for name in VERDICT_COLUMNS}
    same(decode(encoder.frames(own, fewer, 0)), fewer)
    wider = columns() | {"p": np.zeros((4, 2), np.float64)}
    same(decode(encoder.frames(replace(own, labels={}), wider, 0)), wider)


def test_an_encoder_refuses_a_column_of_another_length_after_good_blocks():
    encoder = Encoder("results", "")
    encoder.frames(HEADER, columns(), 0)
    with pytest.raises(ValueError, match="column 'p' is"):
        encoder.frames(HEADER, columns() | {"p": np.zeros((5, 3), np.float32)}, 1)


# Broken messages


def broken(**changes):
    """A good message whose header fields are replaced; a value of ... removes the field."""
    frames = [bytes(frame) for frame in encode(HEADER, columns())]
    fields = msgpack.unpackb(frames[1]) | changes
    frames[1] = msgpack.packb({key: value for key, value in fields.items() if value is not ...})
    return frames


def broken_column(index, **changes):
    """A good message with one column's description changed."""
    specs = msgpack.unpackb(bytes(encode(HEADER, columns())[1]))["columns"]
    specs[index] = {key: value for key, value in (specs[index] | changes).items() if value is not ...}
    return broken(columns=specs)


GOOD = [bytes(frame) for frame in encode(HEADER, columns())]
TRAIN, PULSE, VERDICT, P = 0, 1, 2, 6

BROKEN = {
    "nothing": ([], "bad_header"),
    "topic only": (GOOD[:1], "bad_header"),
    "a column too few": (GOOD[:-1], "size_mismatch"),
    "a column too many": ([*GOOD, b""], "size_mismatch"),
    "endless frames": (GOOD[:2] + [b""] * 10_000, "too_many_frames"),
    "header too large": ([GOOD[0], b"\xc0" * (MAX_HEADER_BYTES + 1), *GOOD[2:]], "header_too_large"),
    "other topic": ([b"results.other", *GOOD[1:]], "bad_header"),
    "other kind": ([b"frames.droplets", *GOOD[1:]], "bad_header"),
    "huge topic": ([b"r" * 1_000_000, *GOOD[1:]], "bad_header"),
    "empty header": ([GOOD[0], b"", *GOOD[2:]], "bad_header"),
    "not msgpack": ([GOOD[0], b"\xc1", *GOOD[2:]], "bad_header"),
    "two values": ([GOOD[0], GOOD[1] + b"\x00", *GOOD[2:]], "bad_header"),
    "not a map": ([GOOD[0], msgpack.packb([1]), *GOOD[2:]], "bad_header"),
    "integer keys": ([GOOD[0], msgpack.packb({1: 2}), *GOOD[2:]], "bad_header"),
    "bomb of maps": ([GOOD[0], b"\xdc\xff\xff" + b"\x80" * 65000, *GOOD[2:]], "bad_header"),
    "deep": ([GOOD[0], b"\x91" * 60_000 + b"\x80", *GOOD[2:]], "bad_header"),
    "claims 4 G items": ([GOOD[0], b"\xdd\xff\xff\xff\xff", *GOOD[2:]], "bad_header"),
    "bytes inside": (broken(stream=b"droplets"), "bad_header"),
    "timestamp inside": (broken(received_at=msgpack.Timestamp(1, 0)), "bad_header"),
    "long text": (broken(rules_sha256="c" * 5000), "bad_header"),
    "other version": (broken(version=2), "bad_header"),
    "no version": (broken(version=...), "bad_header"),
    "n is true": (broken(n=True), "bad_header"),
    "n negative": (broken(n=-1), "bad_header"),
    "n huge": (broken(n=2**62), "bad_header"),
    "n differs": (broken(n=5), "bad_shape"),
    "received_at nan": (broken(received_at=float("nan")), "bad_header"),
    "received_at text": (broken(received_at="now"), "bad_header"),
    "routes numbers": (broken(routes=[1]), "bad_header"),
    "bundles text": (broken(bundles=["x"]), "bad_header"),
    "bundle without hash": (broken(bundles=[{"name": "x"}]), "bad_header"),
    "too many bundles": (broken(bundles=[{}] * 65), "bad_header"),
    "columns a map": (broken(columns={}), "bad_header"),
    "column a text": (broken(columns=["x"] * 8), "bad_header"),
    "column twice": (broken_column(VERDICT, name="pulse_id"), "bad_header"),
    "dtype of objects": (broken_column(VERDICT, dtype="|O"), "bad_dtype"),
    "dtype of records": (broken_column(VERDICT, dtype="u1,u1"), "bad_dtype"),
    "dtype big-endian": (broken_column(TRAIN, dtype=">u8"), "bad_dtype"),
    "dtype number": (broken_column(VERDICT, dtype=1), "bad_header"),
    "dtype of other size": (broken_column(VERDICT, dtype="<u4"), "size_mismatch"),
    "train ids signed": (broken_column(TRAIN, dtype="<i8"), "bad_dtype"),
    "shape negative": (broken_column(P, shape=[4, -3]), "bad_shape"),
    "shape overflow": (broken_column(P, shape=[4, 2**62]), "size_mismatch"),
    "shape overflow beside zero": (broken_column(P, shape=[4, 2**63, 0]), "size_mismatch"),
    "shape empty": (broken_column(VERDICT, shape=[]), "bad_shape"),
    "shape of texts": (broken_column(VERDICT, shape=["4"]), "bad_shape"),
    "shape of true": (broken_column(VERDICT, shape=[True]), "bad_shape"),
    "shape a number": (broken_column(VERDICT, shape=4), "bad_header"),
    "too many axes": (broken_column(P, shape=[4, 3, 1, 1, 1]), "bad_shape"),
    "ids 2-D": (broken_column(PULSE, shape=[4, 1]), "bad_shape"),
    "labels too few": (broken_column(P, labels=["a"]), "bad_header"),
    "labels of a scalar": (broken_column(VERDICT, labels=["a"]), "bad_header"),
    "labels numbers": (broken_column(P, labels=[1, 2, 3]), "bad_header"),
    "no train ids": (broken_column(TRAIN, name="other"), "key_missing"),
    "no pulse ids": (broken_column(PULSE, name="other"), "key_missing"),
    "another train": (broken(train_id=3), "train_id_mismatch"),
    "short column": ([*GOOD[:-1], GOOD[-1][:-1]], "size_mismatch"),
    "long column": ([*GOOD[:-1], GOOD[-1] + b"\0"], "size_mismatch"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_message(name):
    frames, reason = BROKEN[name]
    with pytest.raises(FrameError) as refused:
        decode(frames)
    assert refused.value.reason == reason
    assert len(str(refused.value)) < 500


def test_empty_column_with_an_impossible_axis():
    frames = broken_column(P, shape=[4, 2**63, 0])
    frames[2 + P] = b""
    with pytest.raises(FrameError, match="bad_shape"):
        decode(frames)


def test_unknown_header_fields_are_ignored():
    assert decode(broken(weather="rain")).header == HEADER


@given(st.lists(st.binary(max_size=40), max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_frames_decode_or_raise_frame_error(frames):
    with pytest.raises(FrameError):
        decode(frames)


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def decodes_or_refuses(frames):
    try:
        block = decode(frames)
    except FrameError:
        return
    assert len(block) == 4


@given(st.sampled_from(sorted(msgpack.unpackb(GOOD[1]))), json_like)
@settings(max_examples=300, deadline=None)
def test_any_value_in_any_header_field(field, value):
    decodes_or_refuses(broken(**{field: value}))


@given(st.integers(0, 7), st.sampled_from(["name", "dtype", "shape", "labels"]), json_like)
@settings(max_examples=300, deadline=None)
def test_any_value_in_any_column_field(index, field, value):
    decodes_or_refuses(broken_column(index, **{field: value}))


@given(st.integers(0, len(GOOD[1]) - 1), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_any_byte_of_the_header_changed(position, byte):
    header = bytearray(GOOD[1])
    header[position] = byte
    decodes_or_refuses([GOOD[0], bytes(header), *GOOD[2:]])


def test_trains_of_a_block():
    train_id = np.array([5, 5, 6, 6, 6, 5], np.uint64)
    assert list(trains(train_id)) == [(5, slice(0, 2)), (6, slice(2, 5)), (5, slice(5, 6))]
    assert list(trains(train_id[:0])) == []
