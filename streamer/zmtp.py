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
# Signature, version 3.0, mechanism, and zeros to the end.
GREETING: Final = (b"\xff" + bytes(8) + b"\x7f\x03\x00NULL").ljust(GREETING_BYTES, b"\0")
# Read at once: several small messages for one system call, and still in a second-level cache.
STAGE_BYTES: Final = 1 << 18
# Behind a part so large the next one likely is, too, and what a read takes of it is copied: that costs more
# than one more system call (equal at about 64 kB). So only its head is read first: small parts, some kB.
LARGE_BYTES: Final = 1 << 17
HEAD_BYTES: Final = 1 << 12
# A smaller part is copied out of what was read; for a larger one a place is asked. No command is as large.
PLACED_BYTES: Final = 2048
# A real message has at most 4096 (wire/types.py); one of more than this never ends.
MAX_PARTS: Final = 8192
# A server asks whether we live some times a minute. Thousands of answers that it does not take are an attack.
MAX_ANSWERS_BYTES: Final = 1 << 16
# The last byte of the signature, of the version and of the name of the mechanism in a greeting.
_SIGNATURE_END, _VERSION_AT, _MECHANISM = 9, 10, slice(12, 32)

_MORE, _LONG, _COMMAND = 1, 2, 4
_size_of = struct.Struct(">Q").unpack_from


class ZmtpError(Exception):
    """The connection cannot go on: the other side breaks the protocol, or a limit."""


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def _command(body: bytes) -> bytes:
    return bytes([_COMMAND, len(body)]) + body


def ready(kind: str) -> bytes:
    """What a socket of this kind says of itself."""
    return _command(b"\x05READY" + _property(b"Socket-Type", kind.encode()) + _property(b"Identity", b""))


def greeting(kind: str) -> bytes:
    """Greeting and READY of a socket that does not wait for those of the other side."""
    return GREETING + ready(kind)


def request() -> bytes:
    """What a REQ socket sends to get the next message: an empty delimiter, then the word."""
    return b"\x01\x00\x00\x04next"


# What a client says when the other side is ready; libzmq refuses it before: subscribe to all, or ask.
_FIRST_WORDS: Final = {"PULL": b"", "SUB": b"\x00\x01\x01", "REQ": request()}


class Handshake:
    """What the two sides say to each other besides messages: greeting and commands, and our answers.

    Our READY waits for theirs: libzmq closes without a word when it has ours and it does not fit, and nobody
    could say why.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.greeted = self.ready = False
        """Its greeting has come; its READY has come, and it is a socket that fits."""
        self.peer = ""
        """The kind of its socket, once it is ready."""
        self.to_send = bytearray()
        """What must be answered. Its owner sends it and takes out what was sent."""
        self._said_ready = False

    def greet(self, said: bytes) -> bool:
        """Its greeting, as far as it has come; True if it is whole. Raises ZmtpError at a wrong byte."""
        signed = len(said) <= _SIGNATURE_END or said[_SIGNATURE_END] & 1
        if said and (said[0] != 0xFF or not signed):
            raise ZmtpError("what answers there is no ZeroMQ server, or one older than libzmq 4")
        if len(said) > _VERSION_AT and said[_VERSION_AT] < 3:
            raise ZmtpError(f"ZMTP {said[_VERSION_AT]} is spoken there, expected 3: libzmq 4 or newer")
        if len(said) < GREETING_BYTES:
            return False
        if (mechanism := said[_MECHANISM].rstrip(b"\0")) != b"NULL":
            raise ZmtpError(f"security mechanism {mechanism!r} is asked for, expected NULL")
        self.greeted = True
        return True

    def obey(self, command: bytes) -> None:
        """A command: READY or ERROR before READY, then PING; others may be of a newer version."""
        name_end = 1 + command[0] if command else 1
        name, body = command[1:name_end], command[name_end:]
        if len(command) < name_end:
            raise ZmtpError(f"a command of {len(command)} bytes is cut short")
        if name == b"ERROR":
            raise ZmtpError(f"the source refuses us: {body[1:81]!r}")
        if not self.ready:
            self._become_ready(name, body)
        elif name == b"READY":
            raise ZmtpError("READY comes a second time")
        elif name == b"PING":
            self._answer(_command(b"\x04PONG" + body[2:18]))  # 2 bytes time to live, up to 16 of context

    def say_ready(self) -> None:
        """Once; before theirs only to a server that waits for ours."""
        if not self._said_ready:
            self._said_ready = True
            self.to_send += ready(self._kind)

    def ask(self) -> None:
        """For the next message, with REQ."""
        self._answer(request())

    def _answer(self, words: bytes) -> None:
        if len(self.to_send) > MAX_ANSWERS_BYTES:
            raise ZmtpError(f"the source asks for more than it takes: {len(self.to_send)} bytes wait for it")
        self.to_send += words

    def _become_ready(self, name: bytes, body: bytes) -> None:
        if name != b"READY":
            raise ZmtpError(f"command {name[:20]!r} before READY")
        peer = _properties(body).get("socket-type", "")
        if peer not in PEERS[self._kind]:
            fitting = [kind for kind, peers in PEERS.items() if peer in peers]
            hint = f"set source.socket = {fitting[0]}" if fitting else "no kind of source.socket fits"
            raise ZmtpError(f"a {peer[:20]!r} server is there, expected {PEERS[self._kind][0]}: {hint}")
        self.say_ready()
        self.ready, self.peer = True, peer
        self.to_send += _FIRST_WORDS[self._kind]


def _properties(body: bytes) -> dict[str, str]:
    """Name, in lower case, and value of each property of READY. Raises ZmtpError."""
    found, at = {}, 0
    while at < len(body):
        name_end = at + 1 + body[at]
        value_start = name_end + 4
        value_end = value_start + int.from_bytes(body[name_end:value_start], "big")
        if value_end > len(body):
            raise ZmtpError("READY is cut short")
        name, value = body[at + 1 : name_end], body[value_start:value_end]
        found[name.decode("latin-1").lower()] = value.decode("latin-1")
        at = value_end
    return found


class MessageReader:
    """Reads one connection. Its owner takes each `message`, then fills `space` and says so by `filled`.

    It holds one message at most, and nothing of a part that is larger than the message may be.
    """

    def __init__(self, kind: str, max_message_bytes: int, place: Place) -> None:
        self._max_bytes, self._place = max_message_bytes, place
        self._envelope = 1 if kind == "REQ" else 0  # parts before the first of the message itself
        self.handshake = Handshake(kind)
        self._stage = bytearray(STAGE_BYTES)
        self._view = memoryview(self._stage)
        self._start = self._end = 0  # what was read into the stage and not taken out of it
        self._room = STAGE_BYTES  # for the next read
        self._parts: list[Buffer] = []
        self._message_bytes = 0
        self._part: memoryview | None = None  # a large part under way, `_have` of it there
        self._have = self._more = 0

    def space(self) -> memoryview:
        """Where the next bytes of the connection go; never empty after `message` was None."""
        if self._part is not None:
            return self._part[self._have :]
        left = self._end - self._start  # less than a small part
        if self._start:
            self._stage[:left] = self._stage[self._start : self._end]
            self._start, self._end = 0, left
        room, self._room = self._room, STAGE_BYTES
        return self._view[left : left + room]

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
            if self._have >= LARGE_BYTES:
                self._room = HEAD_BYTES
            self._parts.append(self._part)
            self._part = None
            if not self._more:
                return self._whole()
        if not self.handshake.greeted and not self._read_greeting():
            return None
        stage, view, parts, shake = self._stage, self._view, self._parts, self.handshake
        while (
            there := self._end - self._start
        ) >= 2:  # all in here: calls for each frame would double its cost
            start = self._start + 2
            flags, size_bytes = stage[start - 2], stage[start - 1]
            if flags & _LONG:
                if there < 9:
                    return None
                (size_bytes,), start = _size_of(stage, start - 1), start + 7
            if flags > _MORE | _LONG or not shake.ready:
                _check_command(flags, size_bytes)
            elif self._message_bytes + size_bytes > self._max_bytes or len(parts) == MAX_PARTS:
                raise self._too_large(size_bytes)
            if size_bytes >= PLACED_BYTES:
                if not self._begin(size_bytes, start, flags & _MORE):
                    return None
            elif (stop := start + size_bytes) > self._end:
                return None
            else:
                part, self._start = view[start:stop].tobytes(), stop
                if flags & _COMMAND:
                    shake.obey(part)
                    continue
                parts.append(part)
                self._message_bytes += size_bytes
            if not flags & _MORE:
                return self._whole()
        return None

    def _too_large(self, size_bytes: int) -> ZmtpError:
        """What is wrong with a message of which one more part, of this size, is announced."""
        return ZmtpError(
            f"a message of {len(self._parts) + 1} parts and {self._message_bytes + size_bytes} bytes; "
            f"the most are {MAX_PARTS} parts and source.max_message_bytes = {self._max_bytes}"
        )

    def _begin(self, size_bytes: int, start: int, more: int) -> bool:
        """A large part: take what has come of it. False if that is not all; the rest is read to its place."""
        part = self._place(len(self._parts) - self._envelope, size_bytes)
        if part is None:
            part = _memory(size_bytes)
        have = min(self._end - start, size_bytes)
        part[:have] = self._view[start : start + have]
        self._start = start + have
        self._message_bytes += size_bytes
        if have < size_bytes:
            self._part, self._have, self._more = part, have, more
            return False
        self._parts.append(part)
        return True

    def _whole(self) -> list[Buffer]:
        parts, self._parts, self._message_bytes = self._parts, [], 0
        if not self._envelope:
            return parts
        if len(parts[0]):
            raise ZmtpError("a reply without its empty delimiter")
        return parts[1:]

    def _read_greeting(self) -> bool:
        if not self.handshake.greet(self._view[: min(self._end, GREETING_BYTES)].tobytes()):
            return False
        self._start = GREETING_BYTES
        return True


def _memory(size_bytes: int) -> memoryview:
    """Not a bytearray, which writes zeros first. Raises ZmtpError if there is none."""
    try:
        return np.empty(size_bytes, np.uint8).data
    except (MemoryError, ValueError) as error:  # ValueError: more than an index can count
        raise ZmtpError(
            f"no memory for a part of {size_bytes} bytes; lower source.max_message_bytes"
        ) from error


def _check_command(flags: int, size_bytes: int) -> None:
    """A frame that must be a command: none that more follows, and a small one; other flags are reserved."""
    if not flags & _COMMAND and flags <= _MORE | _LONG:
        raise ZmtpError("a message before READY")
    if flags not in (_COMMAND, _COMMAND | _LONG) or size_bytes >= PLACED_BYTES:
        raise ZmtpError(f"a frame with flags 0x{flags:02x} of {size_bytes} bytes is none of ZMTP 3")
