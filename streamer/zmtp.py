"""The wire protocol of ZeroMQ, ZMTP 3.x, as far as a client needs it that only receives: bytes to messages.

Owns the greeting, the commands and the frames; knows no sockets. The format is RFC 23 and 37
(https://rfc.zeromq.org/spec/23, .../37): a greeting of 64 bytes, the READY command of the NULL mechanism,
then frames of a flag byte, a size of 1 or 8 bytes and the payload.

Why not libzmq: its I/O thread receives every message into memory of its own and wakes ours, which copies it
to the ring. Here the kernel writes a large part where it is to lie, and there is one thread
(docs/decisions/ingest.md).
"""

import struct
from collections.abc import Callable
from typing import Final

import numpy as np

from streamer.wire.types import Buffer

Place = Callable[[int, int], memoryview | None]
"""Asked where part `index` of `size_bytes` of the message under way shall lie; None: anywhere."""

# What one socket may talk to, and what to configure for the other ones.
PEERS: Final = {"PULL": ("PUSH",), "SUB": ("PUB", "XPUB"), "REQ": ("REP", "ROUTER")}
GREETING_BYTES: Final = 64
# Read at once: several small messages for one system call, and still in a second-level cache.
STAGE_BYTES: Final = 1 << 18
# A smaller part is copied out of what was read; for a larger one a place is asked.
PLACED_BYTES: Final = 2048
# A real message has at most 4096 (wire/types.py); one of more than this never ends.
MAX_PARTS: Final = 8192

_MORE, _LONG, _COMMAND = 1, 2, 4
_size_of = struct.Struct(">Q").unpack_from


class ZmtpError(Exception):
    """The connection cannot go on: the other side breaks the protocol, or a limit."""


def greeting(kind: str) -> bytes:
    """What a socket of this kind says at once: the greeting, and READY."""
    signature = b"\xff" + bytes(8) + b"\x7f"
    version, mechanism = b"\x03\x00", b"NULL".ljust(20, b"\0")
    ready = b"\x05READY" + _property(b"Socket-Type", kind.encode()) + _property(b"Identity", b"")
    return signature + version + mechanism + bytes(32) + _command(ready)


def request() -> bytes:
    """What a REQ socket sends to get the next message: an empty delimiter, then the word."""
    return b"\x01\x00\x00\x04next"


# What a client says when the other side is ready; libzmq refuses it before: subscribe to all, or ask.
_FIRST_WORDS: Final = {"PULL": b"", "SUB": b"\x00\x01\x01", "REQ": request()}


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def _command(body: bytes) -> bytes:
    return bytes([_COMMAND, len(body)]) + body


class MessageReader:
    """Reads one connection. Its owner fills `space`, says so by `filled`, and takes `message`."""

    def __init__(self, kind: str, max_message_bytes: int, place: Place) -> None:
        self._kind, self._max_bytes, self._place = kind, max_message_bytes, place
        self._stage = bytearray(STAGE_BYTES)
        self._view = memoryview(self._stage)
        self._start = self._end = 0  # what was read into the stage and not taken out of it
        self._greeted = False
        self.ready = False
        """The other side's READY has come, and it is a socket that fits."""
        self.to_send = b""
        """What must be answered."""
        self._parts: list[Buffer] = []
        self._message_bytes = 0
        self._part: memoryview | None = None  # a large part under way, `_have` of it there
        self._have, self._more = 0, False

    def space(self) -> memoryview:
        """Where the next bytes of the connection go; never empty."""
        if self._part is not None:
            return self._part[self._have :]
        left = self._end - self._start  # less than a small part
        if self._start:
            self._stage[:left] = self._stage[self._start : self._end]
            self._start, self._end = 0, left
        return self._view[left:]

    def filled(self, size_bytes: int) -> None:
        """So many bytes were written to `space`."""
        if self._part is not None:
            self._have += size_bytes
        else:
            self._end += size_bytes

    def message(self) -> list[Buffer] | None:
        """The parts of the next message, if it is all there; valid until the next call. Raises ZmtpError."""
        if self._part is not None:
            if self._have < len(self._part):
                return None
            self._parts.append(self._part)
            self._part = None
            if not self._more:
                return self._whole()
        if not self._greeted and not self._read_greeting():
            return None
        stage, end = self._stage, self._end
        while (there := end - self._start) >= 2:  # in one function: a call for each frame costs as much again
            start = self._start
            flags = stage[start]
            if not flags & _LONG:
                size_bytes, start, there = stage[start + 1], start + 2, there - 2
            elif there < 9:
                return None
            else:
                (size_bytes,), start, there = _size_of(stage, start + 1), start + 9, there - 9
            self._check(flags, size_bytes)
            if size_bytes >= PLACED_BYTES:
                whole = self._begin(size_bytes, start, flags)
            elif there < size_bytes:
                return None
            else:
                whole = True
                self._start = start + size_bytes
                part = bytes(self._view[start : self._start])
                if flags & _COMMAND:
                    self._obey(part)
                    continue
                self._parts.append(part)
                self._message_bytes += size_bytes
            if not whole:
                return None
            if not flags & _MORE:
                return self._whole()
        return None

    # --- frames -------------------------------------------------------------------------------------

    def _check(self, flags: int, size_bytes: int) -> None:
        """Raises ZmtpError for a frame that must not come, before anything is made of it."""
        if flags & _COMMAND and (flags & _MORE or size_bytes >= PLACED_BYTES) or flags > _COMMAND | _LONG:
            raise ZmtpError(f"a frame with flags 0x{flags:02x} of {size_bytes} bytes is none of ZMTP 3")
        if not self.ready and not flags & _COMMAND:
            raise ZmtpError("a message before READY")
        if self._message_bytes + size_bytes > self._max_bytes or len(self._parts) == MAX_PARTS:
            raise ZmtpError(
                f"a message of {len(self._parts) + 1} parts, {self._message_bytes + size_bytes} bytes or more; "
                f"the most are {MAX_PARTS} parts and source.max_message_bytes = {self._max_bytes}"
            )

    def _begin(self, size_bytes: int, start: int, flags: int) -> bool:
        """A large part: take what is there of it. False if that is not all."""
        part = self._place(len(self._parts) - (self._kind == "REQ"), size_bytes)
        if part is None:
            part = np.empty(size_bytes, np.uint8).data  # not bytearray, which writes zeros first
        have = min(self._end - start, size_bytes)
        part[:have] = self._view[start : start + have]
        self._start = start + have
        self._message_bytes += size_bytes
        if have < size_bytes:
            self._part, self._have, self._more = part, have, bool(flags & _MORE)
            return False
        self._parts.append(part)
        return True

    def _whole(self) -> list[Buffer]:
        parts, self._parts, self._message_bytes = self._parts, [], 0
        if self._kind != "REQ":
            return parts
        if len(parts[0]):
            raise ZmtpError("a reply without its empty delimiter")
        return parts[1:]

    # --- greeting and commands ----------------------------------------------------------------------

    def _read_greeting(self) -> bool:
        if self._end < GREETING_BYTES:
            return False
        said = bytes(self._view[:GREETING_BYTES])
        if said[0] != 0xFF or not said[9] & 1:
            raise ZmtpError("no ZeroMQ server answers there")
        if said[10] < 3:
            raise ZmtpError(f"ZMTP {said[10]} is spoken there, expected 3: libzmq 4 or newer")
        if (mechanism := said[12:32].rstrip(b"\0")) != b"NULL":
            raise ZmtpError(f"security mechanism {mechanism!r} is asked for, expected NULL")
        self._start, self._greeted = GREETING_BYTES, True
        return True

    def _obey(self, command: bytes) -> None:
        name = command[1 : 1 + command[0]] if command else b""
        body = command[1 + len(name) :]
        if name == b"READY":
            self._check_ready(body)
        elif name == b"ERROR":
            raise ZmtpError(f"the source refuses us: {body[1:81]!r}")
        elif name == b"PING":
            self.to_send += _command(b"\x04PONG" + body[2:18])
        elif not self.ready:
            raise ZmtpError(f"command {name[:20]!r} before READY")

    def _check_ready(self, body: bytes) -> None:
        peer = _properties(body).get("socket-type", "")
        if peer not in PEERS[self._kind]:
            fitting = [kind for kind, peers in PEERS.items() if peer in peers]
            hint = f"set source.socket = {fitting[0]}" if fitting else "no kind of source.socket fits"
            raise ZmtpError(f"a {peer[:20]!r} server is there, expected {PEERS[self._kind][0]}: {hint}")
        self.ready = True
        self.to_send += _FIRST_WORDS[self._kind]


def _properties(body: bytes) -> dict[str, str]:
    """Name, in lower case, and value of each property of READY. Raises ZmtpError."""
    found, at = {}, 0
    while at < len(body):
        name_end = at + 1 + body[at]
        value_start = name_end + 4
        size_bytes = int.from_bytes(body[name_end:value_start], "big")
        if value_start + size_bytes > len(body):
            raise ZmtpError("READY is cut short")
        found[body[at + 1 : name_end].decode("latin-1").lower()] = body[
            value_start : value_start + size_bytes
        ].decode("latin-1")
        at = value_start + size_bytes
    return found
