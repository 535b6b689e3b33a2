"""ZMTP 3 as bytes: messages do not depend on how they are cut; what breaks the protocol is a ZmtpError."""

import itertools
import struct
import tracemalloc
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer import zmtp
from streamer.zmtp import (
    HEAD_BYTES,
    LARGE_BYTES,
    MAX_ANSWERS_BYTES,
    MAX_PARTS,
    PLACED_BYTES,
    STAGE_BYTES,
    MessageReader,
    ZmtpError,
)
from streamer.zmtp import greeting as greeted

MAX_BYTES = 4 << 20
MORE, LONG, COMMAND = 1, 2, 4
# Where a part is stored in another way than its neighbour, or a size is written in another way.
SIZES = [0, 1, 7, 254, 255, 256, PLACED_BYTES - 1, PLACED_BYTES, PLACED_BYTES + 1]
SIZES += [40_000, LARGE_BYTES, STAGE_BYTES + 3]
Message = list[bytes]


def frame(part: bytes, flags: int = 0) -> bytes:
    """One frame; of the long form if the part asks for it or the flag does."""
    if len(part) > 255 or flags & LONG:
        return bytes([flags | LONG]) + struct.pack(">Q", len(part)) + part
    return bytes([flags, len(part)]) + part


def framed(messages: Iterable[Sequence[bytes]]) -> bytes:
    parts = ((part, MORE * (k < len(parts) - 1)) for parts in messages for k, part in enumerate(parts))
    return b"".join(frame(part, flags) for part, flags in parts)


def command(name: bytes, body: bytes = b"", flags: int = COMMAND) -> bytes:
    return frame(bytes([len(name)]) + name + body, flags)


def ready(*properties: tuple[bytes, bytes]) -> bytes:
    listed = [bytes([len(name)]) + name + struct.pack(">I", len(value)) + value for name, value in properties]
    return command(b"READY", b"".join(listed))


def reader(kind: str = "PULL", limit: int = MAX_BYTES, place: zmtp.Place = lambda *_: None) -> MessageReader:
    return MessageReader(kind, limit, place)


def feed(one: MessageReader, wire: bytes, cuts: Iterable[int] = ()) -> list[Message]:
    """Give the bytes as the kernel would, by `cuts` and then the rest; every message that came."""
    got, at, steps = [], 0, iter(cuts)
    while True:
        while (parts := one.message()) is not None:
            got.append([bytes(part) for part in parts])
        if at == len(wire):
            return got
        space = one.space()
        assert len(space), "a read of nothing looks like the end of the connection"
        step = min(len(space), len(wire) - at, next(steps, len(wire)))
        space[:step] = wire[at : at + step]
        one.filled(step)
        at += step


def served(one: MessageReader, kind: str = "PUSH") -> MessageReader:
    feed(one, greeted(kind))
    assert one.handshake.ready
    one.handshake.to_send.clear()
    return one


# --- messages ---------------------------------------------------------------------------------------------


@st.composite
def messages(draw: st.DrawFn) -> list[Message]:
    sizes = draw(st.lists(st.lists(st.sampled_from(SIZES), min_size=1, max_size=5), max_size=5))
    letters = itertools.cycle(range(256))
    return [[bytes([next(letters)]) * size for size in parts] for parts in sizes]


@settings(max_examples=150, deadline=None)
@given(
    sent=messages(),
    cuts=st.lists(st.one_of(st.integers(1, 12), st.integers(1, 3 * STAGE_BYTES)), max_size=300),
    placed=st.sampled_from(["never", "always", "every second"]),
)
def test_however_the_bytes_are_cut_the_messages_are_the_same(
    sent: list[Message], cuts: list[int], placed: str
) -> None:
    asked = []

    def place(index: int, size_bytes: int) -> memoryview | None:
        asked.append((index, size_bytes))
        wanted = placed == "always" or (placed == "every second" and len(asked) % 2)
        return memoryview(bytearray(size_bytes)) if wanted else None

    one = reader(place=place)
    assert feed(one, greeted("PUSH") + framed(sent), cuts) == sent
    assert asked == [(k, len(p)) for parts in sent for k, p in enumerate(parts) if len(p) >= PLACED_BYTES]
    assert one.handshake.to_send == zmtp.ready("PULL")


def test_one_byte_at_a_time_gives_the_same_messages() -> None:
    sent = [[b"head", b"", b"x" * 256, b"y" * (PLACED_BYTES + 1)], [b""], [b"z" * 255, b"tail"]]
    wire = greeted("PUSH") + framed(sent)
    assert feed(reader(), wire, itertools.repeat(1)) == sent


def test_a_placed_part_lies_where_it_was_to_lie() -> None:
    memory = memoryview(bytearray(3 * STAGE_BYTES))
    one = served(reader(place=lambda index, size: memory[:size] if index == 1 else None))
    part = bytes(range(256)) * (2 * STAGE_BYTES // 256)
    assert feed(one, framed([[b"head", part, part]]), [100, 5000]) == [[b"head", part, part]]
    assert memory[: len(part)] == part
    assert not any(memory[len(part) :]), "written beyond its place"


def test_of_a_large_part_behind_another_little_is_copied() -> None:
    """What is read together with the head of a message is copied to its place; the rest is received there."""
    asked: list[int] = []
    large = bytes(2 * STAGE_BYTES)
    one = served(reader(place=lambda _, size: asked.append(size)))
    feed(one, framed([[b"head", large]]))
    assert len(one.space()) == HEAD_BYTES
    begun = framed([[b"head", large]])[:HEAD_BYTES]
    assert feed(one, begun) == []
    assert len(one.space()) == len(large) - HEAD_BYTES + len(frame(b"head")) + 9, "there, and not copied"


def test_a_message_lives_until_the_next_one_is_asked_for() -> None:
    one = served(reader())
    wire = framed([[b"one", b"two"], [b"three"]])
    one.space()[: len(wire)] = wire
    one.filled(len(wire))
    assert one.message() == [b"one", b"two"]
    assert one.message() == [b"three"]
    assert one.message() is None


def test_small_parts_in_frames_of_the_long_form_are_read() -> None:
    assert feed(served(reader()), frame(b"a", MORE | LONG) + frame(b"b", LONG)) == [[b"a", b"b"]]


def test_the_envelope_of_a_reply_is_taken_off_and_not_counted() -> None:
    asked = []
    one = served(reader("REQ", place=lambda index, size: asked.append((index, size))), "REP")
    large = b"x" * PLACED_BYTES
    assert feed(one, framed([[b"", b"a", large], [b"", b"b"]]), [3] * 40) == [[b"a", large], [b"b"]]
    assert asked == [(1, PLACED_BYTES)]


def test_a_reply_of_nothing_but_its_envelope_is_a_message_without_parts() -> None:
    assert feed(served(reader("REQ"), "REP"), frame(b"")) == [[]]


def test_a_reply_without_its_envelope_is_refused() -> None:
    with pytest.raises(ZmtpError, match="delimiter"):
        feed(served(reader("REQ"), "REP"), framed([[b"a", b"b"]]))


# --- handshake --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "peer", "words"),
    [
        ("PULL", "PUSH", b""),
        ("SUB", "PUB", b"\x00\x01\x01"),
        ("SUB", "XPUB", b"\x00\x01\x01"),
        ("REQ", "REP", zmtp.request()),
        ("REQ", "ROUTER", zmtp.request()),
    ],
)
def test_the_first_words_wait_for_ready(kind: str, peer: str, words: bytes) -> None:
    one, wire = reader(kind), greeted(peer)
    feed(one, wire[:-1])
    assert not one.handshake.ready
    assert one.handshake.to_send == b""
    feed(one, wire[-1:])
    assert one.handshake.ready
    assert (one.handshake.peer, bytes(one.handshake.to_send)) == (peer, zmtp.ready(kind) + words)


@pytest.mark.parametrize(
    "properties",
    [
        [(b"Socket-Type", b"PUSH")],
        [(b"Identity", b""), (b"Socket-Type", b"PUSH")],
        [(b"socket-type", b"PUSH"), (b"X-More", b"y" * 200)],
        [(b"X-Empty", b""), (b"SOCKET-TYPE", b"PUSH"), (b"identity", b"abc")],
    ],
)
def test_properties_may_come_in_any_order_and_case(properties: list[tuple[bytes, bytes]]) -> None:
    assert feed(reader(), greeted("PUSH")[:64] + ready(*properties) + frame(b"m")) == [[b"m"]]


@pytest.mark.parametrize(
    ("kind", "peer", "hint"),
    [
        ("PULL", b"PUB", "a 'PUB' server is there, expected PUSH: set source.socket = SUB"),
        ("SUB", b"REP", "set source.socket = REQ"),
        ("REQ", b"PUSH", "set source.socket = PULL"),
        ("REQ", b"DEALER", "no kind of source.socket fits"),
        ("PULL", b"", "no kind of source.socket fits"),
    ],
)
def test_a_server_of_another_kind_says_what_to_set(kind: str, peer: bytes, hint: str) -> None:
    with pytest.raises(ZmtpError, match=hint):
        feed(reader(kind), greeted("PUSH")[:64] + ready((b"Socket-Type", peer)))


def test_ready_without_a_kind_is_refused() -> None:
    with pytest.raises(ZmtpError, match="'' server"):
        feed(reader(), greeted("PUSH")[:64] + ready())


HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
CURVE = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (HTTP, "no ZeroMQ server"),
        (b"S", "no ZeroMQ server"),
        (b"\x01\x00", "older than libzmq 4"),  # ZMTP 1: an anonymous identity
        (b"\xff" + bytes(8) + b"\x00", "older than libzmq 4"),  # ZMTP 1: a long identity
        (b"\xff" + bytes(8) + b"\x7f\x01\x08", "ZMTP 1 is spoken there, expected 3"),  # ZMTP 2 says 1
        (CURVE, "security mechanism b'CURVE' is asked for, expected NULL"),
    ],
)
def test_who_speaks_no_zmtp_3_is_refused_as_soon_as_it_shows(said: bytes, what: str) -> None:
    """Such a server may wait for more of us for ever, and send no 64 bytes."""
    with pytest.raises(ZmtpError, match=what):
        feed(reader(), said)


@pytest.mark.parametrize(
    ("wire", "what"),
    [
        (frame(b"message"), "a message before READY"),
        (frame(b"x" * 5000), "a message before READY"),
        (command(b"PING", b"\0\0"), "command b'PING' before READY"),
        (command(b"SUBSCRIBE", b"all"), "command b'SUBSCRIBE' before READY"),
        (frame(b"\0", COMMAND), "command b'' before READY"),
        (frame(b"", COMMAND), "cut short"),
        (command(b"ERROR", b"\x0cinvalid user"), "refuses us: b'invalid user'"),
        (frame(b"\x05READ", COMMAND), "cut short"),
        (frame(b"\xffREADY", COMMAND), "cut short"),
        (command(b"READY", b"\x0bSocket-Type\0\0\0\x05PUSH"), "READY is cut short"),
        (command(b"READY", b"\x0bSocket-Type\xff\xff\xff\xffPUSH"), "READY is cut short"),
        (command(b"READY", b"\x0bSocket-Type\0\0"), "READY is cut short"),
        (command(b"READY", b"\xffSocket-Type"), "READY is cut short"),
    ],
)
def test_what_breaks_the_handshake(wire: bytes, what: str) -> None:
    with pytest.raises(ZmtpError, match=what):
        feed(reader(), greeted("PUSH")[:64] + wire, [1] * 100)


# --- commands ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [b"", b"c", b"context-of-16-by"])
def test_a_ping_is_answered_with_its_context(context: bytes) -> None:
    """Also in the middle of a message, where libzmq may send it."""
    one = served(reader())
    ping = command(b"PING", b"\x00\x64" + context)
    assert feed(one, frame(b"a", MORE) + ping + frame(b"b"), [1] * 60) == [[b"a", b"b"]]
    assert one.handshake.to_send == command(b"PONG", context)


def test_a_ping_does_not_count_as_part_of_the_message() -> None:
    one = served(reader(limit=10))
    assert feed(one, frame(b"12345", MORE) + command(b"PING", bytes(18)) + frame(b"67890"))


def test_pings_whose_answers_are_not_taken_end_the_connection() -> None:
    one = served(reader())
    with pytest.raises(ZmtpError, match="asks for more than it takes"):
        feed(one, command(b"PING", bytes(18)) * (MAX_ANSWERS_BYTES // 10))
    assert len(one.handshake.to_send) < MAX_ANSWERS_BYTES + 100


def test_commands_of_a_newer_version_are_passed_over() -> None:
    wire = command(b"PONG") + command(b"JOIN", b"group") + frame(b"\0", COMMAND) + frame(b"m")
    assert feed(served(reader()), wire) == [[b"m"]]


@pytest.mark.parametrize(
    ("wire", "what"),
    [
        (greeted("PUSH")[64:], "READY comes a second time"),
        (command(b"ERROR", b"\x03bye"), "refuses us: b'bye'"),
        (frame(b"\x09PING", COMMAND), "cut short"),
        (bytes([COMMAND | MORE, 0]), "flags 0x05"),
        (bytes([COMMAND | MORE | LONG]) + bytes(8), "flags 0x07"),
        (bytes([8, 0]), "flags 0x08"),
        (bytes([0x80, 0]), "flags 0x80"),
        (bytes([0xFF]) + bytes(8), "flags 0xff"),
        (frame(b"x" * PLACED_BYTES, COMMAND), f"flags 0x06 of {PLACED_BYTES} bytes"),
        (bytes([COMMAND | LONG]) + b"\xff" * 8, "flags 0x06"),
    ],
)
def test_what_breaks_a_connection_that_serves(wire: bytes, what: str) -> None:
    with pytest.raises(ZmtpError, match=what):
        feed(served(reader()), wire)


# --- limits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [1001, 2**31, 2**63, 2**64 - 1])
def test_a_part_above_the_limit_is_refused_before_there_is_memory_for_it(size_bytes: int) -> None:
    asked: list[int] = []
    one = served(reader(limit=1000, place=lambda _, size: asked.append(size)))
    tracemalloc.start()
    with pytest.raises(ZmtpError, match=rf"of 1 parts and {size_bytes} bytes; .*max_message_bytes = 1000"):
        feed(one, b"\x02" + struct.pack(">Q", size_bytes) + b"begin")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not asked
    assert peak_bytes < 100_000


@pytest.mark.parametrize("size_bytes", [2**60, 2**63])
def test_a_part_for_which_there_is_no_memory_ends_the_connection(size_bytes: int) -> None:
    """Only where somebody has configured such a limit."""
    with pytest.raises(ZmtpError, match=f"no memory for a part of {size_bytes} bytes"):
        feed(served(reader(limit=2**64)), b"\x02" + struct.pack(">Q", size_bytes))


def test_the_limit_is_one_of_the_whole_message() -> None:
    one = served(reader(limit=5000))
    exact = [b"x" * 2500, b"y" * 2400, b"z" * 100]
    assert feed(one, framed([exact, exact])) == [exact, exact]
    with pytest.raises(ZmtpError, match="of 3 parts and 5001 bytes"):
        feed(one, framed([[b"x" * 2500, b"y" * 2400, b"z" * 101]]))


def test_a_message_of_endless_parts_ends_the_connection() -> None:
    one = served(reader())
    assert len(feed(one, framed([[b""] * MAX_PARTS]))[0]) == MAX_PARTS
    with pytest.raises(ZmtpError, match=f"the most are {MAX_PARTS} parts"):
        feed(one, frame(b"", MORE) * (MAX_PARTS + 1))


# --- anything ---------------------------------------------------------------------------------------------


LIMIT = 100_000
STREAM = greeted("PUSH") + framed([[b"head", b"x" * 300, b"y" * 5000], [b"", b"z" * 70_000], [b"end"]])


def survive(wire: bytes, cuts: Iterable[int]) -> None:
    """Reads it to its end or to a ZmtpError; holds no more than it may."""
    asked = [0]
    for kind in ("PULL", "REQ"):
        one = reader(kind, LIMIT, lambda _, size: asked.append(size))
        try:
            got = feed(one, wire, cuts)
        except ZmtpError:
            continue
        assert all(sum(map(len, parts)) <= LIMIT for parts in got)
    assert max(asked) <= LIMIT


@settings(max_examples=200, deadline=None)
@given(wire=st.binary(max_size=600), begun=st.sampled_from([0, 10, 64, len(greeted("PUSH"))]))
def test_no_bytes_do_more_than_end_the_connection(wire: bytes, begun: int) -> None:
    survive(greeted("PUSH")[:begun] + wire, [7] * 20)


@settings(max_examples=200, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, len(STREAM)),
    cuts=st.lists(st.integers(1, 9000), max_size=20),
)
def test_no_change_of_a_real_stream_does_more_than_end_the_connection(
    changes: list[tuple[int, int]], cut: int, cuts: list[int]
) -> None:
    wire = bytearray(STREAM)
    for at, value in changes:
        wire[at] = value
    survive(bytes(wire), cuts)
    survive(bytes(wire[:cut] + wire[cut + 1 :]), cuts)
