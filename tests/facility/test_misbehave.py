"""Each fault gives the messages that it promises, as our own decoder and the log see them."""

from typing import Any

import numpy as np
import pytest

from streamer.errors import ConfigError, FrameError
from streamer.facility.misbehave import DEFAULTS, UNKNOWN_SOURCE, Message, Step, messages, parse_schedule
from streamer.facility.simulated import SimulatorOptions, Trains, detector_sources, make_bank
from streamer.facility.truth import OFFERED, RECORD, REFUSED, Mark, checksums, expected
from streamer.wire.karabo_bridge import Train, decode

PULSES = 4
DETECTOR = detector_sources("noise")[0]


def faulty(word: str, version: str = "2.2", **options: Any) -> list[Message]:
    """The messages of train 0 with one fault."""
    settings = SimulatorOptions(
        **{"kind": "noise", "pulses": PULSES, "shape": (6, 8), "bank_events": 10, "misbehave": word} | options
    )
    trains = Trains(settings, make_bank(settings))
    step = next(iter(parse_schedule(word).steps(5)))
    return messages(trains.train(step.index), step, version)


def read(message: Message) -> Train:
    return decode([memoryview(part) for part in message.parts])


@pytest.mark.parametrize("version", ["1.0", "2.2"])
@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        ("truncated", {"size_mismatch"}),
        ("oversized", {"size_mismatch"}),
        ("odd", {"odd_frame_count"}),
        ("pickle", {"pickle_refused"}),
        ("object", {"pickle_refused", "bad_dtype"}),
        ("bomb", {"bad_payload"}),
        ("deep", {"bad_payload"}),
    ],
)
def test_refused_messages(kind: str, reasons: set[str], version: str) -> None:
    (message,) = faulty(f"{kind}@0", version)
    with pytest.raises(FrameError) as caught:
        read(message)
    assert caught.value.reason in reasons
    assert set(message.rows["mark"]) == {Mark[kind.upper()]}
    assert Mark[kind.upper()] in REFUSED
    assert len(message.rows) == PULSES


def test_unknown_content_is_for_versions_2() -> None:
    (message,) = faulty("content@0")
    with pytest.raises(FrameError) as caught:
        read(message)
    assert caught.value.reason == "unknown_content"
    with pytest.raises(ConfigError, match="content needs version 2"):
        SimulatorOptions(misbehave="content@3", version="1.0")


def test_truncated_by_a_number_of_bytes() -> None:
    (good,), (bad,) = faulty("stall@0:0"), faulty("truncated@0:10")
    sizes = [(len(bytes(g)), len(bytes(b))) for g, b in zip(good.parts, bad.parts, strict=True)]
    assert [g - b for g, b in sizes if g != b] == [10]


def test_wrong_shape() -> None:
    (message,) = faulty("shape@0")
    assert read(message).sources[DETECTOR].arrays["image.data"].shape == (PULSES, 6, 7)
    assert set(message.rows["mark"]) == {Mark.SHAPE}


def test_wrong_dtype() -> None:
    (message,) = faulty("dtype@0")
    assert read(message).sources[DETECTOR].arrays["image.data"].dtype == np.float64


def test_unknown_source_comes_beside_the_good_ones() -> None:
    (good,), (message,) = faulty("stall@0:0"), faulty("unknown@0")
    assert set(read(message).sources) - set(read(good).sources) == {UNKNOWN_SOURCE}
    assert set(message.rows["mark"]) == {Mark.UNKNOWN}


def test_missing_module() -> None:
    names = detector_sources("noise", 3)
    (message,) = faulty("module@0:1", modules=3)
    assert set(names) - set(read(message).sources) == {names[1]}
    with pytest.raises(ConfigError, match="more than one module"):
        SimulatorOptions(kind="noise", misbehave="module@0")


def test_nan_marks_and_sums_what_it_spoils() -> None:
    (message,) = faulty("nan@0:2", dtype="float32")
    frames = read(message).sources[DETECTOR].arrays["image.data"]
    assert np.isfinite(frames).all(axis=(1, 2)).tolist() == [False, False, True, True]
    assert np.isnan(frames[0, 0, 0])
    assert np.isinf(frames[0, -1, -1])
    assert message.rows["mark"].tolist() == [Mark.NAN, Mark.NAN, 0, 0]
    assert message.rows["crc"].tolist() == checksums(frames).tolist()
    with pytest.raises(ConfigError, match="nan needs float"):
        SimulatorOptions(kind="droplets", misbehave="nan@0")


def test_empty_train_has_no_events() -> None:
    (message,) = faulty("empty@0")
    arrays = read(message).sources[DETECTOR].arrays
    assert {key: array.shape for key, array in arrays.items()} == {
        "image.data": (0, 6, 8),
        "image.pulseId": (0,),
        "image.trainId": (0,),
    }
    assert len(message.rows) == 0


def test_duplicates_are_the_same_bytes_and_only_copies_are_marked() -> None:
    first, *copies = faulty("duplicate@0:2")
    assert len(copies) == 2
    assert not first.rows["mark"].any()
    for copy in copies:
        assert [bytes(part) for part in copy.parts] == [bytes(part) for part in first.parts]
        assert set(copy.rows["mark"]) == {Mark.DUPLICATE}


def test_gap_sends_nothing_and_writes_it_down() -> None:
    (message,) = faulty("gap@0")
    assert message.parts == []
    assert set(message.rows["mark"]) == {Mark.GAP}
    assert set(message.rows["sent"]) == {OFFERED}


def test_order_of_trains() -> None:
    schedule = parse_schedule("gap@1:2, reorder@4 ,stall@7:0.5,gap@9:5")
    steps = list(schedule.steps(11))
    assert [step.index for step in steps] == [0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10]
    assert [step.index for step in steps if step.skipped] == [1, 2, 9, 10]
    assert [step.index for step in steps if step.fault and step.fault.kind == "reorder"] == [5, 4]
    assert [step.stall_s for step in steps if step.stall_s] == [0.5]


def test_reorder_of_the_last_train_has_no_partner() -> None:
    assert [step.index for step in parse_schedule("reorder@2").steps(3)] == [0, 1, 2]


def test_no_end() -> None:
    steps = parse_schedule("").steps(None)
    assert [next(steps) for _ in range(3)] == [Step(0), Step(1), Step(2)]


@pytest.mark.parametrize(
    "text",
    [
        "explode@3",
        "gap",
        "gap@",
        "gap@x",
        "gap@-1",
        "gap@1:0",
        "gap@1:nan",
        "stall@1:-1",
        "bomb@0:1e9",
        "gap@1:",
    ],
)
def test_bad_schedules_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="misbehaviour"):
        parse_schedule(text)


@pytest.mark.parametrize("text", ["gap@3:2,odd@4", "reorder@3,odd@4", "odd@1,odd@1"])
def test_two_faults_of_one_train_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="both want train"):
        parse_schedule(text)


def test_every_kind_has_its_mark() -> None:
    assert {kind.upper() for kind in DEFAULTS} == set(Mark.__members__)


def test_expected_events() -> None:
    log = np.zeros(5, RECORD)
    log["train_id"] = range(5)
    log["sent"] = [1, 1, 1, 0, 2]
    log["mark"] = [0, Mark.TRUNCATED, Mark.REORDER, 0, 0]
    assert expected(log)["train_id"].tolist() == [0, 2]
