"""Sockets that never wait for a peer."""

from pathlib import Path

import pytest
import zmq

from streamer import sockets
from streamer.errors import ConfigError


def test_an_address_in_use_is_a_configuration_error(context: zmq.Context) -> None:
    first = context.socket(zmq.PULL)
    endpoint = sockets.bind(first, "tcp://127.0.0.1:*")
    assert not endpoint.endswith("*")
    with pytest.raises(ConfigError, match=rf"cannot bind {endpoint}.*Is another run using it"):
        sockets.bind(context.socket(zmq.PULL), endpoint)


def test_asking_nobody_ends(context: zmq.Context, folder: Path) -> None:
    with pytest.raises(TimeoutError, match=r"no answer from .*/no within 0.05 s"):
        sockets.ask(context, f"ipc://{folder}/no", {}, 0.05)
