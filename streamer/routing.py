"""Verdicts: which events are kept, by which route, and why.

Owns the routes, the random sample and the list of verdict reasons. Knows no sockets, no clock and no torch:
whole batches of result columns in, arrays of verdicts out. The language of `when` is in rules.py.

Fail-open: an event with a NaN or infinity in a result column, or in an attached scalar that some rule reads,
is kept, and so is one for which a rule has no answer, such as log(-1) > 2.

Sample: the finaliser of splitmix64 (Steele, Lea, Flood, doi:10.1145/2660193.2660195) over the ids, seeded
with SHA-256 of run, stream and route; an event is drawn when hash % one_in == 0, with a bias of at most
one_in / 2**64. The route is in the seed so that two samples of one stream are independent: with one hash for
both, one_in = 100 behind one_in = 10 would never draw.

The hash of the rules is of their text, and of the clusters that they name. What calibrated.label stands for
is pinned by the hash of the bundle.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from streamer.errors import FAILOPEN_REASONS, ConfigError, StageError
from streamer.rules import Bools, Compiler, Ids, Names, Table, Truth, Values, Vocabulary

VETO: Final = 0
KEEP: Final = 1

# Column `reason` holds an index into this list.
REASONS: Final = ("veto", "route", "sample", *(f"failopen:{reason}" for reason in FAILOPEN_REASONS))
REASON_VETO: Final = 0
REASON_ROUTE: Final = 1
REASON_SAMPLE: Final = 2
FIRST_FAILOPEN: Final = len(REASONS) - len(FAILOPEN_REASONS)  # it and all after: kept without an answer
NO_ROUTE: Final = -1

RESERVED_ROUTES: Final = ("failopen", "results")  # these name file series of their own
_ROUTE_NAME: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9_-]{0,39}"
)  # becomes part of file names and a metrics label


class RouteError(ConfigError):
    """The routes of a stream cannot be used; the text lists every reason."""


@dataclass(frozen=True)
class Route:
    """A named rule. Both `when` and `one_in`: a sample of the events for which `when` holds."""

    name: str
    when: str | None = None  # rule text; None: every event
    one_in: int | None = None  # keep one event in this many; None: all
    enabled: bool = True  # False: matches nothing


@dataclass(frozen=True)
class Decision:
    """The verdicts of n events."""

    verdict: npt.NDArray[np.uint8]  # VETO or KEEP
    route: npt.NDArray[np.int16]  # index into the stream's routes, NO_ROUTE for veto and fail-open
    reason: npt.NDArray[np.uint8]  # index into REASONS


def failopen_code(reason: str) -> int:
    """Index into REASONS of a fail-open reason; ValueError for a word not in FAILOPEN_REASONS."""
    if reason not in FAILOPEN_REASONS:
        raise ValueError(f"unknown fail-open reason {reason!r}; add it to FAILOPEN_REASONS")
    return REASONS.index(f"failopen:{reason}")


def failopen(n: int, reason: str) -> Decision:
    """Keep all of n events because no model answered for them."""
    code = failopen_code(reason)
    return Decision(np.full(n, KEEP, np.uint8), np.full(n, NO_ROUTE, np.int16), np.full(n, code, np.uint8))


_NONFINITE: Final = failopen_code("nonfinite")


class Router:
    """The compiled routes of one stream; RouteError names all problems.

    `rules_sha256` identifies the rules: equal rules, whatever their spacing, have equal hashes.
    """

    def __init__(self, routes: Sequence[Route], vocabulary: Vocabulary, run: int, stream: str) -> None:
        problems = list(_route_problems(routes))
        names = Names(vocabulary, problems)
        rules = [_compile(route, names, problems) for route in routes]
        if problems:
            raise RouteError(f"stream {stream!r}: routes cannot be used:\n  " + "\n  ".join(problems))
        self.names = tuple(route.name for route in routes)
        named = [json.dumps(sorted(names.clusters_used.items()))] if names.clusters_used else []
        text = "\n".join([*(rule.text for rule in rules), *named])
        self.rules_sha256 = hashlib.sha256(text.encode()).hexdigest()
        self._seeds = [_seed(run, stream, name) for name in self.names]
        self._variables = names.used
        used_attached = [v.column for v in names.used if v.column in vocabulary.attached]
        floats = [c.name for c in vocabulary.columns if np.dtype(c.dtype).kind == "f"]
        self._float_columns = floats + used_attached
        # By route; NO_ROUTE is -1, the last.
        self._reasons = np.array([*(rule.reason for rule in rules), REASON_VETO], np.uint8)
        self._enabled = [(index, rule) for index, rule in enumerate(rules) if routes[index].enabled]

    def decide(self, table: Table, train_id: Ids, pulse_id: Ids) -> Decision:
        """Verdicts for n events. `table`: result columns [n] or [n, width] and attached scalars [n].

        StageError if `table` lacks a column that was declared.
        """
        n = len(train_id)
        train_id, pulse_id = train_id.astype(np.uint64, copy=False), pulse_id.astype(np.uint64, copy=False)
        route, free = np.full(n, NO_ROUTE, np.int16), np.ones(n, np.bool_)
        with np.errstate(all="ignore"):
            try:
                unclear = self._not_finite(table, n)
                values = [v.read(table, train_id, pulse_id) for v in self._variables]
            except KeyError as missing:
                raise StageError(f"routes read column {missing}, the results hold {sorted(table)}") from None
            if unclear is not None:
                free ^= unclear
            for index, rule in self._enabled:
                hit, maybe = rule.match(values, free)
                if rule.one_in is not None:
                    drawn = _draw(train_id, pulse_id, self._seeds[index], rule.one_in)
                    hit, maybe = hit & drawn, None if maybe is None else maybe & drawn
                np.copyto(route, index, where=hit)
                free ^= hit if maybe is None else hit | maybe
                if maybe is not None:
                    unclear = maybe if unclear is None else unclear | maybe
        reason = self._reasons[route]
        if unclear is not None:
            np.copyto(reason, _NONFINITE, where=unclear)
        return Decision((reason != REASON_VETO).view(np.uint8), route, reason)

    def _not_finite(self, table: Table, n: int) -> Bools | None:
        """True [n] where some float column is not finite; None for nowhere, as it almost always is."""
        bad: Bools | None = None
        for name in self._float_columns:
            ok = np.isfinite(table[name])
            if not np.logical_and.reduce(ok, axis=None):
                here: Bools = ~np.logical_and.reduce(ok.reshape(n, -1), axis=1)
                bad = here if bad is None else bad | here
        return bad


# Routes


def _route_problems(routes: Sequence[Route]) -> Iterator[str]:
    if not routes:
        yield "there is none, so every event would be vetoed; to keep all, give one route with a name only"
    elif not any(route.enabled for route in routes):
        yield "none is enabled, so every event would be vetoed; leave one enabled"
    seen: set[str] = set()
    for route in routes:
        where = f"route {route.name!r}"
        if not _ROUTE_NAME.fullmatch(route.name):
            yield f"{where}: a name is a letter, then up to 39 letters, digits, '_' or '-'"
        if route.name in RESERVED_ROUTES:
            yield f"{where}: this name is reserved for a file series; choose another"
        if route.name in seen:
            yield f"{where}: the name is used twice"
        seen.add(route.name)
        if route.one_in is not None and not 1 <= route.one_in < 2**63:
            yield f"{where}: one_in must be from 1 to 2**63 - 1, got {route.one_in}"


@dataclass(frozen=True)
class _Rule:
    """One route, compiled."""

    text: str  # canonical, hashed into rules_sha256
    truth: Truth | None  # None: every event
    undefined: bool  # some comparison may have no answer
    one_in: int | None

    @property
    def reason(self) -> int:
        return REASON_ROUTE if self.one_in is None else REASON_SAMPLE

    def match(self, values: Values, free: Bools) -> tuple[Bools, Bools | None]:
        """Among the free events: those that match, and those (None: there can be none) without an answer."""
        if self.truth is None:
            return free, None
        hit = free & self.truth(values, False)
        return hit, (free & self.truth(values, True) & ~hit) if self.undefined else None


def _compile(route: Route, names: Names, problems: list[str]) -> _Rule:
    canonical: str | None = None
    truth: Truth | None = None
    undefined = False
    if route.when is not None:
        compiler = Compiler(names)
        tree = compiler.parse(route.when)
        if tree is not None:
            truth, undefined = compiler.truth(tree, positive=True, depth=1), compiler.undefined
        if tree is not None and not compiler.problems:
            canonical = ast.unparse(tree)
        problems += [
            f"route {route.name!r}, when = {route.when[:200]!r}: {text}" for text in compiler.problems
        ]
    text = json.dumps([route.name, canonical, route.one_in] if route.enabled else [route.name, "disabled"])
    return _Rule(text, truth, undefined, route.one_in)


# Sample

_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_STEPS: Final = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST_SHIFT: Final = np.uint64(31)
_64_BITS: Final = 2**64 - 1


def _seed(run: int, stream: str, route: str) -> np.uint64:
    digest = hashlib.sha256(json.dumps([run, stream, route]).encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def _mix(z: Ids) -> Ids:
    """splitmix64's finaliser, in place: a bijection of 64 bits, arithmetic modulo 2**64."""
    for shift, factor in _STEPS:
        z ^= z >> shift
        z *= factor
    z ^= z >> _LAST_SHIFT
    return z


def _mix_one(z: int) -> int:
    """The same for one number."""
    for shift, factor in _STEPS:
        z = (z ^ z >> int(shift)) * int(factor) & _64_BITS
    return z ^ z >> int(_LAST_SHIFT)


def _draw(train_id: Ids, pulse_id: Ids, seed: np.uint64, one_in: int) -> Bools:
    """True [n] where mix(mix(seed + gamma * train_id) + gamma * pulse_id) % one_in == 0."""
    if len(train_id) == 1:  # a single event waits for this: a fifth of the time of numpy
        return np.array([_draw_one(int(train_id[0]), int(pulse_id[0]), int(seed)) % one_in == 0])
    z = _mix(train_id * _GAMMA + seed)
    z += pulse_id * _GAMMA
    drawn: Bools = _mix(z) % np.uint64(one_in) == 0
    return drawn


def _draw_one(train_id: int, pulse_id: int, seed: int) -> int:
    z = _mix_one((train_id * int(_GAMMA) + seed) & _64_BITS)
    return _mix_one((z + pulse_id * int(_GAMMA)) & _64_BITS)
