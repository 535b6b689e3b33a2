"""A look at a live source: what it sends, and what a run would do with it."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq
from core_support import POINTS, SOURCE, broken_message, config_text, message
from rich.console import Console

from streamer.check import look
from streamer.config import StreamConfig, parse
from streamer.errors import ConfigError
from streamer.wire.karabo_bridge import encode


def stream(folder: Path, socket: str = "REQ") -> StreamConfig:
    text = config_text().replace("ipc:///nowhere", f"ipc://{folder}/src").replace("PULL", socket)
    return parse(text, "test").stream[0]


@contextmanager
def server(folder: Path, parts: Sequence[bytes | memoryview]) -> Iterator[None]:
    """Answers one request."""
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        socket.set(zmq.LINGER, 1000)
        socket.bind(f"ipc://{folder}/src")

        def answer() -> None:
            if socket.poll(20_000):
                socket.recv()
                socket.send_multipart(list(parts))

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            thread.join()


def test_it_shows_the_sources_and_what_becomes_of_them(folder: Path) -> None:
    with server(folder, message(77, 3)):
        table, usable, text = look(stream(folder), 20)
    assert usable
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    assert SOURCE in captured.get()
    assert f"[3, {POINTS}]" in captured.get()
    assert "train 77 gives 3 events of [16]" in text


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (message(5, 2, np.zeros((2, 17), np.float32)), "this message would be rejected: shape_changed"),
        (broken_message(), "not a Karabo Bridge message: odd_frame_count"),
        (
            encode({"OTHER": {"a": np.zeros(2)}}, {"OTHER": {"timestamp.tid": 5}}),
            "in this train; the message holds: OTHER",
        ),
    ],
)
def test_it_says_why_a_message_is_of_no_use(folder: Path, parts: list[bytes], expected: str) -> None:
    with server(folder, parts):
        _, usable, text = look(stream(folder), 20)
    assert not usable
    assert expected in text


def test_silence_is_explained(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing has come from ipc://.*A REP server wants"):
        look(stream(folder, "SUB"), 0.05)
