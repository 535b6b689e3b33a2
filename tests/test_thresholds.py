"""The numbers of a rule: found where they stand, and replaced there only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.manifest import Column
from streamer.errors import ConfigError
from streamer.rules import Compiler, Names, Vocabulary
from streamer.thresholds import Constant, constants, with_constant


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("p.Streak > 0.5", [Constant(0, "p.Streak", ">", 0.5)]),
        ("0.5 < p.Streak", [Constant(0, "p.Streak", ">", 0.5)]),
        ("x <= -3.3", [Constant(0, "x", "<=", -3.3)]),
        ("p.Streak >= calibrated.Streak", [Constant(0, "p.Streak", ">=", None, "calibrated.Streak")]),
        ("0.2 < x < 0.8", [Constant(0, "x", ">", 0.2), Constant(1, "x", "<", 0.8)]),
        ("x < 0.5 < y", [Constant(0, "x", "<", 0.5)]),
        ("2 * x > 1 and not y < (3)", [Constant(0, "2 * x", ">", 1.0), Constant(1, "y", "<", 3.0)]),
        ("min(x, 7) > y", []),
        ("cluster == 3 or cluster != named.rings", []),
        ("cluster > named.rings", []),
        ("1 < 2", []),
        ("x >", []),
        ("x", []),
        ("x > 1e301", []),
        ("x > True", []),
        ("x > 1 #", [Constant(0, "x", ">", 1.0)]),
    ],
)
def test_constants(when: str, expected: list[Constant]) -> None:
    assert list(constants(when)) == expected


def test_one_is_replaced_and_the_rest_stays() -> None:
    when = "p.no_sample < 0.5 and\n  0.8 > target.height  or x>=calibrated.x"
    assert with_constant(when, 0, 0.25) == "p.no_sample < 0.25 and 0.8 > target.height or x>=calibrated.x"
    assert with_constant(when, 1, -1) == "p.no_sample < 0.5 and -1 > target.height or x>=calibrated.x"
    assert with_constant(when, 2, 0.1 + 0.2) == "p.no_sample < 0.5 and 0.8 > target.height or x>=0.3"


def test_places_are_counted_in_bytes_as_the_parser_does() -> None:
    assert with_constant("größe > 1 and µ < 2", 1, 30) == "größe > 1 and µ < 30"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_a_value_that_no_rule_takes_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="finite number"):
        with_constant("x > 1", 0, value)


def test_a_constant_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="has 1 constants, none number 1"):
        with_constant("x > 1", 1, 0.5)


@given(st.text(max_size=60))
def test_any_text_is_answered(when: str) -> None:
    for constant in constants(when):
        with_constant(when, constant.index, 0.5)


numbers = st.floats(-1e6, 1e6) | st.integers(-100, 100)


@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(["<", "<=", ">", ">="]), numbers), min_size=1),
    st.data(),
    st.floats(-1e12, 1e12),
)
def test_what_is_written_is_a_rule_again_with_that_number(
    parts: list[tuple[str, str, float]], data: st.DataObject, value: float
) -> None:
    when = " and ".join(f"{name} {operator} {number!r}" for name, operator, number in parts)[:900]
    found = constants(when)
    if not found:
        return
    index = data.draw(st.integers(0, len(found) - 1))
    text = with_constant(when, index, value)
    problems: list[str] = []
    compiler = Compiler(Names(Vocabulary([Column(name, "float32") for name in "xyz"]), problems))
    tree = compiler.parse(text)
    assert tree is not None
    after = constants(text)
    assert [c for c in after if c.index != index] == [c for c in found if c.index != index]
    assert after[index].value == pytest.approx(value, rel=1e-11)


def test_whole_numbers_are_written_exactly() -> None:
    assert with_constant("train_id > 5", 0, 1234567890123) == "train_id > 1234567890123"
    assert with_constant("p.x > 5", 0, 0.30000000000000004) == "p.x > 0.3"
