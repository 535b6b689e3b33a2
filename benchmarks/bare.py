"""The network alone: the floor under the pipeline, in its own process and with the pipeline's own runner.

rate     prebuilt frames, batch after batch: the most that this network does here in this mode
pull     a work-conserving ZeroMQ loop around it: PULL, all that waits up to a batch, run, PUB of the answers
latency  the times of single batches, back to back or on a clock
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zmq

from benchmarks.helper import options, serve
from benchmarks.receivers import FRAMES_PART, HWM, TIMEOUT_S
from models.bundle import load_bundle
from streamer.device import Raw
from streamer.runner import CpuRunner

# Sixteen batches of frames in turn: more than the second-level cache holds, as in a ring.
BANK_BATCHES = 16


class Bare:
    """The runner and a bank of frames."""

    def __init__(self, bundle: str, threads: int, batch: int, mode: str | None, endpoint: str | None) -> None:
        torch.set_num_threads(threads)
        loaded = load_bundle(Path(bundle))
        self.batch, self.shape = batch, loaded.manifest.input_shape
        self.runner = CpuRunner([loaded], batch, mode)
        bank = np.random.default_rng(0).integers(0, 500, (BANK_BATCHES, batch, *self.shape), np.uint16)
        self.bank: list[Raw] = list(bank)
        self._socket = _pull(endpoint) if endpoint else None
        self._answers: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        self._answers.bind("tcp://127.0.0.1:0")

    def answer(self, request: dict[str, Any]) -> Mapping[str, Any]:
        kind = request.pop("kind")
        kinds: dict[str, Callable[..., Mapping[str, Any]]] = {
            "rate": self.rate,
            "pull": self.pull,
            "latency": self.latency,
        }
        return kinds[kind](**request)

    def rate(self, seconds: float) -> Mapping[str, float]:
        return self._count(self._step_bank, seconds)

    def pull(self, seconds: float) -> Mapping[str, float]:
        return self._count(self._step_pull, seconds)

    def _count(self, step: Callable[[], None], seconds: float) -> Mapping[str, float]:
        self._events = 0
        for _ in range(3):
            step()
        start_s, cpu_s, before = time.perf_counter(), time.process_time(), self._events
        while time.perf_counter() < start_s + seconds:
            step()
        took_s, used_s = time.perf_counter() - start_s, time.process_time() - cpu_s
        return {"events": self._events - before, "seconds": took_s, "cpu_s": used_s}

    def _step_bank(self) -> None:
        frames = self.bank[(self._events // self.batch) % BANK_BATCHES]
        self._events += len(self.runner.submit([frames]).wait())

    def _step_pull(self) -> None:
        if self._socket is None:
            raise ValueError("pull needs an endpoint")
        blocks = [self._receive(0)]
        while sum(map(len, blocks)) + len(blocks[0]) <= self.batch:
            try:
                blocks.append(self._receive(zmq.NOBLOCK))
            except zmq.Again:
                break
        packed = self.runner.submit(blocks).wait()
        self._answers.send(packed.tobytes(), zmq.NOBLOCK)
        self._events += len(packed)

    def _receive(self, flags: int) -> Raw:
        if self._socket is None:
            raise ValueError("pull needs an endpoint")
        frames = self._socket.recv_multipart(flags, copy=False)[FRAMES_PART].buffer
        return np.frombuffer(frames, np.uint16).reshape(-1, *self.shape)

    def latency(self, n: int, batches: int, rate_hz: float) -> Mapping[str, list[float]]:
        """Seconds of each of `batches` batches of n events; rate 0: back to back."""
        seconds, start_s = [], time.perf_counter()
        for step in range(batches):
            if rate_hz:
                time.sleep(max(0.0, start_s + step / rate_hz - time.perf_counter()))
            frames = self.bank[step % BANK_BATCHES][:n]
            begin_s = time.perf_counter()
            self.runner.submit([frames]).wait()
            seconds.append(time.perf_counter() - begin_s)
        return {"seconds": seconds}


def _pull(endpoint: str) -> "zmq.Socket[bytes]":
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
    socket.set(zmq.RCVHWM, HWM)
    socket.set(zmq.RCVTIMEO, round(TIMEOUT_S * 1e3))
    socket.connect(endpoint)
    return socket


if __name__ == "__main__":
    bare = Bare(**options())
    serve(bare.answer, {"mode": bare.runner.mode})
