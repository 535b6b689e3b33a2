"""The rule language: the text of a route's `when` to a function over whole batches.

Owns the grammar, the names a rule may use and their compilation. Not routes or verdicts (routing.py).

    rule      comparisons, also chained, joined by and, or, not
    compared  numbers joined by + - * / // %, with abs(a), min(a, b), max(a, b), log(a), sqrt(a)
    number    a literal, a scalar column, column.label for one element of a vector column,
              an attached scalar, train_id, pulse_id, and two constants like literals: calibrated.label, the
              threshold that a bundle of the stream holds for one of its classes (`streamer calibrate`), and
              named.name, the number of the cluster that somebody gave this name

A label or attached name that is no Python name is written with '_' for every other character. Text is parsed
with `ast`, checked against this grammar and compiled once to closures; nothing is evaluated as Python.
Arithmetic is float64, so ids above 2**53 are rounded in rules.

Logic is three-valued, because NaN must not turn into a silent no: a comparison with NaN has no answer, and
`x > 0 and log(x) > 2` has one for every x. A compiled rule is asked twice, once with missing answers counting
against it and once for it; where the two differ there is no answer.
"""

import ast
import difflib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from models.manifest import Column
from models.names import identifier

MAX_RULE_CHARS: Final = 1000  # about ten times the longest rule a person reads at a glance
MAX_RULE_DEPTH: Final = 32  # keeps the compiler's recursion far from Python's limit

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Ids: TypeAlias = npt.NDArray[np.uint64]
Table: TypeAlias = Mapping[str, npt.NDArray[Any]]
Values: TypeAlias = Sequence[Floats]  # one array [n] per variable that some rule reads
Truth: TypeAlias = Callable[[Values, bool], Bools]  # (values, what a comparison without an answer counts as)


# Names

CALIBRATED: Final = "calibrated"
NAMED: Final = "named"


@dataclass(frozen=True)
class Threshold:
    """What a bundle of the stream was calibrated to; rules write calibrated.label."""

    label: str
    value: float
    bundle: str


@dataclass(frozen=True)
class Vocabulary:
    """What the rules of a stream may mention: columns, attached scalars, thresholds, clusters by name."""

    columns: Sequence[Column]
    attached: Sequence[str] = ()
    thresholds: Sequence[Threshold] = ()
    clusters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Variable:
    column: str  # name in the table, or 'train_id' or 'pulse_id'
    element: int | None  # position in a vector column

    def read(self, table: Table, train_id: Ids, pulse_id: Ids) -> Floats:
        if self.column in _IDS:
            return (train_id if self.column == "train_id" else pulse_id).astype(np.float64)
        column = table[self.column]
        return (column if self.element is None else column[:, self.element]).astype(np.float64)


_IDS: Final = ("train_id", "pulse_id")


class Names:
    """What a rule may mention. `used` grows as rules are compiled; its order is that of Values."""

    def __init__(self, vocabulary: Vocabulary, problems: list[str]) -> None:
        self.used: list[_Variable] = []
        self.vectors: dict[str, list[str]] = {}
        self.known: dict[str, _Variable] = {name: _Variable(name, None) for name in _IDS}
        self.thresholds: dict[str, list[Threshold]] = {}
        for column in vocabulary.columns:
            self._add_column(column, problems)
        for name in vocabulary.attached:
            self._add(identifier(name), _Variable(name, None), problems)
        for threshold in vocabulary.thresholds:
            self.thresholds.setdefault(identifier(threshold.label), []).append(threshold)
        self.clusters = vocabulary.clusters
        self.clusters_used: dict[str, int] = {}
        for name, meaning in ((CALIBRATED, "thresholds of bundles"), (NAMED, "clusters with a name")):
            if name in self.known or name in self.vectors:
                problems.append(f"the name {name!r} stands for the {meaning}; rename the column")

    def _add_column(self, column: Column, problems: list[str]) -> None:
        name = identifier(column.name)
        if not column.labels:
            self._add(name, _Variable(column.name, None), problems)
            return
        if name in self.vectors or name in self.known:
            problems.append(f"the name {name!r} is given twice; rename a column")
            return
        self.vectors[name] = [f"{name}.{identifier(label)}" for label in column.labels]
        for index, path in enumerate(self.vectors[name]):
            self._add(path, _Variable(column.name, index), problems)

    def _add(self, name: str, variable: _Variable, problems: list[str]) -> None:
        if name in self.known or name in self.vectors or name in FUNCTIONS:
            problems.append(f"the name {name!r} is given twice or is a function; rename one of the two")
        self.known[name] = variable

    def slot(self, name: str) -> int:
        """Position in Values of a known name."""
        variable = self.known[name]
        if variable not in self.used:
            self.used.append(variable)
        return self.used.index(variable)

    def hint(self, name: str) -> str:
        """What the writer may have meant, or all there is."""
        everything = [*self.known, *self.vectors]
        folded = {known.casefold(): known for known in everything}
        near = difflib.get_close_matches(name.casefold(), folded, n=3)
        shown = [folded[match] for match in near] or sorted(everything)[:20]
        return ("near: " if near else "known: ") + ", ".join(shown)

    def calibrated(self, label: str) -> float | str:
        """The threshold of a label as rules write it, or what is wrong with it."""
        given = self.thresholds.get(label, [])
        if len(given) == 1:
            return given[0].value
        if given:
            bundles = " and ".join(threshold.bundle for threshold in given)
            return f"{bundles} both hold a threshold for it; run them in two streams, or write the number"
        known = ", ".join(f"{CALIBRATED}.{name}" for name in sorted(self.thresholds)[:20]) or "none"
        return (
            f"no bundle of this stream holds this threshold (there are: {known}); choose one with "
            f"`streamer calibrate BUNDLE DATA --class {label or 'CLASS'}`"
        )

    def cluster(self, name: str) -> float | str:
        """The number of a cluster by its name, or what is wrong with it."""
        if name in self.clusters:
            self.clusters_used[name] = self.clusters[name]
            return float(self.clusters[name])
        known = ", ".join(f"{NAMED}.{known}" for known in sorted(self.clusters)[:20]) or "none"
        return f"no cluster has this name (there are: {known}); name it first, or write its number"

    def constant(self, kind: str, name: str) -> float | str:
        """The value of calibrated.name or named.name, or what is wrong with it."""
        return self.calibrated(name) if kind == CALIBRATED else self.cluster(name)


# Rule text to closures


@dataclass(frozen=True)
class _Number:
    evaluate: Callable[[Values], Any]  # float64 [n], or a float64 scalar for a constant
    computed: bool  # may be NaN although every variable is finite


BINARY: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.remainder,
}
COMPARISONS: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
FUNCTIONS: Final[dict[str, tuple[Callable[..., Any], int]]] = {  # and the number of arguments
    "abs": (np.abs, 1),
    "min": (np.minimum, 2),
    "max": (np.maximum, 2),
    "log": (np.log, 1),
    "sqrt": (np.sqrt, 1),
}
_ALLOWED: Final = "allowed are numbers, names, + - * / // %, comparisons, and, or, not and " + ", ".join(
    FUNCTIONS
)


class Compiler:
    """One rule to one closure. Problems are collected; what a problem stands for compiles to a constant."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.problems: list[str] = []
        self.undefined = False

    def parse(self, text: str) -> ast.expr | None:
        if len(text) > MAX_RULE_CHARS:
            self.problems.append(
                f"{len(text)} characters, at most {MAX_RULE_CHARS}; split it into several routes"
            )
            return None
        if "#" in text:  # lines are joined below, a comment would swallow what follows it
            self.problems.append("'#' is not allowed; write comments in the TOML file, outside the rule")
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # '1or 2' only warns; the tree is what counts
                return ast.parse(" ".join(text.split()), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            why = error.msg if isinstance(error, SyntaxError) else str(error)
            if re.search(r"[^=<>!]=[^=]", text):
                why = "a single '=' compares nothing; write '=='"
            self.problems.append(f"not a rule ({why}); {_ALLOWED}")
            return None

    def truth(self, node: ast.expr, positive: bool, depth: int) -> Truth:
        """`positive`: under an even number of `not`; a missing answer counts for or against the rule."""
        match node:
            case _ if depth > MAX_RULE_DEPTH:
                return self._no_truth(
                    node, f"nested deeper than {MAX_RULE_DEPTH}; split it into several routes"
                )
            case ast.BoolOp(op=op, values=parts):
                combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return _join(combine, [self.truth(part, positive, depth + 1) for part in parts])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.truth(operand, not positive, depth + 1)
                return lambda values, unknown: np.logical_not(inner(values, unknown))
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return self._comparison(node, [left, *comparators], ops, positive, depth)
            case ast.Name() | ast.Attribute() | ast.Constant() | ast.BinOp() | ast.UnaryOp() | ast.Call():
                return self._bare_number(node, depth)
        return self._no_truth(node, f"{type(node).__name__} is not allowed; {_ALLOWED}")

    def number(self, node: ast.expr, depth: int) -> _Number:
        match node:
            case _ if depth > MAX_RULE_DEPTH:
                return self._no_number(
                    node, f"nested deeper than {MAX_RULE_DEPTH}; split it into several routes"
                )
            case ast.Constant(value=value):
                return self._constant(node, value)
            case ast.Name(id=name) if name in (CALIBRATED, NAMED):
                return self._named_constant(node, name, "")
            case ast.Name(id=name):
                return self._variable(node, name)
            case ast.Attribute(value=ast.Name(id=kind), attr=label) if kind in (CALIBRATED, NAMED):
                return self._named_constant(node, kind, label)
            case ast.Attribute(value=ast.Name(id=column), attr=label):
                return self._variable(node, f"{column}.{label}")
            case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
                return self._apply(BINARY[type(op)], [left, right], depth)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._apply(np.negative, [operand], depth)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.number(operand, depth + 1)
            case ast.Call():
                return self._call(node, depth)
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                return self._no_number(
                    node, "is yes or no where a number is needed; join comparisons with and, or, not"
                )
        operator = f"{type(node.op).__name__} " if isinstance(node, ast.BinOp | ast.UnaryOp) else ""
        return self._no_number(node, f"{operator}{type(node).__name__} is not allowed; {_ALLOWED}")

    def _bare_number(self, node: ast.expr, depth: int) -> Truth:
        before = len(self.problems)
        self.number(node, depth)
        if len(self.problems) == before:
            self._no_truth(node, f"is a number where yes or no is needed; compare it: {_show(node)} > 0.5")
        return _never

    def _comparison(
        self, node: ast.expr, operands: list[ast.expr], ops: list[ast.cmpop], positive: bool, depth: int
    ) -> Truth:
        numbers = [self.number(operand, depth + 1) for operand in operands]
        if any(type(op) not in COMPARISONS for op in ops):
            return self._no_truth(node, "compares with something else than < <= > >= == !=")
        links = [
            _compare(COMPARISONS[type(op)], left, right, positive)
            for op, left, right in zip(ops, numbers[:-1], numbers[1:], strict=True)
        ]
        self.undefined |= any(number.computed for number in numbers)
        return _join(np.logical_and, links)

    def _call(self, node: ast.Call, depth: int) -> _Number:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in FUNCTIONS:
            return self._no_number(node, f"calls an unknown function; known: {', '.join(FUNCTIONS)}")
        function, count = FUNCTIONS[name]
        if node.keywords or len(node.args) != count:
            return self._no_number(node, f"{name} takes {count} number{'s' * (count > 1)}")
        return self._apply(function, node.args, depth)

    def _apply(self, function: Callable[..., Any], operands: list[ast.expr], depth: int) -> _Number:
        parts = [self.number(operand, depth + 1).evaluate for operand in operands]
        if len(parts) == 1:
            only = parts[0]
            return _Number(lambda values: function(only(values)), True)
        left, right = parts
        return _Number(lambda values: function(left(values), right(values)), True)

    def _constant(self, node: ast.expr, value: object) -> _Number:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return self._no_number(node, f"{type(value).__name__} is not allowed; {_ALLOWED}")
        if not -1e300 < value < 1e300:  # also what does not fit a float64 at all
            return self._no_number(node, "the number is too large")
        number = np.float64(value)
        return _Number(lambda _: number, False)

    def _variable(self, node: ast.expr, name: str) -> _Number:
        if name in self.names.vectors:
            paths = self.names.vectors[name]
            return self._no_number(
                node, f"{name!r} has {len(paths)} elements; name one: {', '.join(paths[:20])}"
            )
        if name not in self.names.known:
            return self._no_number(node, f"unknown name {name!r}; {self.names.hint(name)}")
        slot = self.names.slot(name)
        return _Number(lambda values: values[slot], False)

    def _named_constant(self, node: ast.expr, kind: str, name: str) -> _Number:
        found = self.names.constant(kind, name)
        return self._no_number(node, found) if isinstance(found, str) else self._constant(node, found)

    def _no_number(self, node: ast.expr, problem: str) -> _Number:
        self.problems.append(f"{_show(node)}: {problem}")
        return _Number(lambda _: np.float64(0), False)

    def _no_truth(self, node: ast.expr, problem: str) -> Truth:
        self.problems.append(f"{_show(node)}: {problem}")
        return _never


def _never(_values: Values, _unknown: bool) -> Bools:
    return np.zeros(1, np.bool_)


def _show(node: ast.expr) -> str:
    """A piece of the rule, short enough for a message."""
    try:
        text = ast.unparse(node)
    except RecursionError:
        return "..."
    return text if len(text) <= 60 else f"{text[:57]}..."


def _join(combine: Callable[[Any, Any], Any], parts: list[Truth]) -> Truth:
    first, *rest = parts

    def evaluate(values: Values, unknown: bool) -> Bools:
        result = first(values, unknown)
        for part in rest:
            result = combine(result, part(values, unknown))
        return result

    return evaluate


def _compare(function: Callable[[Any, Any], Any], left: _Number, right: _Number, positive: bool) -> Truth:
    a, b = left.evaluate, right.evaluate
    if not (left.computed or right.computed):
        return lambda values, _unknown: function(a(values), b(values))

    def evaluate(values: Values, unknown: bool) -> Bools:
        x, y = a(values), b(values)
        return np.where(np.isnan(x) | np.isnan(y), unknown == positive, function(x, y))

    return evaluate
