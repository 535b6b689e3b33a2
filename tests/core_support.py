"""A stream in one thread: real shared memory, real sockets and FIFOs, a tiny real bundle, no child process.

A stage object that is dropped without a word is a stage that was killed: its page, its slots and the tokens
it had not sent are left as they lay.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zmq

from models.bundle import save_bundle
from models.manifest import Column, Manifest
from models.networks.ednn import EDNN
from models.preprocess import Preprocess
from streamer import filling, ids, ledger, memory, ring, slots, tokens
from streamer import inference as inference_stage
from streamer import ingest as ingest_stage
from streamer import sink as sink_stage
from streamer.config import RunConfig, parse
from streamer.inference import Inference
from streamer.ingest import Ingest
from streamer.ledger import PageReader, StreamLedger, read_stream
from streamer.pipeline import resolve
from streamer.plan import Shared, StageSpec, layouts
from streamer.sink import Sink
from streamer.stage import Stage
from streamer.wire.karabo_bridge import encode

POINTS = 16
SOURCE = "SIM_DET/DET/SPEC:output"
KEY = "data.intensity"
PULSE_KEY = "data.pulseId"
STEPS = {"steps": [{"op": "dark"}, {"op": "standardise", "epsilon": 1e-6}]}
COLUMNS = (Column("latent", "float32", ("a", "b")), Column("target", "float32", ("x", "y", "z")))
# Long enough for any loaded machine; only ever waited in full by a test that fails.
PATIENCE_S = 20.0


def manifest(name: str = "tiny", **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": name,
        "kind": "encoder_decoder",
        "architecture": "ednn",
        "options": {"points": POINTS, "hidden": [8], "latent": 2, "targets": 3},
        "input_shape": (POINTS,),
        "input_dtype": "float32",
        "preprocess": STEPS,
        "columns": COLUMNS,
        "scores": {},
        "training": {"seed": 1},
        "weights_sha256": "0" * 64,
        "golden_sha256": "0" * 64,
        "created": "2026-11-20",
    }
    return Manifest(**(fields | changes))


def make_bundle(folder: Path, seed: int = 0, dark: float = 3.0, **changes: Any) -> Path:
    """Write a bundle of some hundred weights into `folder`, named like it."""
    torch.manual_seed(seed)
    network = EDNN(POINTS, [8], 2, 3)
    preprocess = Preprocess(STEPS, (POINTS,), {"dark": torch.full((POINTS,), dark)})
    raw = 100 * torch.rand(4, POINTS)
    save_bundle(folder, manifest(folder.name, **changes), (preprocess, network), raw, lambda _: "# tiny\n")
    return folder


def config_text(bundles: Sequence[Path] = (), routes: str = "", stream: str = "", top: str = "") -> str:
    """One stream `s` of spectra; `stream`, `routes` and `top` are more lines for their places."""
    names = ", ".join(f'"{bundle}"' for bundle in bundles)
    return f"""
{top}
[output]
store = false
[[stream]]
name = "s"
device = "cpu"
threads = 1
bundles = [{names}]
ring_bytes = 1048576
block_events = 8
deadline_s = 0
{stream}
[stream.source]
endpoint = "ipc:///nowhere"
socket = "PULL"
source = "{SOURCE}"
key = "{KEY}"
pulse_key = "{PULSE_KEY}"
axes = "pulse bin"
shape = [{POINTS}]
dtype = "float32"
{routes}
"""


def events(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 100, (n, POINTS)).astype(np.float32)


def message(
    train_id: int, pulses: Sequence[int] | int, frames: np.ndarray | None = None
) -> list[bytes | memoryview]:
    """One train on the wire; `pulses` are their ids, or their number."""
    ids = np.arange(pulses) if isinstance(pulses, int) else np.array(pulses)
    if frames is None:
        frames = events(len(ids), train_id % 2**32)
    metadata = {"source": SOURCE, "timestamp": 1.0, "timestamp.tid": train_id}
    metadata |= {"timestamp.sec": "1", "timestamp.frac": "0" * 18}
    return encode({SOURCE: {KEY: frames, PULSE_KEY: ids.astype(np.uint64)}}, {SOURCE: metadata})


def broken_message() -> list[bytes | memoryview]:
    return [b"one", b"two", b"three"]


@dataclass
class Line:
    """One stream's memory and spec, and whatever stages of it a test makes."""

    spec: StageSpec
    shared: Shared
    source: "zmq.Socket[bytes]"
    stages: list[Any] = field(default_factory=list)

    def reader(self, stage: str) -> PageReader:
        return self.shared.reader(stage)

    def get(self, stage: str, name: str) -> int:
        reader = self.reader(stage)
        return reader.get(reader.read(), name)

    def ledger(self) -> StreamLedger:
        return read_stream(self.reader("ingest"), self.reader("inference"), self.reader("sink"))

    def states(self) -> list[int]:
        return self.shared.ring.state.tolist()

    # --- stages -------------------------------------------------------------------------------------

    def ingest(self) -> Ingest:
        return self._start(Ingest, "ingest")

    def inference(self) -> Inference:
        return self._start(Inference, "inference")

    def sink(self, kind: type[Sink] = Sink) -> Any:
        return self._start(kind, "sink")

    def _start(self, kind: Any, name: str) -> Any:
        """As `run` does: make it, recover, then go on. Half made, it has sockets to close already."""
        stage = kind.__new__(kind)
        self.stages.append(stage)
        stage.__init__(Stage(name, self.spec))
        if hasattr(stage, "recover"):
            stage.recover()
        return stage

    def kill(self, stage: Any) -> None:
        """Close its sockets, as the kernel does for a process killed; nothing else is tidied."""
        self.stages.remove(stage)
        close(stage)


class Killed(BaseException):
    """kill -9 at a line of our code. No `except Exception` of a stage may see it."""


_WATCHED = {
    module.__file__
    for module in (ingest_stage, filling, inference_stage, sink_stage, ring, ids, ledger, slots, tokens)
}


def killed_at(line: int, work: Callable[[], object]) -> bool:
    """Run `work` and kill it before the `line`th line of a stage's code; False if it ended before that."""
    seen = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in _WATCHED:
            return None
        seen += event == "line"
        if seen >= line:
            sys.settrace(None)
            raise Killed
        return trace

    sys.settrace(trace)
    try:
        work()
    except Killed:
        return True
    finally:
        sys.settrace(None)
    return False


def take(ingest: Ingest, *messages: Sequence[bytes | memoryview]) -> None:
    """Messages that came back to back, and ingest's handing on of what they filled."""
    for parts in messages:
        come(ingest, parts)
    ingest.filling.hand_on()


def come(ingest: Ingest, parts: Sequence[bytes | memoryview]) -> None:
    """One message, received as the connection does: a part for which there is a place lies there."""
    received: list[bytes | memoryview] = []
    for index, part in enumerate(parts):
        place = ingest.place(index, len(part))
        if place is not None:
            place[:] = part
        received.append(bytes(part) if place is None else place)
    ingest.message(received)


def until(true: Any, patience_s: float = PATIENCE_S) -> None:
    """Drive `true` until it is; what it does is the work or the wait."""
    end_s = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > end_s:
            raise AssertionError("it did not become true in time")


def turn(*stages: Any) -> None:
    """One turn of inference and sink loops that does not wait for what is not there."""
    for stage in stages:
        stage.step()


def drain(ingest: Ingest, inference: Inference, sink: Sink) -> None:
    """Turn until every slot has come back."""

    def back() -> bool:
        turn(inference, sink)
        ingest.filling.slots.look()
        return not ingest.filling.slots.lent

    until(back)


def close(stage: Any) -> None:
    """Every socket of a stage; contexts go with them."""
    context = None
    receiver = getattr(stage, "receiver", None)
    if receiver is not None:
        receiver.close()
    publisher = getattr(stage, "publisher", None)
    if publisher is not None:
        context = publisher.socket.context
        publisher.socket.close(0)
    bridge = getattr(stage, "bridge", None)
    if bridge is not None:
        bridge.socket.close(0)
    archive = getattr(stage, "archive", None)
    if archive is not None:
        for series in archive._series:
            series.release()
    for holder in (stage, getattr(stage, "filling", None)):
        for name in ("to_inference", "to_sink", "to_ingest", "tokens", "freed"):
            end = getattr(holder, name, None)
            if end is not None:
                end.close()
    if context is not None:
        context.destroy(linger=0)


@contextmanager
def quick() -> Iterator[None]:
    """Loops that look around after 1 ms without work instead of 100, and signals as they were afterwards."""
    modules = (ingest_stage, filling, inference_stage, sink_stage)
    idle_ms = [module.IDLE_MS for module in modules]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for module in modules:
        module.IDLE_MS = 1
    inference_stage.RESCAN_NS, sink_stage.RESCAN_NS, rescan_ns = 0, 0, sink_stage.RESCAN_NS
    try:
        yield
    finally:
        for module, value in zip(modules, idle_ms, strict=True):
            module.IDLE_MS = value
        inference_stage.RESCAN_NS = sink_stage.RESCAN_NS = rescan_ns
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def line(folder: Path, text: str) -> Iterator[Line]:
    """A stream whose sockets lie in `folder`. The source is a PUSH server."""
    spec, fd = place(parse(text, "test"), folder)
    with quick(), zmq.Context() as context, context.socket(zmq.PUSH) as source:
        source.set(zmq.LINGER, 0)
        source.bind(spec.settings.source.endpoint)
        made = Line(spec, Shared(spec), source)
        try:
            yield made
        finally:
            for stage in made.stages:
                close(stage)
            os.close(fd)


def place(config: RunConfig, folder: Path) -> tuple[StageSpec, int]:
    """Resolve the first stream with every address in `folder` and memory of its own."""
    stream = config.stream[0]
    source = stream.source.model_copy(update={"endpoint": f"ipc://{folder}/src"})
    own = {"results": f"ipc://{folder}/res", "verdicts": f"ipc://{folder}/ver"}
    publish = stream.publish.model_copy(update=own)
    stream = stream.model_copy(update={"source": source, "publish": publish})
    config = config.model_copy(update={"stream": (stream,)})
    spec = resolve(config, stream, -1, folder)
    fd = memory.create("test", layouts(stream, spec.columns).size_bytes)
    return spec.model_copy(update={"fd": fd}), fd
