"""A flood of bad messages is not a flood of lines."""

import logging

import pytest

from streamer.log import FIRST, Repeated


def test_the_first_ten_and_then_each_power_of_ten(caplog: pytest.LogCaptureFixture) -> None:
    repeated = Repeated(logging.getLogger("test"))
    for number in range(1, 10_001):
        repeated.warn("bad", f"message {number}")
    logged = [record.getMessage() for record in caplog.records]
    numbers = [*range(1, FIRST + 1), 100, 1000, 10_000]
    assert logged == [f"message {n} (number {n} of its kind)" for n in numbers]


def test_kinds_are_counted_apart(caplog: pytest.LogCaptureFixture) -> None:
    repeated = Repeated(logging.getLogger("test"))
    for _ in range(50):
        repeated.warn("one", "x")
    repeated.warn("two", "y")
    assert caplog.records[-1].getMessage() == "y (number 1 of its kind)"
    assert len(caplog.records) == FIRST + 1


def test_control_characters_from_the_network_are_shown_and_not_obeyed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Repeated(logging.getLogger("forged")).warn("kind", "source A\x1b[2J\nERROR all is well")
    [record] = caplog.records
    assert record.getMessage() == "source A\\x1b[2J\\nERROR all is well (number 1 of its kind)"
