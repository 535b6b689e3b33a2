"""Words and bars: what a number looks like, and that nothing disappears."""

import pytest

from streamer.terminal import aligned, bar, clean, clock, counted, duration, percent, plural, rate


def test_clean_leaves_nothing_that_a_terminal_obeys():
    assert clean("\x1b[2J\x07a\u202eb\x9b1m") == "?[2J?a?b?1m"
    assert clean("x" * 1000) == "x" * 80


@pytest.mark.parametrize(
    ("parts", "width", "expected"),
    [
        ({"#": 5, "-": 5}, 12, "[#####-----]"),
        ({"#": 1, "-": 9998, "!": 1}, 12, "[#--------!]"),
        ({"#": 1, "-": 1, "!": 1}, 6, "[##-!]"),
        ({"#": 0, "-": 7}, 6, "[----]"),
        ({"#": 0}, 6, "[    ]"),
        ({"#": 3}, 0, "[]"),
    ],
)
def test_bar(parts, width, expected):
    assert bar(parts, width) == expected


def test_numbers():
    assert [rate(value) for value in (0, 3.14159, 12.6, 12345.6)] == ["0", "3.1", "13", "12,346"]
    assert [percent(*pair) for pair in ((0, 0), (0, 5), (1, 10**6), (1, 3))] == [
        "-",
        "0.0 %",
        "<0.1 %",
        "33.3 %",
    ]
    shown = [duration(s) for s in (None, 0, 2e-5, 0.0168, 1.5, 250, 5000, -0.003)]
    assert shown == ["-", "0 us", "20 us", "16.8 ms", "1.5 s", "250 s", "5000 s", "-3 ms"]
    assert [clock(value) for value in (0, 753.9, 100_000)] == ["0:00:00", "0:12:33", "27:46:40"]
    assert counted({"a": 1, "b": 0, "c\n": 2000}) == "c? 2,000, a 1"
    assert [plural(1, "slot"), plural(0, "slot")] == ["1 slot", "0 slots"]


def test_columns_stand_under_one_another():
    assert aligned([("a", "10", "x"), ("bcd", "9", "")], right=(1,)) == ["a   10 x", "bcd  9"]
    assert aligned([("回路", "1"), ("ab", "2")]) == ["回路 1", "ab   2"], "two places for a wide letter"
