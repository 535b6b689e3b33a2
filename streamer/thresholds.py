"""The numbers in a rule that a person may turn: where they stand in its text, and the text with another one.

Owns no grammar: what a rule may say is in rules.py, and a changed text is checked there like any other.
A constant is what an ordering comparison has on one side alone: a literal, or calibrated.label. What == or !=
compare with is none: no slider turns it.
"""

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Final, NamedTuple

from streamer.errors import ConfigError
from streamer.rules import CALIBRATED, MAX_RULE_CHARS

# A comparison read from the right: 0.5 < p.Streak is p.Streak > 0.5.
_MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_ORDER: Final[dict[type[ast.cmpop], str]] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
MAX_VALUE: Final = 1e300  # rules take no larger number


@dataclass(frozen=True)
class Constant:
    """One of them; `value` and `name` exclude each other."""

    index: int
    """Its number among those of the rule, from the left."""
    left: str
    """What is compared with it: 'p.Streak', '2 * target.x'."""
    operator: str
    """'<', '<=', '>' or '>=', read as left OPERATOR constant."""
    value: float | None
    """The literal; None if the rule names a calibrated threshold."""
    name: str = ""
    """'calibrated.Streak', or empty."""


class _Place(NamedTuple):
    constant: Constant
    start: int  # in bytes of the text as UTF-8, as `ast` counts
    stop: int


def constants(when: str) -> tuple[Constant, ...]:
    """Every constant of a rule, from the left; none of a text that is no rule."""
    return tuple(place.constant for place in _places(_joined(when)))


def with_constant(when: str, index: int, value: float) -> str:
    """The rule with constant `index` replaced by a literal. Raises ConfigError."""
    text = _joined(when)
    place = next((place for place in _places(text) if place.constant.index == index), None)
    if place is None:
        raise ConfigError(f"rule {when[:200]!r} has {len(_places(text))} constants, none number {index}")
    if not (isfinite(value) and abs(value) < MAX_VALUE):
        raise ConfigError(f"a threshold is a finite number below {MAX_VALUE:g}, got {value}")
    raw = text.encode()
    return (raw[: place.start] + _written(value).encode() + raw[place.stop :]).decode()


def _written(value: float) -> str:
    """The shortest text within 12 digits: a slider's 0.30000000000000004 is 0.3. Whole numbers are exact."""
    if value == int(value) and abs(value) < 2**53:
        return str(int(value))
    short = repr(float(f"{value:.12g}"))
    return short.removesuffix(".0") if short != "-0.0" else "0"


def _joined(when: str) -> str:
    """On one line, as rules are read."""
    return " ".join(when.split())


def _places(text: str) -> list[_Place]:
    if len(text) > MAX_RULE_CHARS:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text, mode="eval")
            found = [place for node in ast.walk(tree) if isinstance(node, ast.Compare) for place in _of(node)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    once = {place.start: place for place in reversed(found)}  # x < 0.5 < y has its constant on two sides
    return [_numbered(once[start], index) for index, start in enumerate(sorted(once))]


def _numbered(place: _Place, index: int) -> _Place:
    old = place.constant
    return place._replace(constant=Constant(index, old.left, old.operator, old.value, old.name))


def _of(node: ast.Compare) -> Iterator[_Place]:
    """The constants of one comparison; in a chain, a < x < b, each once."""
    operands = [node.left, *node.comparators]
    for left, kind, right in zip(operands, node.ops, operands[1:], strict=False):
        operator = _ORDER.get(type(kind))
        if operator is None or _is_constant(left) == _is_constant(right):
            continue
        if _is_constant(right):
            yield _place(right, left, operator)
        else:
            yield _place(left, right, _MIRRORED[operator])


def _place(constant: ast.expr, other: ast.expr, operator: str) -> _Place:
    literal = _literal(constant)
    made = Constant(
        0, ast.unparse(other), operator, literal, "" if literal is not None else ast.unparse(constant)
    )
    return _Place(made, constant.col_offset, constant.end_col_offset or constant.col_offset)


def _is_constant(node: ast.expr) -> bool:
    named = (
        isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == CALIBRATED
    )
    return named or _literal(node) is not None


def _literal(node: ast.expr) -> float | None:
    """The number of 0.5, -3 or +2; None for anything else."""
    match node:
        case ast.Constant(value=bool()):
            return None
        case ast.Constant(value=int() | float() as value):
            return float(value) if abs(value) < MAX_VALUE else None
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() as operand):
            inner = _literal(operand)
            return None if inner is None else -inner
        case ast.UnaryOp(op=ast.UAdd(), operand=ast.Constant() as operand):
            return _literal(operand)
    return None
