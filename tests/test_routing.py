"""Routes: the rule language, the order of routes, the sample, fail-open, and what is refused."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.manifest import Column
from models.names import identifier
from streamer.errors import FAILOPEN_REASONS, ConfigError, StageError
from streamer.routing import KEEP, NO_ROUTE, REASONS, VETO, Route, RouteError, Router, failopen, failopen_code
from streamer.rules import MAX_RULE_CHARS, MAX_RULE_DEPTH, Threshold, Vocabulary

COLUMNS = (
    Column("p", "float32", ("Streak", "Empty", "Core/shell", "not")),
    Column("mu", "float32", ("z0", "z1")),
    Column("log_likelihood", "float32"),
    Column("cluster", "int32"),
)
THRESHOLDS = (
    Threshold("Streak", 0.25, "one"),
    Threshold("Core/shell", 0.5, "one"),
    Threshold("Empty", 0.1, "one"),
    Threshold("Empty", 0.2, "two"),
)
FAILOPEN_NONFINITE = failopen_code("nonfinite")


def router(*routes, run=7, stream="droplets", attached=("xgm",)):
    made = [Route(*r) if isinstance(r, tuple) else r for r in routes]
    return Router(made, Vocabulary(COLUMNS, attached, THRESHOLDS), run, stream)


def table(n, **columns):
    """n events, all zero but for the columns given."""
    data = {
        "p": np.zeros((n, 4), np.float32),
        "mu": np.zeros((n, 2), np.float32),
        "log_likelihood": np.zeros(n, np.float32),
        "cluster": np.zeros(n, np.int32),
        "xgm": np.zeros(n),
    }
    for name, values in columns.items():
        data[name] = np.asarray(values, data[name].dtype)
    return data


def ids(n, train=1000):
    return np.full(n, train, np.uint64), np.arange(n, dtype=np.uint64)


def kept(when, x=(0.0,), **columns):
    """Which events a single rule keeps; x is the attached scalar."""
    x = np.asarray(x, np.float64)
    decision = router(("r", when)).decide(table(len(x), xgm=x, **columns), *ids(len(x)))
    return (decision.verdict == KEEP).tolist()


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("xgm > 1", [False, False, True, True]),
        ("xgm >= 1", [False, True, True, True]),
        ("xgm == 1 or xgm == 3", [False, True, False, True]),
        ("xgm != 1", [True, False, True, True]),
        ("not xgm <= 1", [False, False, True, True]),
        ("0 < xgm < 3", [False, True, True, False]),
        ("0 < xgm < 3 and not xgm == 1", [False, False, True, False]),
        ("(xgm + 1) * 2 - 3 > 3", [False, False, False, True]),
        ("xgm / 2 == 1", [False, False, True, False]),
        ("xgm % 2 == 1", [False, True, False, True]),
        ("xgm // 2 == 1", [False, False, True, True]),
        ("-xgm < -1", [False, False, True, True]),
        ("+xgm < 1", [True, False, False, False]),
        ("abs(xgm - 2) <= 1", [False, True, True, True]),
        ("min(xgm, 2) == 2", [False, False, True, True]),
        ("max(xgm, 2) == 2", [True, True, True, False]),
        ("log(xgm) > 0.6", [False, False, True, True]),
        ("sqrt(xgm) < 1.2", [True, True, False, False]),
        ("pulse_id == 2 and train_id == 1000", [False, False, True, False]),
        ("1 / xgm > 1e6", [True, False, False, False]),  # infinity, and no warning
        ("1 < 2", [True, True, True, True]),
        ("1 / 0 < 2", [False, False, False, False]),
        ("  xgm\n  > 1  ", [False, False, True, True]),
        ("xgm > 1\nand xgm < 3", [False, False, True, False]),
    ],
)
def test_expression(when, expected):
    assert kept(when, [0, 1, 2, 3]) == expected


def test_elements_of_vectors_and_names_that_are_not_python():
    p = [[0.9, 0, 0, 0], [0, 0.9, 0, 0], [0, 0, 0.9, 0], [0, 0, 0, 0.9]]
    x = np.zeros(4)
    assert kept("p.Streak > 0.5", x, p=p) == [True, False, False, False]
    assert kept("p.Core_shell > 0.5", x, p=p) == [False, False, True, False]
    assert kept("p.not_ > 0.5", x, p=p) == [False, False, False, True]
    assert kept("p.Streak + p.Empty > 0.5 and cluster == 3", x, p=p, cluster=[3, 0, 3, 3]) == [
        True,
        *[False] * 3,
    ]


def test_identifier():
    assert [identifier(s) for s in ("Core/shell", "2 rings", "not", "", "a.b")] == [
        "Core_shell",
        "_2_rings",
        "not_",
        "_",
        "a_b",
    ]


def test_first_match_wins_and_no_match_is_vetoed():
    r = router(("a", "xgm > 2"), ("b", "xgm > 1"), ("c", "xgm < -1", 1))
    decision = r.decide(table(4, xgm=[3, 2, 0, -2]), *ids(4))
    assert decision.route.tolist() == [0, 1, NO_ROUTE, 2]
    assert decision.verdict.tolist() == [KEEP, KEEP, VETO, KEEP]
    assert [REASONS[r] for r in decision.reason] == ["route", "route", "veto", "sample"]
    assert (decision.verdict.dtype, decision.route.dtype, decision.reason.dtype) == (
        np.uint8,
        np.int16,
        np.uint8,
    )


def test_a_route_with_only_a_name_keeps_all():
    assert router(("all",)).decide(table(3), *ids(3)).route.tolist() == [0, 0, 0]


def test_no_events():
    decision = router(("a", "log(xgm) > 2"), ("s", None, 10)).decide(table(0), *ids(0))
    assert [len(decision.verdict), len(decision.route), len(decision.reason)] == [0, 0, 0]


# Fail-open


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", ["p", "mu", "log_likelihood", "xgm"])
def test_nonfinite_result_keeps_only_its_event(column, bad):
    data = table(3)
    data[column][1] = bad
    decision = router(("a", "xgm > 1")).decide(data, *ids(3))
    assert decision.verdict.tolist() == [VETO, KEEP, VETO]
    assert decision.reason.tolist() == [0, FAILOPEN_NONFINITE, 0]
    assert decision.route.tolist() == [NO_ROUTE] * 3


def test_nonfinite_wins_over_a_route_that_would_match():
    decision = router(("all",)).decide(table(2, log_likelihood=[np.nan, 0]), *ids(2))
    assert decision.reason.tolist() == [FAILOPEN_NONFINITE, 1]


def test_attached_scalar_that_no_rule_reads_may_be_missing():
    decision = router(("a", "p.Streak > 0.5")).decide(table(2, xgm=[np.nan, 0]), *ids(2))
    assert decision.verdict.tolist() == [VETO, VETO]


@pytest.mark.parametrize(
    ("when", "unclear"),
    [
        ("log(xgm) > 2", [True, False]),
        ("not log(xgm) > 2", [True, False]),
        ("log(xgm) != 2", [True, False]),
        ("xgm > 0 and log(xgm) > 2", [False, False]),  # the guard decides
        ("xgm < 0 or log(xgm) > 2", [False, False]),
        ("not (xgm > 0 and log(xgm) > 2)", [False, False]),
        ("sqrt(xgm) > 1 or not sqrt(xgm) > 1", [True, False]),  # Kleene's logic: unknown
        ("0 < sqrt(xgm) < 1", [True, False]),
        ("(xgm + 1) % 0 == 0", [True, True]),
    ],
)
def test_rule_without_an_answer_keeps_the_event(when, unclear):
    decision = router(("a", when)).decide(table(2, xgm=[-1, 1]), *ids(2))
    assert (decision.reason == FAILOPEN_NONFINITE).tolist() == unclear


def test_earlier_route_decides_before_a_rule_without_an_answer():
    decision = router(("a", "xgm < 0"), ("b", "log(xgm) > 2")).decide(table(1, xgm=[-1]), *ids(1))
    assert decision.route.tolist() == [0]


@pytest.mark.parametrize("reason", FAILOPEN_REASONS)
def test_failopen(reason):
    decision = failopen(3, reason)
    assert decision.verdict.tolist() == [KEEP] * 3
    assert decision.route.tolist() == [NO_ROUTE] * 3
    assert {REASONS[r] for r in decision.reason} == {f"failopen:{reason}"}


def test_failopen_of_an_unknown_reason():
    with pytest.raises(ValueError, match="bored"):
        failopen(1, "bored")


def test_missing_column_restarts_the_stage():
    data = table(1)
    del data["mu"]
    with pytest.raises(StageError, match="mu"):
        router(("a", "xgm > 1")).decide(data, *ids(1))


# Sample


def sampled(one_in, train_id, pulse_id, **kwargs):
    return (
        router(("s", None, one_in), **kwargs).decide(table(len(train_id)), train_id, pulse_id).verdict == KEEP
    )


@pytest.mark.parametrize("one_in", [2, 3, 10, 100])
def test_sample_is_unbiased_over_trains_and_pulses(one_in):
    train_id = np.repeat(np.arange(2_000_000_000, 2_000_000_400, dtype=np.uint64), 500)
    pulse_id = np.tile(np.arange(0, 2000, 4, dtype=np.uint64), 400)
    drawn = sampled(one_in, train_id, pulse_id).reshape(400, 500)
    mean, spread = drawn.size / one_in, np.sqrt(drawn.size / one_in * (1 - 1 / one_in))
    assert abs(drawn.sum() - mean) < 5 * spread
    for axis in (0, 1):  # no train and no pulse is favoured: chi-square per degree of freedom is near 1
        counts = drawn.sum(axis)
        expected = drawn.shape[axis] / one_in
        assert 0.7 < ((counts - expected) ** 2).mean() / (expected * (1 - 1 / one_in)) < 1.3


@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=1, max_size=60),
    st.integers(0, 60),
    st.integers(1, 5),
)
@settings(max_examples=50, deadline=None)
def test_sample_is_the_same_however_batches_are_cut(events, cut, one_in):
    train_id, pulse_id = np.array(events, np.uint64).T
    whole = sampled(one_in, train_id, pulse_id)
    parts = [sampled(one_in, train_id[part], pulse_id[part]) for part in (slice(0, cut), slice(cut, None))]
    assert np.concatenate(parts).tolist() == whole.tolist()


def documented_draw(train_id, pulse_id, one_in):
    """The sample's function once more, in Python's integers."""
    gamma, mask = 0x9E3779B97F4A7C15, 2**64 - 1

    def mix(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    seed = int.from_bytes(hashlib.sha256(b'[7, "droplets", "s"]').digest()[:8], "little")
    return mix(mix(seed + gamma * train_id & mask) + gamma * pulse_id & mask) % one_in == 0


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(1, 2**63 - 1) | st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_sample_is_the_documented_function(train_id, pulse_id, one_in):
    """The draw is part of the format of a run: a release that changes it cannot replay."""
    expected = documented_draw(train_id, pulse_id, one_in)
    for n in (1, 2):  # one event has a way of its own
        drawn = sampled(one_in, np.full(n, train_id, np.uint64), np.full(n, pulse_id, np.uint64))
        assert drawn.tolist() == [expected] * n


def test_sample_depends_on_run_stream_and_route():
    events = ids(1000)
    one = sampled(2, *events)
    for other in ({"run": 8}, {"stream": "other"}):
        assert 400 < (one != sampled(2, *events, **other)).sum() < 600


def test_two_samples_are_independent():
    decision = router(("coarse", None, 10), ("fine", None, 10)).decide(table(20000), *ids(20000))
    coarse, fine = ((decision.route == route).sum() for route in (0, 1))
    assert 1800 < coarse < 2200
    assert 1600 < fine < 2000  # a tenth of what is left


def test_sample_of_what_a_rule_matches():
    xgm = np.arange(10000) % 2
    decision = router(("s", "xgm == 1", 10)).decide(table(10000, xgm=xgm), *ids(10000))
    drawn = decision.verdict == KEEP
    assert 400 < drawn.sum() < 600
    assert xgm[drawn].all()
    assert set(decision.reason[drawn]) == {REASONS.index("sample")}


# What is refused


HOSTILE = [
    ("__import__('os').system('true')", "calls an unknown function"),
    ("p.Streak.__class__ > 0", "not allowed"),
    ("().__class__.__bases__ == 1", "not allowed"),
    ("p.__class__ > 0", "unknown name 'p.__class__'"),
    ("(lambda: 1)() > 0", "calls an unknown function"),
    ("lambda: 1", "Lambda is not allowed"),
    ("(y := 3) > 0", "NamedExpr is not allowed"),
    ("[x for x in (1, 2)] == 1", "ListComp is not allowed"),
    ("xgm if xgm else xgm", "IfExp is not allowed"),
    ("xgm[0] > 1", "Subscript is not allowed"),
    ("f'{xgm}' == 1", "JoinedStr is not allowed"),
    ("'a' == 'b'", "str is not allowed"),
    ("True", "bool is not allowed"),
    ("xgm == None", "NoneType is not allowed"),
    ("1j == 1", "complex is not allowed"),
    ("2 ** 99999999 > 1", "Pow BinOp is not allowed"),
    ("1 << 99999 > 1", "LShift BinOp is not allowed"),
    ("~1 > 1", "Invert UnaryOp is not allowed"),
    ("xgm < " + "9" * 400, "too large"),
    ("xgm < 1e999", "too large"),
    ("xgm in (1, 2)", "compares with something else"),
    ("xgm is 1", "compares with something else"),
    ("abs(xgm, 2) > 1", "abs takes 1 number"),
    ("min(xgm) > 1", "min takes 2 numbers"),
    ("abs(*p) > 1", "not allowed"),
    ("abs(x=xgm) > 1", "abs takes 1 number"),
    ("exec(xgm) > 1", "unknown function; known: abs, min, max, log, sqrt"),
    ("xgm", "compare it: xgm > 0.5"),
    ("xgm + 1", "is a number where yes or no is needed"),
    ("xgm and xgm > 1", "is a number where yes or no is needed"),
    ("(xgm > 1) + 1 > 1", "yes or no where a number is needed"),
    ("(xgm > 1) > 0", "yes or no where a number is needed"),
    ("p > 0.5", "'p' has 4 elements; name one: p.Streak, p.Empty"),
    ("p == mu", "'mu' has 2 elements"),
    ("p.streak > 0.5", "unknown name 'p.streak'; near: p.Streak"),
    ("loglikelihood > 0.5", "near: log_likelihood"),
    ("zzzzzz > 0.5", "known: cluster, log_likelihood"),
    ("xgm > 1 # and xgm < 3", "'#' is not allowed"),
    ("xgm > ", "not a rule"),
    ("", "not a rule"),
    ("xgm > 1; 1", "not a rule"),
    ("xgm = 1", "not a rule"),
    ("xgm > \0", "not a rule"),
    ("(" * 300 + "xgm" + ")" * 300 + " > 1", "not a rule"),
    ("-" * 900 + "1 > 0", "nested deeper than"),
    ("not " * 200 + "xgm > 0", "nested deeper than"),
    ("xgm + " * (MAX_RULE_DEPTH + 1) + "1 > 0", "nested deeper than"),
    ("xgm > 1 or " * 100 + "xgm > 1", f"at most {MAX_RULE_CHARS}"),
]


@pytest.mark.parametrize(
    ("when", "message"), HOSTILE, ids=[when[:30].replace("\0", "0") for when, _ in HOSTILE]
)
def test_refused(when, message):
    with pytest.raises(RouteError) as refused:
        router(("r", when))
    assert message in str(refused.value)
    assert "route 'r'" in str(refused.value)


@given(st.text(max_size=80) | st.text("pxgm.Streak0123456789 +-*/%<>=!()andornt,[]:#'", max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_rule_or_refused(when):
    try:
        accepted = router(("r", when))
    except RouteError:
        return
    assert len(accepted.decide(table(2), *ids(2)).verdict) == 2


def test_all_problems_at_once():
    routes = [
        Route("results", "xgm > 1"),
        Route("a b", "xgm > 1"),
        Route("twice", "zzz > 1 and p > 1"),
        Route("twice", one_in=0),
        Route("failopen"),
    ]
    with pytest.raises(ConfigError) as refused:
        router(*routes)
    text = str(refused.value)
    for part in (
        "'results': this name is reserved",
        "'a b': a name is",
        "'zzz'",
        "'p' has",
        "used twice",
        "from 1 to",
    ):
        assert part in text
    assert "'failopen': this name is reserved" in text


def test_no_routes_at_all_is_refused():
    with pytest.raises(RouteError, match="every event would be vetoed"):
        router()


@pytest.mark.parametrize(
    ("columns", "attached", "name"),
    [
        ([Column("p", "float32", ("a/b", "a b"))], [], "p.a_b"),
        ([Column("p", "float32", ("a",)), Column("p", "float32")], [], "p"),
        ([Column("p", "float32")], ["p"], "p"),
        ([Column("p", "float32", ("a",))], ["p"], "p"),
        ([Column("train_id", "float32")], [], "train_id"),
        ([], ["log"], "log"),
        ([], ["a b", "a/b"], "a_b"),
    ],
)
def test_two_things_of_one_name_are_refused(columns, attached, name):
    with pytest.raises(RouteError, match=f"'{name}' is given twice"):
        Router([Route("all")], Vocabulary(columns, attached), 1, "s")


def test_rules_hash_is_of_the_meaning():
    one = router(("a", "xgm > 1 and p.Streak < 2")).rules_sha256
    assert len(one) == 64
    assert router(("a", " (xgm>1)and(p.Streak<2) ")).rules_sha256 == one
    others = [
        ("a", "xgm > 2 and p.Streak < 2"),
        ("b", "xgm > 1 and p.Streak < 2"),
        ("a", "xgm > 1 and p.Streak < 2", 3),
    ]
    assert len({one, *(router(other).rules_sha256 for other in others)}) == 4


# --- thresholds of the bundles ------------------------------------------------------------------------


def test_a_calibrated_threshold_is_a_number_and_an_event_right_at_it_is_kept() -> None:
    p = np.zeros((4, 4), np.float32)
    p[:, 0] = [0.2, 0.25, 0.3, np.nan]
    p[:, 2] = [0.6, 0.0, 0.0, 0.0]
    assert kept("p.Streak >= calibrated.Streak", np.zeros(4), p=p) == [False, True, True, True]
    assert kept("p.Streak > 2 * calibrated.Streak - 0.25", np.zeros(4), p=p) == [False, False, True, True]
    assert kept("p.Core_shell >= calibrated.Core_shell", np.zeros(4), p=p) == [True, False, False, True]


@pytest.mark.parametrize(
    ("when", "message"),
    [
        (
            "p.not_ >= calibrated.not_",
            r"no bundle of this stream holds this threshold .*calibrated\.Core_shell, calibrated\.Empty.*"
            r"`streamer calibrate BUNDLE DATA --class not_`",
        ),
        ("p.Empty >= calibrated.Empty", "one and two both hold a threshold for it; run them in two streams"),
        ("p.Streak >= calibrated", "holds this threshold .*calibrated.Streak"),
        ("p.Streak >= calibrated.Streak.high", "not allowed"),
    ],
)
def test_a_threshold_that_is_not_clear_is_refused(when: str, message: str) -> None:
    with pytest.raises(RouteError, match=message):
        router(("r", when))


def test_two_bundles_may_hold_a_threshold_that_no_rule_names() -> None:
    assert router(("r", "p.Streak >= calibrated.Streak")).names == ("r",)


@pytest.mark.parametrize(
    ("columns", "attached"), [([Column("calibrated", "float32")], ()), ([], ["calibrated"])]
)
def test_the_name_of_the_thresholds_is_taken(columns, attached) -> None:
    with pytest.raises(RouteError, match="'calibrated' stands for the thresholds of bundles; rename"):
        Router([Route("all")], Vocabulary(columns, attached), 1, "s")


def test_the_hash_of_the_rules_is_of_their_text_not_of_the_threshold() -> None:
    """A swap changes the threshold and the bundle's hash with it; the sink goes on with the same rules."""
    route = Route("r", "p.Streak >= calibrated.Streak")
    hashes = {
        Router([route], Vocabulary(COLUMNS, (), [Threshold("Streak", value, "b")]), 1, "s").rules_sha256
        for value in (0.1, 0.2)
    }
    assert len(hashes) == 1


def test_named_clusters_are_constants_and_part_of_the_hash() -> None:
    def named(when: str, **clusters: int) -> Router:
        return Router([Route("a", when)], Vocabulary(COLUMNS, clusters=clusters), 1, "s")

    made = named("cluster == named.rings", rings=3)
    decision = made.decide(table(3, cluster=[2, 3, 4]), *ids(3))
    assert decision.route.tolist() == [NO_ROUTE, 0, NO_ROUTE]
    assert made.rules_sha256 != named("cluster == named.rings", rings=4).rules_sha256
    plain = "cluster == 3"
    assert named(plain, rings=3).rules_sha256 == named(plain).rules_sha256, "a name no rule uses"
    with pytest.raises(RouteError, match=r"no cluster has this name \(there are: named.rings\)"):
        named("cluster == named.shells", rings=3)
    with pytest.raises(RouteError, match="name it first"):
        named("cluster == named")


def test_a_disabled_route_keeps_its_place_and_matches_nothing() -> None:
    one = router(Route("a", "p.Streak >= 0", enabled=False), Route("b"))
    assert one.names == ("a", "b")
    assert one.decide(table(2), *ids(2)).route.tolist() == [1, 1]
    with pytest.raises(RouteError, match="none is enabled"):
        router(Route("a", enabled=False))
    with pytest.raises(RouteError, match="unknown name"):
        router(Route("a", "nothing > 1", enabled=False), Route("b"))
