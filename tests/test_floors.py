"""The floors under the benchmark: each loop moves what it says, and is seen to fail when it does not."""

import time

import pytest

from benchmarks import floors
from benchmarks.config import Options
from benchmarks.floor_streams import Copies
from benchmarks.floor_wakes import wake
from benchmarks.helper import BenchmarkError, Helper

SHORT = Options(repeats=1, seconds=0.05, warm_s=0.0, every_load=False)


@pytest.mark.usefixtures("leaks")
def test_messages_pass_in_every_way_that_is_compared() -> None:
    lines = list(floors.messages("32 kB", SHORT))
    assert [line.contender for line in lines] == [wire for wire, _, _ in floors.WIRES]
    for line in lines:
        passed_bytes = line.values["messages_per_s"] * floors.SIZES_BYTES["32 kB"]
        assert line.measured.median == pytest.approx(passed_bytes / 1e9)
        assert passed_bytes > 0
        assert line.values["cpu_us_per_message"] > 0


@pytest.mark.usefixtures("leaks")
def test_a_message_of_another_size_is_an_error_and_not_a_rate() -> None:
    send = {"role": "send", "wire": "zmq", "message_bytes": 4096}
    with Helper("benchmarks.floor_streams", send) as sender:
        receive = {"role": "zmq_into", "endpoint": sender.hello["endpoint"], "message_bytes": 8192}
        with Helper("benchmarks.floor_streams", receive) as receiver, pytest.raises(BenchmarkError):
            receiver.ask({"warm_s": 0.0, "seconds": 0.05})


@pytest.mark.usefixtures("leaks")
def test_a_hand_over_through_shared_memory_has_an_age_and_a_rate() -> None:
    lines = {line.contender: line for line in floors.hand_overs(SHORT)}
    hand_over = lines.pop("hand-over, both spinning")
    assert hand_over.values["n"] > 0
    assert 0 < hand_over.values["p50"] < 1e6
    assert [line.unit for line in lines.values()] == ["GB/s", "GB/s"]
    assert min(line.measured.low for line in lines.values()) > 0


@pytest.mark.usefixtures("leaks")
def test_every_way_to_wake_a_process_is_timed() -> None:
    lines = list(floors.wakes(SHORT))
    assert len(lines) == 5
    assert all(0 < line.measured.median < 1e6 for line in lines)


def test_stamps_that_an_eventfd_added_up_count_and_are_not_timed() -> None:
    now_ns = time.monotonic_ns()
    answers = iter([now_ns, 2 * now_ns, now_ns])
    seconds = wake(lambda: next(answers), 4)["seconds"]
    assert len(seconds) == 2
    assert min(seconds) >= 0


def test_a_walk_copies_every_block_and_a_stay_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.floor_streams.WALK_BYTES", 4 << 20)
    for walk, reached in ((False, False), (True, True)):
        copies = Copies()
        copies._bytes[0] = 7
        counts = copies.run(1 << 20, walk, 0.05)
        assert counts["bytes"] >= 2 << 20, "two blocks at least, or the second was never due"
        assert (copies._bytes[1] == 7).all() == reached
