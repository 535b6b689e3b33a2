"""Stands for inference and sink in the measurement of ingest: gives every slot back at once.

Over the real tokens and with the real words of the ring; it reads nothing of what lies in a slot.
"""

import sys
from pathlib import Path

import zmq

from benchmarks.helper import options, say
from streamer.plan import Shared, StageSpec
from streamer.ring import FREE
from streamer.stage import IDLE_MS


def main(spec_file: str) -> None:
    spec = StageSpec.model_validate_json(Path(spec_file).read_text())
    ring, tokens, to_ingest = Shared(spec).ring, spec.tokens("inference"), spec.tokens("ingest")
    parent = zmq.Poller()
    parent.register(tokens, zmq.POLLIN)
    parent.register(sys.stdin, zmq.POLLIN)
    say({"ready": True})
    while sys.stdin not in dict(parent.poll(IDLE_MS)):  # closed with the harness
        if taken := tokens.receive():
            for slot, _ in taken:
                ring.state[slot] = FREE
            to_ingest.send(*taken)


if __name__ == "__main__":
    main(**options())
