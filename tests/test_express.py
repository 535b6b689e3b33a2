"""Messages like the one before: the express way gives what decoder and assembly give, or nothing."""

from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.assemble import Attach, Events, SourceSpec, assemble
from streamer.errors import FLAG_OUT_OF_ORDER, FrameError
from streamer.express import PATIENCE, Express
from streamer.wire.karabo_bridge import decode, encode
from streamer.wire.types import DEFAULT_LIMITS, TRAIN_ID_END

SHAPE = (3, 4)


def spec_of(**changes: Any) -> SourceSpec:
    fields: dict[str, Any] = {
        "sources": ("D",),
        "key": "image.data",
        "pulse_key": "image.pulseId",
        "axes": "pulse slow fast",
        "event_shape": SHAPE,
        "dtype": np.dtype("u2"),
        "attach": (),
    }
    return SourceSpec(**(fields | changes))


def parts_of(train_id: int, pulses: int = 3, source: str = "D", **more: Any) -> list[bytes]:
    frames = np.random.default_rng(train_id % 2**32).integers(0, 4000, (pulses, *SHAPE), dtype="u2")
    properties = {"image.data": frames, "image.pulseId": np.arange(pulses, dtype="u8")} | more
    stamp = {"source": source, "timestamp": train_id / 10, "timestamp.tid": train_id}
    return [bytes(part) for part in encode({source: properties}, {source: stamp})]


def plainly(parts: Sequence[bytes], spec: SourceSpec) -> Events | FrameError:
    try:
        return assemble(decode(parts), spec)
    except FrameError as error:
        return error


def assert_same(got: Events, want: Events | FrameError, spec: SourceSpec) -> None:
    assert isinstance(want, Events)
    for name in ("train_id", "n", "duplicates", "source_present", "marked"):
        assert getattr(got, name) == getattr(want, name), name
    for name in ("pulse_ids", "flags", "attached", "missing_modules"):
        mine, theirs = getattr(got, name), getattr(want, name)
        assert mine.dtype == theirs.dtype
        assert np.array_equal(mine, theirs), name
    assert got.raw is not None
    assert want.raw is not None
    assert bytes(got.raw) == bytes(want.raw)
    copies = [np.full((want.n, *spec.event_shape), 77, spec.dtype) for _ in range(2)]
    got.copy_into(copies[0], 0, got.n)
    want.copy_into(copies[1], 0, want.n)
    assert np.array_equal(*copies)


def taught(parts: Sequence[bytes], spec: SourceSpec) -> Express:
    express = Express(spec, DEFAULT_LIMITS)
    express.learn(parts, assemble(decode(parts), spec))
    return express


def test_the_next_train_of_a_source_is_read_without_taking_it_apart() -> None:
    spec, express = spec_of(), taught(parts_of(10), spec_of())
    for train_id in (11, 12, 500, 9):
        parts = parts_of(train_id)
        got = express.read(parts)
        assert got is not None
        assert_same(got, plainly(parts, spec), spec)


def test_a_camera_without_pulses_is_read_too() -> None:
    spec = spec_of(axes="slow fast", pulse_key=None)
    for train_id in (1, 2):
        frame = np.full(SHAPE, train_id, "u2")
        stamp = {"timestamp.tid": train_id}
        parts = [bytes(part) for part in encode({"D": {"image.data": frame}}, {"D": stamp})]
        if train_id == 1:
            express = taught(parts, spec)
    got = express.read(parts)
    assert got is not None
    assert_same(got, plainly(parts, spec), spec)


def test_properties_and_arrays_that_nobody_reads_may_change() -> None:
    spec = spec_of()
    express = taught(parts_of(10, temperature=20.5, other=np.zeros(3)), spec)
    parts = parts_of(11, temperature=21.5, gain="high", other=np.ones(3))
    got = express.read(parts)
    assert got is not None
    assert_same(got, plainly(parts, spec), spec)
    assert express.read(parts_of(12, temperature=1, other=np.ones(4))) is None


def test_a_source_that_always_changes_is_learned_only_now_and_then() -> None:
    spec = spec_of()
    express, messages = Express(spec, DEFAULT_LIMITS), [parts_of(i, pulses=i) for i in range(1, 40)]
    for parts in messages:
        assert express.read(parts) is None
        express.learn(parts, assemble(decode(parts), spec))
    known = messages[PATIENCE - 1]
    assert express.read(known) is not None, "the last one that was remembered"


def test_a_mark_on_one_train_is_not_on_the_next() -> None:
    express = taught(parts_of(10), spec_of())
    first = express.read(parts_of(9))
    assert first is not None
    first.mark(FLAG_OUT_OF_ORDER)
    second = express.read(parts_of(11))
    assert second is not None
    assert (first.flags == FLAG_OUT_OF_ORDER).all()
    assert not second.flags.any()
    assert not second.marked


@pytest.mark.parametrize(
    "parts",
    [
        parts_of(11, pulses=4),
        parts_of(11, source="E"),
        parts_of(11, second=np.zeros(2)),
        parts_of(11)[:-1],
        [],
        [b"x"],
        [*parts_of(11), *parts_of(11, source="E")],
        [*parts_of(11)[:1], msgpack.packb({1: 1}), *parts_of(11)[2:]],
        [*parts_of(11)[:1], msgpack.packb([1]), *parts_of(11)[2:]],
        [*parts_of(11)[:1], b"\xc1", *parts_of(11)[2:]],
        [*parts_of(11)[:1], msgpack.packb({"image.pulseId": [0, 1, 2]}), *parts_of(11)[2:]],
        [*parts_of(11)[:1], msgpack.packb({"long": "x" * 600}), *parts_of(11)[2:]],
        [*parts_of(11)[:-1], np.array([0, 1, 1], "u8").tobytes()],
    ],
)
def test_a_message_that_differs_is_left_to_the_decoder(parts: list[bytes]) -> None:
    assert taught(parts_of(10), spec_of()).read(parts) is None


def test_a_train_id_in_an_arrays_header_is_left_to_the_decoder() -> None:
    """Of a hostile sender: the properties come later, and say another one."""
    parts = parts_of(10)
    false_header = msgpack.unpackb(parts[2]) | {"metadata": {"timestamp.tid": 99}}
    odd = [msgpack.packb(false_header), parts[3], parts[0], parts[1], *parts[4:]]
    spec = spec_of()
    assert taught(odd, spec).read(odd) is None


@pytest.mark.parametrize("train_id", [0, -1, TRAIN_ID_END, 1.0, None, "7", True])
def test_a_train_id_that_is_none_is_left_to_the_decoder(train_id: Any) -> None:
    parts = parts_of(10)
    header = msgpack.unpackb(parts[0])
    header["metadata"]["timestamp.tid"] = train_id
    parts[0] = msgpack.packb(header)
    assert taught(parts_of(10), spec_of()).read(parts) is None


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        (spec_of(attach=(Attach("e", "X", "k"),)), parts_of(10)),
        (spec_of(dtype=np.dtype("u2")), [*parts_of(10), *parts_of(10, source="E")]),
    ],
)
def test_what_could_not_be_like_it_is_not_learned(spec: SourceSpec, parts: list[bytes]) -> None:
    assert taught(parts, spec).read(parts) is None


def test_byte_swapped_or_turned_frames_take_the_long_way() -> None:
    swapped = np.zeros((3, *SHAPE), ">u2")
    parts = parts_of(10, **{"image.data": swapped})
    assert taught(parts, spec_of()).read(parts) is None
    turned = parts_of(10, **{"image.data": np.zeros((3, *SHAPE[::-1]), "u2")})
    assert taught(turned, spec_of(axes="pulse fast slow")).read(turned) is None


def test_a_pulse_that_comes_twice_takes_the_long_way() -> None:
    parts = parts_of(10, **{"image.pulseId": np.array([0, 1, 1], "u8")})
    assert taught(parts, spec_of()).read(parts) is None


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """A message like the one learned, of which some bytes or parts may be others."""
    parts = parts_of(draw(st.integers(1, 2**63)) if draw(st.booleans()) else 11, draw(st.integers(1, 4)))
    for _ in range(draw(st.integers(0, 3))):
        which = draw(st.integers(0, len(parts) - 1))
        part = bytearray(parts[which])
        where = draw(st.integers(0, max(0, len(part) - 1)))
        part[where : where + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
        parts[which] = bytes(part)
    return parts


@settings(max_examples=400, deadline=None)
@given(mutated())
def test_it_never_gives_what_decoder_and_assembly_would_not(parts: list[bytes]) -> None:
    spec = spec_of()
    got = taught(parts_of(10), spec).read(parts)
    if got is not None:
        assert_same(got, plainly(parts, spec), spec)
