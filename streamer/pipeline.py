"""A run, from configuration to closed ledger. Read this first.

    facility ──ZeroMQ──> ingest ──slot──> inference ──slot──> sink ──> files, sorted by route
                           │                  │                 └────> results (PUB), Karabo Bridge
                           │                  └──> verdicts (PUB, first out)
                     wire, assemble      runner (models), routing
                     one copy into       one batch on the device,
                     a shared slot       one packed copy back

Each stage is one process and one module of that name; the blocks lie in a ring of shared memory (`ring`) and
move by token. This module builds the stages in data order; the `supervisor` keeps them running; the `ledger`,
in the same memory, says where every event went. `docs/life-of-an-event.md` tells the way in words.
"""

import fcntl
import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
import zmq

import streamer
from streamer import memory
from streamer.archive import Archive
from streamer.config import RunConfig, StreamConfig
from streamer.errors import ConfigError
from streamer.journal import Journal
from streamer.ledger import PageReader, StreamLedger, as_report, dashboard_layout, read_stream
from streamer.metrics import RunFacts, Snapshot, StageState
from streamer.plan import (
    BundleRef,
    ColumnRef,
    Shared,
    StageSpec,
    layouts,
    make_router,
    pin_bundles,
    read_bundles,
    source_spec,
)
from streamer.ring import FREE
from streamer.supervisor import Child, Supervisor
from streamer.usage import UsageReader, disk_free_bytes
from streamer.versions import current_version

log = logging.getLogger(__name__)

# In data order: a stage stops after the ones before it have handed on what they hold.
STAGES = ("ingest", "inference", "sink")


@dataclass
class Stream:
    """One stream of the run, as the supervisor's process sees it."""

    spec: StageSpec
    shared: Shared
    children: dict[str, Child]
    usage: UsageReader = field(default_factory=UsageReader)

    def ledger(self) -> StreamLedger:
        read = self.shared.reader
        return read_stream(read("ingest"), read("inference"), read("sink"))

    def snapshot(self) -> Snapshot:
        """Everything that is exported of the stream."""
        come, work = self.shared.reader("ingest"), self.shared.reader("inference")
        arrived, worked = come.read(), work.read()
        ring, now = self.shared.ring, current_version(self.spec)[1]
        return Snapshot(
            ledger=self.ledger(),
            bytes_received=come.get(arrived, "bytes"),
            reconnects=come.get(arrived, "reconnects"),
            silence_s=self._silence_s(),
            batches=work.get(worked, "batches"),
            batch_events=worked[work.layout.span("batch_events")].tolist(),
            model_errors=work.get(worked, "model_errors"),
            swaps=work.get(worked, "swaps"),
            swaps_refused=work.get(worked, "swaps_refused"),
            steerings=work.get(worked, "steerings"),
            answered=work.get(worked, "events"),
            busy_s=work.get(worked, "busy_ns") * 1e-9,
            deadline_s=self.spec.settings.deadline_s,
            slots_in_use=int(np.count_nonzero(ring.state != FREE)),
            slots=ring.layout.slots,
            slot_bytes=ring.layout.size_bytes // ring.layout.slots,
            stages=self._stages(),
            storing=self.spec.config.output.store and now.store,
            bundles=[(ref.name, ref.sha256) for ref in now.bundles],
            samples=frozenset(r.name for r in self.spec.first_version.routes if r.one_in is not None),
            run=_run_facts(self.spec.config),
        )

    def _silence_s(self) -> float:
        """Since the newest block of events began to come, or since the start of ingest."""
        newest_s = max(int(self.shared.ring.received_ns.max()) * 1e-9, self.children["ingest"].started_s)
        return max(0.0, time.monotonic() - newest_s) if newest_s else 0.0

    def _stages(self) -> dict[str, StageState]:
        now_s, now_at_s = time.monotonic(), time.time()
        used = self.usage.read({name: child.pid for name, child in self.children.items()})
        return {
            name: StageState(
                up=child.up,
                restarts=child.restarts,
                started_at_s=now_at_s - (now_s - child.started_s) if child.started_s else 0.0,
                progress_age_s=_age_s(child, now_s),
                **asdict(used[name]),
            )
            for name, child in self.children.items()
        }


def _age_s(child: Child, now_s: float) -> float:
    """Since the last sign of work, or since the start; 0 before it."""
    last_s = max(child.page.progress_ns * 1e-9, child.started_s)
    return max(0.0, now_s - last_s) if last_s else 0.0


def _run_facts(config: RunConfig) -> RunFacts:
    output = config.output
    return RunFacts(
        run=config.run,
        proposal=config.proposal,
        version=streamer.__version__,
        python=sys.version.split()[0],
        disk_free_bytes=disk_free_bytes(output.directory) if output.store else None,
        disk_reserve_bytes=output.reserve_bytes,
    )


def resolve(config: RunConfig, stream: StreamConfig, fd: int, folder: Path) -> StageSpec:
    """Work out one stream. Raises ConfigError where configuration, bundles and machine contradict."""
    found = read_bundles(stream)
    columns = [column for _, manifest in found for column in manifest.columns]
    source_spec(stream)
    spec = StageSpec(
        config=config,
        stream=stream.name,
        fd=fd,
        folder=str(folder),
        bundles=tuple(BundleRef(name=m.name, path=str(path), sha256=m.sha256) for path, m in found),
        columns=tuple(ColumnRef(name=c.name, dtype=c.dtype, labels=c.labels) for c in columns),
        created=time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
    )
    make_router(spec)
    if config.output.store:
        archive(spec).prepare()
    return spec


def archive(spec: StageSpec) -> Archive:
    """The stream's files before anything is in them."""
    sink = layouts(spec.settings, spec.columns).sink
    return Archive(spec, np.zeros(sink.sizes["cursor"], np.int64))


class Pipeline:
    """The processes of one run. A context manager: leaving it stops and frees everything.

    `output` takes the log lines of the stages (None: stderr). Raises ConfigError.
    """

    def __init__(self, config: RunConfig, output: IO[bytes] | None = None) -> None:
        self.config = config
        self.folder = Path(tempfile.mkdtemp(prefix="streamer-"))
        # Programs that clean temporary folders leave a locked one alone.
        self._folder_lock = os.open(self.folder, os.O_RDONLY)
        fcntl.flock(self._folder_lock, fcntl.LOCK_SH)
        self.streams: dict[str, Stream] = {}
        self._fds: list[int] = []
        self.token = secrets.token_urlsafe(16)
        """Who knows it may steer by the live page."""
        try:
            for stream in config.stream:
                self.streams[stream.name] = self._build(stream)
        except BaseException:
            self._free()
            raise
        self.journal = Journal(_run_folder(config) / "steering.jsonl" if config.output.store else None)
        self.dashboard = self._live_page()
        stages = [child for stream in self.streams.values() for child in stream.children.values()]
        self.supervisor = Supervisor([*stages, *([self.dashboard] if self.dashboard else [])], output)
        self.started_s, self.started_at_s = 0.0, 0.0
        self.metrics_address: str | None = None
        self.changed_s = 0.0
        """Monotonic time of the last change that somebody asked for."""
        self.stopping = False
        self.stopped_s = 0.0

    def _build(self, stream: StreamConfig) -> Stream:
        """Memory and child processes of one stream, in data order."""
        spec = pin_bundles(resolve(self.config, stream, -1, self.folder))
        if self.config.output.store:
            archive(spec).claim()
        fd = memory.create(f"streamer-{stream.name}", layouts(stream, spec.columns).size_bytes)
        spec = spec.model_copy(update={"fd": fd})
        path = self.folder / f"{stream.name}.json"
        path.write_text(spec.model_dump_json())
        shared = Shared(spec)
        children = {
            stage: Child(
                name=f"{stream.name}.{stage}",
                argv=[sys.executable, "-m", f"streamer.{stage}", str(path), str(os.getpid())],
                fds=[fd],
                page=shared.reader(stage),
                tier=tier,
            )
            for tier, stage in enumerate(STAGES)
        }
        return Stream(spec, shared, children)

    def _live_page(self) -> Child | None:
        """The process of the live page, which nothing else waits for; None without it."""
        if not self.config.dashboard.serve:
            return None
        if find_spec("bokeh") is None:
            log.warning("no live page: it needs `pip install 'xfel-streamer[dashboard]'`")
            return None
        layout = dashboard_layout()
        fd = memory.create("streamer-dashboard", layout.size_bytes)
        self._fds.append(fd)
        told = self.config.dashboard.model_dump(mode="json") | {
            "token": self.token,
            "control": self.config.control_endpoint,
            "streams": list(self.streams),
            "fd": fd,
        }
        (self.folder / "dashboard.json").write_text(json.dumps(told))
        return Child(
            name="dashboard",
            argv=[sys.executable, "-m", "streamer.dashboard", str(self.folder), str(os.getpid())],
            fds=[fd, *(stream.spec.fd for stream in self.streams.values())],
            page=PageReader(memory.attach(fd), layout),
            tier=len(STAGES),
            vital=False,
        )

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._free()

    def _free(self) -> None:
        for fd in [*self._fds, *(stream.spec.fd for stream in self.streams.values())]:
            os.close(fd)  # the mapping lives as long as somebody looks at it
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._folder_lock)

    def start(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Start every stage and wait until all are ready. Raises ConfigError or StageError."""
        self.supervisor.start(interrupted)
        self.started_s, self.started_at_s = time.monotonic(), time.time()

    def stop(self) -> None:
        """Drain and stop, in data order."""
        self.stopping = True
        self.supervisor.stop()
        self.stopped_s = self.stopped_s or time.monotonic()

    def page_address(self) -> str | None:
        """Where the live page is; None while there is none. Its process notes the port that it got."""
        if self.dashboard is None:
            return None
        try:
            port = int((self.folder / "dashboard.port").read_text())
        except (OSError, ValueError):
            port = self.config.dashboard.port
        return f"http://{self.config.dashboard.address}:{port}" if port else None

    # --- what a person asks -------------------------------------------------------------------------

    def ledgers(self) -> dict[str, StreamLedger]:
        return {name: stream.ledger() for name, stream in self.streams.items()}

    def snapshots(self) -> Mapping[str, Snapshot]:
        return {name: stream.snapshot() for name, stream in self.streams.items()}

    def received(self) -> int:
        return sum(ledger.received for ledger in self.ledgers().values())

    def control_address(self, stream: str) -> str:
        """Where inference of a stream takes commands. Raises ConfigError."""
        if stream not in self.streams:
            raise ConfigError(f"no stream {stream!r}; running: {', '.join(self.streams)}")
        return self.streams[stream].spec.address("control")

    def report(self) -> dict[str, Any]:
        """The ledger and the rates, as `--report` writes them."""
        end_s = self.stopped_s or time.monotonic()
        duration_s = end_s - self.started_s if self.started_s else 0.0
        ledgers = self.ledgers()
        return {
            "closed": all(ledger.closed for ledger in ledgers.values()),
            "duration_s": round(duration_s, 3),
            "streams": {
                name: as_report(ledger, duration_s, self._bundles(name)) for name, ledger in ledgers.items()
            },
            "versions": versions(),
        }

    def _bundles(self, stream: str) -> list[dict[str, str]]:
        refs = current_version(self.streams[stream].spec)[1].bundles
        return [{"name": ref.name, "sha256": ref.sha256} for ref in refs]


def _run_folder(config: RunConfig) -> Path:
    return config.output.directory / f"r{config.run:04d}"


def versions() -> dict[str, str]:
    """The installed versions. From the metadata: importing torch for its number takes seconds."""
    return {
        "streamer": streamer.__version__,
        "python": sys.version.split()[0],
        **{name: version(name) for name in ("torch", "numpy", "h5py", "pyzmq", "msgpack")},
        "libzmq": zmq.zmq_version(),
    }
