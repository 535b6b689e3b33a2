"""Events from trains: axes, modules, pulse ids, train ids, attached scalars, and what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.assemble import MAX_PULSES, Attach, Events, SourceSpec, absent, assemble, parse_axes
from streamer.errors import FLAG_ATTACH_MISSING, FLAG_MODULE_MISSING, FrameError
from streamer.wire.karabo_bridge import SourceData, Train, decode, encode

DET = "SPB_DET_AGIPD1M-1/DET/{}CH0:xtdf"
U2 = np.dtype("u2")


def spec_of(axes="pulse slow fast", shape=(3, 4), **changes: Any) -> SourceSpec:
    fields = {
        "sources": ("D",),
        "key": "image.data",
        "pulse_key": "image.pulseId",
        "axes": axes,
        "event_shape": shape,
        "dtype": U2,
        "attach": (),
    }
    return SourceSpec(**(fields | changes))


def frames(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4000, (n, *shape), dtype="u2")


def train_of(sources: dict[str, dict[str, Any]], train_id: int | None = 7) -> Train:
    metadata = {} if train_id is None else {source: {"timestamp.tid": train_id} for source in sources}
    return decode([bytes(frame) for frame in encode(sources, metadata)])


def one(data: np.ndarray, pulses: Any = None, **more: Any) -> Train:
    pulses = np.arange(len(data), dtype="u8") if pulses is None else pulses
    return train_of({"D": {"image.data": data, "image.pulseId": pulses} | more})


def copied(events: Events, spec: SourceSpec) -> np.ndarray:
    out = np.full((events.n, *spec.event_shape), 77, spec.dtype)
    events.copy_into(out, 0, events.n)
    return out


def refused(train: Train, spec: SourceSpec) -> FrameError:
    with pytest.raises(FrameError) as caught:
        assemble(train, spec)
    return caught.value


def test_common_case():
    data = frames(5, 3, 4)
    events = assemble(one(data, np.array([0, 4, 8, 12, 16], "u8")), spec_of())
    assert (events.train_id, events.n, events.duplicates, events.source_present) == (7, 5, 0, True)
    assert (events.pulse_ids.dtype, events.pulse_ids.tolist()) == (np.dtype("u8"), [0, 4, 8, 12, 16])
    assert (events.flags.dtype, events.flags.tolist()) == (np.dtype("u4"), [0] * 5)
    assert events.attached.shape == (5, 0)
    assert events.missing_modules.tolist() == [0] * 5
    np.testing.assert_array_equal(copied(events, spec_of()), data)


def test_part_of_the_events_into_part_of_a_slot():
    data = frames(5, 3, 4)
    out = np.full((8, 3, 4), 77, "u2")
    assemble(one(data), spec_of()).copy_into(out, 1, 4)
    np.testing.assert_array_equal(out[:3], data[1:4])
    assert (out[3:] == 77).all()


@pytest.mark.parametrize(
    ("start", "stop", "shape"), [(0, 6, (8, 3, 4)), (-1, 2, (8, 3, 4)), (3, 2, (8, 3, 4)), (0, 5, (4, 3, 4))]
)
def test_copy_refuses_events_that_do_not_fit(start, stop, shape):
    events = assemble(one(frames(5, 3, 4)), spec_of())
    with pytest.raises(ValueError, match=rf"events {start} \.\. {stop} of 5, each \(3, 4\)"):
        events.copy_into(np.zeros(shape, "u2"), start, stop)


def test_copy_refuses_to_broadcast():
    events = assemble(one(frames(1, 3, 4)), spec_of())
    with pytest.raises(ValueError, match=r"do not fit into \(1, 3, 5\)"):
        events.copy_into(np.zeros((1, 3, 5), "u2"), 0, 1)


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("pulse module slow fast", (2, 3, 4)),
        ("module slow fast pulse", (2, 3, 4)),
        ("module fast slow pulse", (2, 3, 4)),
        ("pulse slow fast", (3, 4)),
        ("fast slow pulse", (3, 4)),
        ("pulse bin", (9,)),
        ("bin pulse", (9,)),
    ],
)
def test_any_order_of_axes(axes, shape):
    canonical = {3: "pulse module slow fast", 2: "pulse slow fast", 1: "pulse bin"}[len(shape)].split()
    data = frames(5, *shape)
    wire = data.transpose([canonical.index(token) for token in axes.split()])
    spec = spec_of(axes, shape)
    events = assemble(one(wire, np.arange(5, dtype="u8")), spec)
    np.testing.assert_array_equal(copied(events, spec), data)


@pytest.mark.parametrize(
    "axes", ["module fast slow pulse", "fast module pulse slow", "slow pulse fast module"]
)
def test_frames_larger_than_a_tile(axes):
    data = frames(16, 2, 96, 64)
    wire = data.transpose([("pulse", "module", "slow", "fast").index(token) for token in axes.split()])
    spec = spec_of(axes, (2, 96, 64), pulse_key=None)
    events = assemble(train_of({"D": {"image.data": wire}}), spec)
    np.testing.assert_array_equal(copied(events, spec), data)
    out = np.full((3, 2, 96, 64), 77, "u2")
    events.copy_into(out, 5, 8)
    np.testing.assert_array_equal(out, data[5:8])


@pytest.mark.parametrize(("axes", "shape"), [("slow fast", (3, 4)), ("bin", (12,)), ("fast slow", (3, 4))])
def test_source_without_pulses_is_one_event(axes, shape):
    data = frames(1, *shape)[0]
    wire = data.T if axes == "fast slow" else data
    spec = spec_of(axes, shape, pulse_key=None)
    events = assemble(train_of({"D": {"image.data": wire}}), spec)
    assert (events.n, events.pulse_ids.tolist()) == (1, [0])
    np.testing.assert_array_equal(copied(events, spec)[0], data)


@pytest.mark.parametrize("pulse", [12, np.array([12], "i4"), np.array(12, "u8")])
def test_source_without_pulses_may_name_its_pulse(pulse):
    train = train_of({"D": {"image.data": frames(1, 3, 4)[0], "image.pulseId": pulse}})
    assert assemble(train, spec_of("slow fast")).pulse_ids.tolist() == [12]


def test_byte_swapped_frames_are_converted_by_the_copy():
    data = frames(2, 3, 4)
    events = assemble(one(data.astype(">u2")), spec_of())
    np.testing.assert_array_equal(copied(events, spec_of()), data)


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "u4", "u8", ">u8", "i1", "i4", "i8"])
def test_pulse_ids_of_any_integer_type(dtype):
    events = assemble(one(frames(3, 3, 4), np.array([0, 4, 8], dtype)), spec_of())
    assert (events.pulse_ids.dtype, events.pulse_ids.tolist()) == (np.dtype("u8"), [0, 4, 8])
    events = assemble(one(frames(3, 3, 4), np.array([[0], [4], [8]], dtype)), spec_of())
    assert events.pulse_ids.tolist() == [0, 4, 8]


def test_pulse_ids_as_a_list_or_none():
    assert assemble(one(frames(3, 3, 4), [0, 4, 8]), spec_of()).pulse_ids.tolist() == [0, 4, 8]
    assert assemble(one(frames(3, 3, 4)), spec_of(pulse_key=None)).pulse_ids.tolist() == [0, 1, 2]


@pytest.mark.parametrize("pulses", [np.arange(2), np.arange(4), np.zeros((3, 2), "u8"), [1, 2], 5])
def test_number_of_pulse_ids_must_agree(pulses):
    error = refused(one(frames(3, 3, 4), pulses), spec_of())
    assert error.reason == "pulse_ids_mismatch"
    assert "D[image.pulseId]: expected 3 pulse ids for 3 frames" in str(error)


@pytest.mark.parametrize(
    "pulses", [[0, 4096], [-1, 0], [0, 2**64 - 1], np.array([2**64 - 1, 0], "u8"), np.array([-1, 0], "i2")]
)
def test_pulse_ids_must_be_in_range(pulses):
    error = refused(one(frames(2, 3, 4), pulses), spec_of())
    assert error.reason == "pulse_id_range"
    assert "D[image.pulseId]: pulse ids must be in 0 .. 4095" in str(error)


def test_more_pulses_than_ids_exist():
    train = train_of({"D": {"image.data": np.zeros((MAX_PULSES + 1, 1), "u2")}})
    assert refused(train, spec_of("pulse bin", (1,), pulse_key=None)).reason == "pulse_id_range"


@pytest.mark.parametrize(
    ("pulses", "kind"), [(np.zeros(2), "float64"), (["a", "b"], "list"), ([True, 1], "list")]
)
def test_pulse_ids_must_be_integers(pulses, kind):
    error = refused(one(frames(2, 3, 4), pulses), spec_of())
    assert error.reason == "dtype_changed"
    assert f"must be integers, got {kind}" in str(error)


def test_pulse_ids_missing():
    error = refused(train_of({"D": {"image.data": frames(2, 3, 4)}}), spec_of())
    assert error.reason == "key_missing"
    assert "D has no pulse ids 'image.pulseId', only image.data" in str(error)


def test_unordered_pulses_keep_the_order_of_the_wire():
    data = frames(3, 3, 4)
    events = assemble(one(data, [8, 0, 4]), spec_of())
    assert (events.pulse_ids.tolist(), events.duplicates) == ([8, 0, 4], 0)
    np.testing.assert_array_equal(copied(events, spec_of()), data)


def test_of_duplicated_pulses_the_first_stays():
    data = frames(5, 3, 4)
    spec = spec_of(attach=(Attach("e", "X", "v"),))
    train = one(data, [4, 0, 4, 0, 8])
    train.sources["X"] = SourceData({}, {"v": np.arange(5.0)}, {})
    events = assemble(train, spec)
    assert (events.pulse_ids.tolist(), events.duplicates, events.n) == ([4, 0, 8], 2, 3)
    assert events.attached[:, 0].tolist() == [0, 1, 4]
    np.testing.assert_array_equal(copied(events, spec), data[[0, 1, 4]])


def test_absent_source_and_no_pulses_are_legal():
    none = assemble(train_of({"other": {"x": 1}}), spec_of())
    assert (none.n, none.source_present, none.train_id) == (0, False, 7)
    empty = assemble(one(frames(0, 3, 4)), spec_of())
    assert (empty.n, empty.source_present, empty.pulse_ids.dtype) == (0, True, np.dtype("u8"))
    without_ids = assemble(train_of({"D": {"image.data": frames(0, 3, 4)}}), spec_of())
    assert (without_ids.n, without_ids.source_present) == (0, True)
    copied(empty, spec_of())


def test_train_id_of_the_pulses_when_metadata_has_none():
    data = {"image.data": frames(2, 3, 4), "image.pulseId": [0, 1]}
    train = train_of({"D": data | {"image.trainId": np.array([9, 9], "u8")}}, train_id=None)
    assert assemble(train, spec_of()).train_id == 9


@pytest.mark.parametrize(
    "ids", [None, np.zeros(0, "u8"), np.zeros(2), np.array([-1, -1]), np.array([2**63 - 1], "u8")]
)
def test_train_id_missing(ids):
    data = {"image.data": frames(2, 3, 4), "image.pulseId": [0, 1]}
    more = {} if ids is None else {"image.trainId": ids}
    error = refused(train_of({"D": data | more}, train_id=None), spec_of())
    assert error.reason == "train_id_missing"
    assert "neither metadata 'timestamp.tid' nor 'image.trainId' in D" in str(error)


def test_train_id_missing_with_the_source():
    assert refused(train_of({"other": {"x": 1}}, train_id=None), spec_of()).reason == "train_id_missing"


@pytest.mark.parametrize("metadata", [True, False], ids=["of the metadata", "of the pulses"])
def test_train_id_0_is_none(metadata):
    data = {"image.data": frames(1, 3, 4), "image.pulseId": [0], "image.trainId": np.array([0], "u8")}
    error = refused(train_of({"D": data}, train_id=0 if metadata else None), spec_of())
    assert error.reason == "train_id_missing"
    assert "the train id of D is 0, which means 'none'" in str(error)


def test_train_id_of_the_wrong_type():
    train = one(frames(2, 3, 4))
    train.sources["D"].metadata["timestamp.tid"] = 7.0
    error = refused(train, spec_of())
    assert error.reason == "bad_header"
    assert "'timestamp.tid' must be an integer" in str(error)


def test_key_missing_says_what_is_there():
    error = refused(train_of({"D": {"image.adc": frames(1, 3, 4), "n": 1}}), spec_of())
    assert error.reason == "key_missing"
    assert "D has no key 'image.data', only image.adc, n" in str(error)


def test_names_from_the_network_cannot_forge_the_log():
    forged = "x\n2026 ERROR all is lost \x1b[2J\x9b\u202e"
    texts = [
        absent(train_of({forged: {"a": 1}}), spec_of()),
        absent(train_of({"D": {forged: 1}}), spec_of()),
        str(refused(train_of({"D": {"image.adc": 1, forged: 1}}), spec_of())),
        str(refused(train_of({"D": {"image.data": frames(1, 3, 4), forged: 1}}), spec_of())),
        str(refused(train_of({forged: {"a": 1}}, train_id=None), spec_of())),
    ]
    for text in texts:
        assert text.isprintable()
        assert "x\\n2026 ERROR all is lost \\x1b[2J" in text


def test_key_missing_where_only_a_value_of_its_group_came():
    error = refused(train_of({"D": {"image.gain": 1, "header.pulseCount": 0}}), spec_of())
    assert error.reason == "key_missing"


def test_a_key_without_a_group_is_missing_where_anything_came():
    error = refused(train_of({"D": {"n": 1}}), spec_of(key="data", pulse_key=None))
    assert error.reason == "key_missing"
    assert assemble(train_of({"D": {}}), spec_of(key="data", pulse_key=None)).n == 0


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"header.pulseCount": np.zeros(1, "u8"), "detector.data": np.zeros(416, "u1"), "trailer.status": 0},
        {"imagedata": 1, "image": 2},  # names that only begin alike
    ],
    ids=["metadata only", "other groups", "alike"],
)
def test_a_source_without_the_group_of_its_key_has_no_pulses_in_this_train(others):
    events = assemble(train_of({"D": others}), spec_of())
    assert (events.n, events.source_present, events.train_id) == (0, True, 7)
    assert copied(events, spec_of()).shape == (0, 3, 4)


def test_a_module_without_pulses_is_missing_in_the_events_of_the_others():
    train = modules({0: [0, 1], 1: [0, 1]}, frames(2, 2, 3, 4))
    train.sources[DET.format(1)] = SourceData({}, {"header.pulseCount": np.zeros(1, "u8")}, {})
    events = assemble(train, module_spec(2))
    assert (events.n, events.missing_modules.tolist()) == (2, [2, 2])
    assert events.flags.tolist() == [FLAG_MODULE_MISSING] * 2


def test_a_train_of_one_pulse_may_come_without_its_pulse_axis():
    one = frames(1, 3, 4)
    events = assemble(train_of({"D": {"image.data": one[0], "image.pulseId": 9}}), spec_of())
    out = np.zeros((1, 3, 4), np.uint16)
    events.copy_into(out, 0, 1)
    assert events.pulse_ids.tolist() == [9]
    np.testing.assert_array_equal(out, one)


def test_scalar_in_place_of_an_array():
    error = refused(train_of({"D": {"image.data": 5}}), spec_of())
    assert error.reason == "shape_changed"
    assert (
        "D[image.data]: expected an array (pulses, 3, 4) for axes 'pulse slow fast', got a single int"
        in str(error)
    )


@pytest.mark.parametrize(
    ("axes", "shape", "wire", "hint"),
    [
        ("pulse slow fast", (3, 4), (3, 4, 9), "axes 'slow fast pulse' would fit"),
        ("pulse slow fast", (3, 4), (9, 4, 3), "axes 'pulse fast slow' would fit"),
        ("pulse slow fast", (3, 4), (3, 4, 3), "axes 'slow fast pulse' or 'pulse fast slow' would fit"),
        ("slow fast", (3, 4), (9, 3, 4), "axes 'pulse slow fast' would fit"),
        ("pulse slow fast", (3, 4), (9, 3, 5), "no order of axes fits"),
        ("pulse slow fast", (3, 4), (), "no order of axes fits"),
        ("pulse slow fast", (3, 4), (2, 2, 9, 3, 4), "no order of axes fits"),
        ("pulse module slow fast", (2, 3, 4), (2, 4, 3, 9), "axes 'module fast slow pulse' would fit"),
    ],
)
def test_shape_changed_says_which_axes_would_fit(axes, shape, wire, hint):
    error = refused(
        train_of({"D": {"image.data": np.zeros(wire, "u2"), "image.pulseId": [0]}}), spec_of(axes, shape)
    )
    assert error.reason == "shape_changed"
    assert f"D[image.data]: expected ({'pulses, ' if 'pulse' in axes else ''}" in str(error)
    assert f"for axes {axes!r}, got {wire}; {hint}" in str(error)


def test_dtype_changed():
    error = refused(one(frames(2, 3, 4).astype("f4")), spec_of())
    assert error.reason == "dtype_changed"
    assert "D[image.data]: expected uint16, got float32; set the stream's dtype" in str(error)


def modules(pulses: dict[int, list[int]], data: np.ndarray) -> Train:
    """One source per module; module m has data[pulse, m] for each of its pulses."""
    return train_of(
        {
            DET.format(m): {"image.data": data[ids, m], "image.pulseId": np.array(ids, "u8")}
            for m, ids in pulses.items()
        }
    )


def module_spec(n: int, axes: str = "pulse slow fast", attach: tuple[Attach, ...] = ()) -> SourceSpec:
    return spec_of(axes, (n, 3, 4), sources=tuple(DET.format(m) for m in range(n)), attach=attach)


def test_modules_are_stacked():
    data = frames(5, 16, 3, 4)
    spec = module_spec(16)
    events = assemble(modules({m: list(range(5)) for m in range(16)}, data), spec)
    assert (events.n, events.flags.tolist(), events.missing_modules.tolist()) == (5, [0] * 5, [0] * 5)
    np.testing.assert_array_equal(copied(events, spec), data)


def test_missing_module_is_zero_and_flagged():
    data = frames(3, 16, 3, 4) + np.uint16(1)
    spec = module_spec(16)
    events = assemble(modules({m: [0, 1, 2] for m in range(16) if m not in (2, 15)}, data), spec)
    assert events.flags.tolist() == [FLAG_MODULE_MISSING] * 3
    assert events.missing_modules.tolist() == [1 << 2 | 1 << 15] * 3
    data[:, [2, 15]] = 0
    np.testing.assert_array_equal(copied(events, spec), data)


def test_modules_are_aligned_by_pulse_id():
    data = frames(9, 3, 3, 4) + np.uint16(1)
    spec = module_spec(3)
    events = assemble(modules({0: [0, 4, 8], 1: [8, 4], 2: []}, data), spec)
    assert events.pulse_ids.tolist() == [0, 4, 8]
    assert events.missing_modules.tolist() == [0b110, 0b100, 0b100]
    expected = data[[0, 4, 8]]
    expected[:, 2] = 0
    expected[0, 1] = 0
    np.testing.assert_array_equal(copied(events, spec), expected)
    out = np.full((2, 3, 3, 4), 77, "u2")
    events.copy_into(out, 1, 3)
    np.testing.assert_array_equal(out, expected[1:])


def test_modules_with_duplicated_pulses():
    data = frames(9, 2, 3, 4)
    spec = module_spec(2)
    events = assemble(modules({0: [4, 4, 8], 1: [4, 8]}, data), spec)
    assert (events.pulse_ids.tolist(), events.duplicates) == ([4, 8], 1)
    np.testing.assert_array_equal(copied(events, spec), data[[4, 8]])


def test_modules_without_pulse_axis():
    data = frames(1, 2, 3, 4)[0]
    spec = spec_of("slow fast", (2, 3, 4), sources=("A", "B"), pulse_key=None)
    events = assemble(train_of({"A": {"image.data": data[0]}, "B": {"image.data": data[1]}}), spec)
    np.testing.assert_array_equal(copied(events, spec)[0], data)


def test_modules_of_different_trains_are_refused():
    train = modules({0: [0], 1: [0]}, frames(1, 2, 3, 4))
    train.sources[DET.format(1)].metadata["timestamp.tid"] = 8
    error = refused(train, module_spec(2))
    assert error.reason == "train_id_mismatch"
    assert "0CH0:xtdf', 7" in str(error)
    assert "1CH0:xtdf', 8" in str(error)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.5, [1.5, 1.5]),
        (3, [3, 3]),
        (True, [1, 1]),
        (np.float32(0.5), [0.5, 0.5]),
        (np.array(2.5), [2.5, 2.5]),
        (np.array([1, 2], "u2"), [1, 2]),
        (np.arange(1000, dtype=">f4"), [0, 1]),
        ([5, 6.5, 7], [5, 6.5]),
    ],
)
def test_attached_scalars(value, expected):
    spec = spec_of(attach=(Attach("energy", "XGM", "data.e"),))
    train = train_of(
        {"D": {"image.data": frames(2, 3, 4), "image.pulseId": [0, 1]}, "XGM": {"data.e": value}}
    )
    events = assemble(train, spec)
    assert events.attached[:, 0].tolist() == expected
    assert events.flags.tolist() == [0, 0]


@pytest.mark.parametrize("value", [None, "x", [1], [], ["a", "b"], np.zeros(1), np.zeros((2, 2)), {"a": 1}])
def test_attached_scalar_that_did_not_come(value):
    spec = spec_of(attach=(Attach("a", "XGM", "data.e"), Attach("b", "XGM", "none"), Attach("c", "D", "n")))
    sources = {
        "D": {"image.data": frames(2, 3, 4), "image.pulseId": [0, 1], "n": 4},
        "XGM": {"data.e": value},
    }
    events = assemble(train_of(sources), spec)
    assert np.isnan(events.attached[:, :2]).all()
    assert events.attached[:, 2].tolist() == [4, 4]
    assert events.flags.tolist() == [FLAG_ATTACH_MISSING] * 2


def test_attached_source_that_did_not_come():
    events = assemble(one(frames(2, 3, 4)), spec_of(attach=(Attach("a", "XGM", "data.e"),)))
    assert np.isnan(events.attached).all()
    assert events.flags.tolist() == [FLAG_ATTACH_MISSING] * 2


@pytest.mark.parametrize(
    ("pulses", "expected", "attached"),
    [
        ({0: [3, 1, 2], 1: [3, 1, 2]}, [1, 2, 3], [1, 2, 0]),
        ({0: [1, 1, 2], 1: [1, 1, 2]}, [1, 2], [0, 2]),
        ({0: [1, 2], 1: [1, 2]}, [1, 2], [0, 1]),
        ({1: [3, 1, 1]}, [3, 1], [0, 1]),
        ({0: [2, 1], 1: []}, [1, 2], [1, 0]),
        ({0: [1, 2], 1: [2, 3]}, [1, 2, 3], None),
        ({0: [1, 2], 1: [2, 1]}, [1, 2], None),
        ({0: [1, 1, 2], 1: [1, 2, 2]}, [1, 2], None),
        ({0: [], 1: []}, [], []),
    ],
)
def test_attached_vectors_follow_the_modules(pulses, expected, attached):
    """Entry i goes with frame i on the wire; where modules have different pulses there, with none."""
    train = modules(pulses, frames(4, 2, 3, 4))
    train.sources["X"] = SourceData({"scalar": 7}, {"vector": np.arange(4.0)}, {})
    spec = module_spec(2, attach=(Attach("v", "X", "vector"), Attach("s", "X", "scalar")))
    events = assemble(train, spec)
    assert events.pulse_ids.tolist() == expected
    np.testing.assert_array_equal(
        events.attached[:, 0], [np.nan] * len(expected) if attached is None else attached
    )
    assert events.attached[:, 1].tolist() == [7] * len(expected)
    missing = (events.flags & FLAG_ATTACH_MISSING) != 0
    assert missing.tolist() == [attached is None] * len(expected)


def test_a_vector_shorter_than_the_frames_it_goes_with_is_missing():
    train = modules({0: [3, 1, 2], 1: [3, 1, 2]}, frames(4, 2, 3, 4))
    train.sources["X"] = SourceData({}, {"vector": np.arange(2.0)}, {})
    events = assemble(train, module_spec(2, attach=(Attach("v", "X", "vector"),)))
    assert np.isnan(events.attached).all()
    assert events.flags.tolist() == [FLAG_ATTACH_MISSING] * 3


@pytest.mark.parametrize(
    ("axes", "shape", "text"),
    [
        ("pulse slow", (3, 4), "expected each of slow, fast once, and pulse at most once"),
        ("pulse slow slow fast", (3, 4), "expected each of slow, fast once"),
        ("pulse y x", (3, 4), "expected each of slow, fast once"),
        ("", (3, 4), "expected each of slow, fast once"),
        ("pulse pulse slow fast", (3, 4), "pulse at most once"),
        ("pulse module slow fast", (3, 4), "expected each of slow, fast once"),
        ("pulse slow fast", (9,), "expected each of bin once"),
        ("pulse slow fast", (), r"event shape \(\): expected"),
        ("pulse slow fast", (2, 3, 4, 5), r"event shape \(2, 3, 4, 5\): expected"),
        ("pulse slow fast", (0, 4), "sizes >= 1"),
    ],
)
def test_axes_that_make_no_sense(axes, shape, text):
    with pytest.raises(ValueError, match=text):
        parse_axes(axes, shape)


def test_sources_and_axes_must_agree():
    with pytest.raises(ValueError, match=r"need 1 sources, got 2"):
        spec_of("pulse module slow fast", (2, 3, 4), sources=("A", "B"))
    with pytest.raises(ValueError, match=r"need 2 sources, got 1; add 'module' to axes"):
        spec_of("pulse slow fast", (2, 3, 4))
    with pytest.raises(ValueError, match=r"65 sources for one stream, the limit is 64"):
        spec_of("pulse slow fast", (65, 3, 4), sources=tuple(map(str, range(65))))


properties = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5000),
    st.text(max_size=3),
    st.lists(st.integers(-(2**63), 2**64 - 1), max_size=3),
    st.builds(
        np.zeros,
        st.lists(st.integers(0, 4), max_size=4),
        st.sampled_from(["u2", ">u2", "f4", "u8", "?", "i1"]),
    ),
)
keys = st.sampled_from(["image.data", "image.pulseId", "image.trainId", "n"])
sources = st.dictionaries(st.sampled_from(["D", "E", "X"]), st.dictionaries(keys, properties), max_size=3)
specs = st.sampled_from(
    [
        spec_of(shape=(3, 4), attach=(Attach("n", "X", "n"), Attach("m", "D", "image.data"))),
        spec_of("slow fast", (3, 4)),
        spec_of("bin pulse", (3,)),
        spec_of("pulse slow fast", (2, 1, 2), sources=("D", "E")),
        spec_of("pulse bin", (2,), pulse_key=None),
    ]
)


@settings(max_examples=400, deadline=None)
@given(sources, specs, st.one_of(st.none(), st.integers(-1, 5), st.text(max_size=2)))
def test_any_train_gives_events_or_a_frame_error(sources, spec, train_id):
    train = Train(
        {
            source: SourceData(
                {key: value for key, value in properties.items() if not isinstance(value, np.ndarray)},
                {key: value for key, value in properties.items() if isinstance(value, np.ndarray)},
                {"timestamp.tid": train_id},
            )
            for source, properties in sources.items()
        }
    )
    try:
        events = assemble(train, spec)
    except FrameError:
        return
    assert events.n == len(events.pulse_ids) == len(events.flags) == len(events.attached)
    assert (copied(events, spec) == 0).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=3, max_size=3))
def test_each_event_gets_its_own_frames(pulses):
    data = np.arange(10 * 3, dtype="u2").reshape(10, 3, 1, 1) + np.uint16(1)
    spec = spec_of("pulse slow fast", (3, 1, 1), sources=tuple(DET.format(m) for m in range(3)))
    events = assemble(modules(dict(enumerate(pulses)), data), spec)
    out = copied(events, spec)
    assert sorted({pulse for ids in pulses for pulse in ids}) == sorted(events.pulse_ids.tolist())
    for i, pulse in enumerate(events.pulse_ids.tolist()):
        for m in range(3):
            came = pulse in pulses[m]
            assert out[i, m, 0, 0] == (data[pulse, m, 0, 0] if came else 0)
            assert bool(int(events.missing_modules[i]) >> m & 1) == (not came)
