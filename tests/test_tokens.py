"""Tokens through a FIFO: whole, in order, never waiting, and at home with whoever comes first."""

import select
from pathlib import Path

import pytest

from streamer.errors import ConfigError
from streamer.tokens import Tokens


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.inference.tokens"


def test_tokens_go_from_end_to_end(path: Path) -> None:
    with Tokens(path) as receiver, Tokens(path) as sender:
        assert receiver.receive() == []
        assert not receiver.wait(0)
        sender.send((1, 2))
        sender.send((3, 4), (5, 2**64 - 1))
        assert receiver.wait(1000)
        assert receiver.receive() == [(1, 2), (3, 4), (5, 2**64 - 1)]
        assert receiver.receive() == []
        sender.send()
        assert receiver.receive() == []


def test_it_is_readable_for_a_poller(path: Path) -> None:
    with Tokens(path) as receiver, Tokens(path) as sender:
        sender.send((1, 2))
        poll = select.poll()
        poll.register(receiver, select.POLLIN)
        assert poll.poll(1000) == [(receiver.fileno(), select.POLLIN)]


def test_a_file_in_its_place_or_a_folder_that_is_gone_is_said(path: Path) -> None:
    with pytest.raises(ConfigError, match="gone cannot be used"):
        Tokens(path.parent / "gone" / "s.sink.tokens")
    path.write_text("no")
    with pytest.raises(ConfigError, match="is no FIFO"):
        Tokens(path)


def test_two_senders_never_cut_each_others_tokens(path: Path) -> None:
    """Beyond PIPE_BUF the kernel may write a part."""
    many = 3 * select.PIPE_BUF // 16 + 7
    with Tokens(path) as receiver, Tokens(path) as one, Tokens(path) as other:
        one.send(*[(1, seq) for seq in range(many)])
        other.send(*[(2, seq) for seq in range(many)])
        got = receiver.receive()
    assert [seq for slot, seq in got if slot == 1] == list(range(many))
    assert [seq for slot, seq in got if slot == 2] == list(range(many))


def test_a_full_fifo_loses_whole_tokens_and_never_waits(path: Path) -> None:
    with Tokens(path) as receiver, Tokens(path) as sender:
        for seq in range(300):
            sender.send(*[(slot, seq) for slot in range(256)])
        got: list[tuple[int, int]] = []
        while part := receiver.receive():
            got += part
        assert 4096 <= len(got) < 300 * 256
        assert got == [(slot, seq) for seq in range(300) for slot in range(256)][: len(got)]
        sender.send((7, 7))
        assert receiver.receive() == [(7, 7)]


def test_what_a_dead_receiver_left_waits_for_the_next(path: Path) -> None:
    """As long as one of the ends is there; if none is, the next look at the table finds the slots."""
    with Tokens(path) as sender:
        with Tokens(path):
            sender.send((1, 1))
        with Tokens(path) as successor:
            assert successor.receive() == [(1, 1)]
