"""Who may read and who may steer: host names, origins, the token and how fast it may be guessed."""

import pytest

from streamer.dashboard import security
from streamer.dashboard.security import ATTEMPT_PAUSE_S, UNLOCKED_S, Access, Gate, Hosts


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


LOOPBACK = security.hosts("127.0.0.1", 5006, ["beamline.example:8443"])
EVERYWHERE = security.hosts("0.0.0.0", 5006)


@pytest.mark.parametrize(
    ("hosts", "host", "allowed"),
    [
        (LOOPBACK, "127.0.0.1:5006", True),
        (LOOPBACK, "LOCALHOST:5006", True),
        (LOOPBACK, "[::1]:5006", True),
        (LOOPBACK, "beamline.example:8443", True),
        (LOOPBACK, "beamline.example:5006", False),
        (LOOPBACK, "localhost:5007", False),
        (LOOPBACK, "localhost", False),
        (LOOPBACK, "evil.example:5006", False),
        (LOOPBACK, "192.168.1.7:5006", False),
        (LOOPBACK, "localhost.evil.example:5006", False),
        (LOOPBACK, "", False),
        (LOOPBACK, "localhost:٥٠٠٦", False),
        (EVERYWHERE, "192.168.1.7:5006", True),
        (EVERYWHERE, "evil.example:5006", False),
    ],
)
def test_a_name_that_is_not_ours_is_refused(hosts: Hosts, host: str, allowed: bool) -> None:
    assert hosts.allows(host) is allowed


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://127.0.0.1:5006", "127.0.0.1:5006", True),
        ("https://beamline.example:8443", "beamline.example:8443", True),
        ("http://evil.example", "127.0.0.1:5006", False),
        ("http://evil.example:5006", "evil.example:5006", False),
        ("http://127.0.0.1:5006.evil.example", "127.0.0.1:5006", False),
        ("http://localhost:5006", "127.0.0.1:5006", False),
        ("null", "127.0.0.1:5006", False),
        ("", "127.0.0.1:5006", False),
    ],
)
def test_a_websocket_comes_from_our_own_page_only(origin: str, host: str, allowed: bool) -> None:
    assert LOOPBACK.allows_origin(origin, host) is allowed


def test_the_token_opens_and_nothing_else_does() -> None:
    for given in ("", "toke", "token ", "tokenn", "TOKEN", "t" * 10_000, "töken"):
        assert Gate("token").attempt(given, "here") == "wrong"
    assert Gate("token").attempt("token", "here") == "open"
    assert Gate("").attempt("", "here") == "wrong"


def test_guessing_is_slow_for_all_pages_together() -> None:
    clock = Clock()
    gate = Gate("token", clock)
    assert gate.attempt("guess", "one page") == "wrong"
    assert gate.attempt("guess", "another") == "wait"
    clock.now_s += ATTEMPT_PAUSE_S / 2
    assert gate.attempt("guess", "one page") == "wait"
    clock.now_s += ATTEMPT_PAUSE_S / 2
    assert gate.attempt("token", "another") == "open"


def test_who_guesses_does_not_keep_the_operator_out() -> None:
    gate = Gate("token", Clock())
    for guess in ("guess", "x" * 10_000, "\ud800", ""):
        assert gate.attempt(guess, "one page") in ("wrong", "wait")
        assert gate.attempt("token", "another") == "open"
    assert Gate("", Clock()).attempt("", "one page") == "wrong", "no token opens nothing"


def test_an_unlocked_page_locks_itself() -> None:
    clock = Clock()
    access = Access(clock)
    assert not access.unlocked
    access.unlock()
    clock.now_s += UNLOCKED_S - 1
    assert access.unlocked
    clock.now_s += 1
    assert not access.unlocked
    access.unlock()
    access.lock()
    assert not access.unlocked


def test_no_script_of_a_page_is_compiled_from_text_or_comes_from_elsewhere() -> None:
    policy = security.headers("abc")["Content-Security-Policy"]
    script = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert script == "script-src 'self' 'nonce-abc'"
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
