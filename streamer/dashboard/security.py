"""Who may read the page and who may steer: host names, headers, the token.

Owns the rules, no sockets: which Host and Origin a request may name, which headers every answer carries, how
the token is compared and how fast it may be guessed, how long a page stays unlocked.

A page of another site that a browser has open can reach 127.0.0.1 too. Three things keep it out: its Origin
is refused on the websocket; a name that it points to our address (DNS rebinding) is refused as Host; its
frames and its images of us are refused by the headers.
"""

import hmac
import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from streamer.log import Repeated

ATTEMPT_PAUSE_S: Final = 1.0  # a wrong token is answered and logged once in this time, for all pages together
UNLOCKED_S: Final = 8 * 3600.0  # one shift; nobody remembers an open page longer
MAX_TOKEN_CHARS: Final = 200  # ours has 43; bounds what is compared

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

Attempt = Literal["open", "wrong", "wait"]


@dataclass(frozen=True)
class Hosts:
    """Names under which the page may be asked for."""

    port: int
    names: frozenset[str]
    origins: frozenset[str]  # host:port told by the configuration, as through a tunnel
    any_address: bool  # reachable from elsewhere: any numeric address is us; names must be told

    def allows(self, host: str) -> bool:
        """Whether a Host header is ours: name and port. A number cannot be rebound, a name can."""
        if host.lower() in self.origins:
            return True
        name, port = split_host(host)
        if port != self.port:
            return False
        return name in self.names or (self.any_address and _is_address(name))

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether a websocket may be opened from a page of this origin: only from our own."""
        return self.allows(host) and origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def hosts(address: str, port: int, origins: Iterable[str] = ()) -> Hosts:
    """The names of a page bound to `address`; `origins`, as `host:port`, are told by the configuration."""
    loopback = _is_loopback(address)
    own = LOOPBACK if loopback else {*LOOPBACK, address, socket.gethostname()}
    told = frozenset(origin.lower() for origin in origins)
    return Hosts(port, frozenset(name.lower() for name in own), told, not loopback)


def split_host(host: str) -> tuple[str, int]:
    """`name:port` or `[address]:port` in two; port 80 if none is given, 0 if it is no number."""
    name, colon, port = host.lower().rpartition(":")
    if not colon or host.endswith("]"):
        return host.lower().strip("[]"), 80
    return name.strip("[]"), int(port) if port.isdecimal() and port.isascii() else 0


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    return address == "localhost" or (_is_address(address) and ipaddress.ip_address(address).is_loopback)


def headers(nonce: str = "") -> dict[str, str]:
    """What every answer carries. `nonce` admits the one inline script of the page.

    Styles may be inline: Bokeh writes them. Scripts may not, and none may compile text.
    """
    script = f"script-src 'self' 'nonce-{nonce}'" if nonce else "script-src 'self'"
    policy = (
        f"default-src 'none'; {script}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
    }


# What the browser's side of a page sends by itself: asking for its document, answering, the state of its
# widgets and plots, and events of the mouse. Adding to the document, or replacing it, is for the server.
_MESSAGES: Final = frozenset({"PULL-DOC-REQ", "PATCH-DOC", "OK", "ERROR", "ACK", "SERVER-INFO-REQ"})
_CHANGES: Final = frozenset({"ModelChanged", "MessageSent"})


def is_of_a_browser(kind: str, content: object) -> bool:
    """Whether a message of Bokeh's protocol is one that an honest page sends to its server."""
    if kind != "PATCH-DOC":
        return kind in _MESSAGES
    events = content.get("events") if isinstance(content, dict) else None
    return isinstance(events, list) and all(
        isinstance(event, dict) and event.get("kind") in _CHANGES for event in events
    )


class Gate:
    """Compares the token. One for all pages: guessing from many of them is not faster."""

    def __init__(self, token: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._token, self._clock = token.encode(), clock
        self._closed_until_s = -float("inf")
        self._warnings = Repeated(logging.getLogger(__name__))

    def attempt(self, given: str, who: str) -> Attempt:
        """`wait`: it does not fit, and a wrong one came less than ATTEMPT_PAUSE_S ago.

        The right one always opens: who guesses must not keep the operator out. It has 128 bits, which no rate
        of guessing finds.
        """
        raw = given[: MAX_TOKEN_CHARS + 1].encode(errors="replace")
        if self._token and hmac.compare_digest(raw, self._token):
            return "open"
        if self._clock() < self._closed_until_s:
            return "wait"
        self._closed_until_s = self._clock() + ATTEMPT_PAUSE_S
        self._warnings.warn("token", f"a wrong token was given on the page, from {who}")
        return "wrong"


@dataclass
class Access:
    """Whether one page may steer. A new page may not."""

    clock: Callable[[], float] = time.monotonic
    _until_s: float = field(default=-float("inf"), repr=False)

    @property
    def unlocked(self) -> bool:
        return self.clock() < self._until_s

    def unlock(self) -> None:
        self._until_s = self.clock() + UNLOCKED_S

    def lock(self) -> None:
        self._until_s = -float("inf")
