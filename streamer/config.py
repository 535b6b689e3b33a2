"""The configuration: one TOML file, strict, every default written once.

Owns the shape of the file and its checks that need nothing else (no bundle, no network). What needs the
bundles as well is checked in `plan`. Unknown keys and contradictions are refused, all in one message.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from streamer.align import MAX_MODULE_SOURCES
from streamer.errors import ConfigError
from streamer.receiver import opener

MAX_BUNDLES = 8  # of one stream; all of them see every event
MAX_RUN = 9999  # the folders of runs have four digits
# A mixture of more components tells nobody anything.
MAX_CLUSTER = 9999
# Files are named by it and sources carry it.
NAME = r"^[A-Za-z][A-Za-z0-9_]{0,31}$"
Name = Annotated[str, Field(pattern=NAME)]

# The kinds that detectors deliver and networks read.
Dtype = Literal[
    "uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"
]  # fmt: skip

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceConfig(Strict):
    """Where the events of a stream come from and how they lie in a message."""

    protocol: Literal["karabo-bridge"] = "karabo-bridge"
    endpoint: str
    """The server: tcp://host:port or ipc://path, e.g. tcp://127.0.0.1:45000."""
    socket: Literal["REQ", "SUB", "PULL"] = "REQ"
    """The client side of the server's REP, PUB or PUSH."""
    source: str | tuple[str, ...]
    """Name of the source; `{0..15}` in it, or a list, stacks at most 64, one per module in that order."""
    key: str
    """Name of the array, e.g. image.data."""
    pulse_key: str | None = None
    """Name of the array of pulse ids; None numbers the pulses of a train from 0."""
    axes: str
    """Meaning of the array's axes, slowest first, of: pulse module slow fast bin. It is not on the wire."""
    shape: tuple[Annotated[int, Field(ge=1, le=65536)], ...]
    """Shape of one event: [slow, fast], [modules, slow, fast] or [bins]."""
    dtype: Dtype
    train_id_step: Annotated[int, Field(ge=1, le=2**31)] = 1
    """Distance of neighbouring train ids; 1 at European XFEL."""
    max_message_bytes: Annotated[int, Field(ge=1024, le=2**40)] = 2**31
    """A larger message is refused before it is read, and the connection closed."""

    @field_validator("endpoint")
    @classmethod
    def _reachable(cls, endpoint: str) -> str:
        try:
            opener(endpoint)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return endpoint

    @field_validator("source")
    @classmethod
    def _countable(cls, source: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (source,) if isinstance(source, str) else source
        count = sum(len(expand(name)) for name in names)
        if not 1 <= count <= MAX_MODULE_SOURCES:
            raise ValueError(f"expected 1 to {MAX_MODULE_SOURCES} sources, one per module, got {count}")
        return source

    @property
    def sources(self) -> tuple[str, ...]:
        names = (self.source,) if isinstance(self.source, str) else self.source
        return tuple(full for name in names for full in expand(name))


class RouteConfig(Strict):
    """A rule that keeps events; the first that matches wins."""

    name: Name
    when: Annotated[str, Field(max_length=1000)] | None = None
    """Expression over the result columns, e.g. `p.Streak > 0.5`. None matches every event."""
    one_in: Annotated[int, Field(ge=1)] | None = None
    """Keep one event in so many of those that match, drawn from a hash of the ids. None keeps them all."""
    enabled: bool = True
    """False keeps nothing until somebody enables it (`streamer steer`, the live page)."""


class PublishConfig(Strict):
    """Endpoints that a stream binds. Only loopback unless `expose` is set in the file's top level."""

    results: str = ""
    """PUB of every event's results, by block; empty: port 45450 for the first stream, then 45452, ..."""
    verdicts: str = ""
    """PUB of the verdicts, first out; empty: port 45451 for the first stream, then 45453, ..."""
    karabo_bridge: str | None = None
    """The results as a Karabo Bridge 2.2 source; None serves none."""
    karabo_bridge_socket: Literal["REP", "PUB", "PUSH"] = "REP"


class StreamConfig(Strict):
    """One stream of events, its models and its routes."""

    name: Name
    source: SourceConfig
    bundles: tuple[str, ...] = ()
    """Shipped bundles by name, or folders. All of them see every event."""
    attach: tuple[str, ...] = ()
    """Scalars of other sources for each event: `SOURCE key`, or `name = SOURCE key`."""
    route: tuple[RouteConfig, ...] = ()
    clusters: dict[Name, Annotated[int, Field(ge=0, le=MAX_CLUSTER)]] = {}
    """Names of clusters by number: a rule may then say `cluster == named.rings`."""
    publish: PublishConfig = PublishConfig()
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """Where the networks run; auto is the first CUDA device, or the CPU."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """CPU threads of the networks; 0 is what the machine has, less one for the wire."""
    max_events: Annotated[int, Field(ge=1, le=65536)] = 64
    """Largest batch. More only helps a device that larger batches make faster."""
    max_wait_s: Annotated[float, Field(ge=0, le=10)] = 0.0
    """How long a batch may wait to grow; 0 takes what is there."""
    deadline_s: Annotated[float, Field(ge=0, le=3600)] = 1.0
    """An event that waited longer for the device is kept unclassified (failopen:timeout). 0 never."""
    on_overload: Literal["keep", "wait"] = "keep"
    """What to do when inference cannot follow: `keep` stores events unclassified, `wait` stops reading."""
    ring_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40)] = 256 << 20
    """Shared memory for frames in flight."""
    block_events: Annotated[int, Field(ge=0, le=65536)] = 0
    """Most events handed over at once; 0 takes 1 MiB, without bundles 4 (or ring / 16), at most 2048."""

    @field_validator("bundles")
    @classmethod
    def _few(cls, bundles: tuple[str, ...]) -> tuple[str, ...]:
        if len(bundles) > MAX_BUNDLES or len(set(bundles)) != len(bundles):
            raise ValueError(f"expected at most {MAX_BUNDLES} different bundles, got {list(bundles)}")
        return bundles


class OutputConfig(Strict):
    """Where and how kept events are stored."""

    store: bool = True
    """False writes no files; everything else goes on."""
    paused: bool = False
    """Begin without storing; `streamer steer STREAM --store` or the live page starts it."""
    directory: Path = Path("out")
    """Folder of the runs; run 7 goes to `r0007` in it."""
    segment_bytes: Annotated[int, Field(ge=1 << 16)] = 256 << 20
    """Size of one file, claimed when it is created."""
    reserve_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    """Free space that is never used: nothing is written that would leave less."""


class MetricsConfig(Strict):
    """Where Prometheus scrapes."""

    address: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 9401
    """0 takes any free port."""
    serve: bool = True


class DashboardConfig(Strict):
    """The live page."""

    serve: bool = True
    address: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 5006
    """0 takes any free port."""
    origins: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9.\[\]:-]+$")], ...] = ()
    """`host:port` under which people open the page besides its own address, e.g. through a tunnel."""


class RunConfig(Strict):
    """One run of the program."""

    run: Annotated[int, Field(ge=0, le=MAX_RUN)] = 1
    proposal: Annotated[int, Field(ge=0, le=999999)] = 0
    stream: Annotated[tuple[StreamConfig, ...], Field(min_length=1)]
    output: OutputConfig = OutputConfig()
    metrics: MetricsConfig = MetricsConfig()
    dashboard: DashboardConfig = DashboardConfig()
    control: str | None = None
    """ipc address of the control socket; None takes one in the user's runtime folder."""
    expose: bool = False
    """Allow endpoints that other machines can reach. Nothing authenticates them."""

    @model_validator(mode="before")
    @classmethod
    def _number_ports(cls, data: Any) -> Any:
        """Give every stream without endpoints its own two ports."""
        if not isinstance(data, dict) or not isinstance(data.get("stream"), list | tuple):
            return data
        return data | {"stream": [_with_ports(stream, index) for index, stream in enumerate(data["stream"])]}

    @model_validator(mode="after")
    def _agree(self) -> Self:
        problems = [*_repeated("stream name", [stream.name for stream in self.stream])]
        endpoints = [endpoint for stream in self.stream for endpoint in bound(stream)]
        problems += _repeated("endpoint", endpoints)
        if not self.expose:
            pages = [f"tcp://{served.address}:0" for served in (self.metrics, self.dashboard)]
            problems += [
                f"endpoint {endpoint} can be reached by other machines; use 127.0.0.1, or set expose = true"
                for endpoint in [*endpoints, *pages]
                if not _local(endpoint)
            ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def control_endpoint(self) -> str:
        return self.control or f"ipc://{runtime_folder()}/control"


def _with_ports(stream: Any, index: int) -> Any:
    publish = stream.get("publish", {}) if isinstance(stream, dict) else None
    if not isinstance(publish, dict):
        return stream
    defaults = {
        "results": f"tcp://127.0.0.1:{45450 + 2 * index}",
        "verdicts": f"tcp://127.0.0.1:{45451 + 2 * index}",
    }
    return stream | {"publish": defaults | publish}


def bound(stream: StreamConfig) -> list[str]:
    """Every endpoint that the stream binds."""
    publish = stream.publish
    return [e for e in (publish.results, publish.verdicts, publish.karabo_bridge) if e]


def _local(endpoint: str) -> bool:
    return endpoint.startswith(("ipc://", "tcp://127.", "tcp://localhost:", "tcp://[::1]"))


def _repeated(what: str, values: list[str]) -> list[str]:
    fixed = [value for value in values if not value.endswith(":0")]
    return [
        f"{what} {value!r} is used more than once"
        for value in sorted({v for v in fixed if fixed.count(v) > 1})
    ]


def expand(name: str) -> list[str]:
    """`A/{0..2}CH` -> A/0CH, A/1CH, A/2CH. Raises ValueError for a range of none or too many."""
    match = _RANGE.search(name)
    if match is None:
        return [name]
    first, last = int(match[1]), int(match[2])
    if not 1 <= last - first + 1 <= MAX_MODULE_SOURCES:
        raise ValueError(
            f"{match[0]} names {max(0, last - first + 1)} sources; expected 1 to {MAX_MODULE_SOURCES}, "
            "one per module, the lowest first"
        )
    return [name[: match.start()] + str(i) + name[match.end() :] for i in range(first, last + 1)]


def runtime_folder() -> Path:
    """A private folder for sockets: XDG_RUNTIME_DIR, or one of ours in the temporary folder."""
    base = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/streamer-{os.getuid()}"
    return Path(base) / "streamer"


def parse(text: str, where: str) -> RunConfig:
    """Read a configuration. Raises ConfigError that lists every problem with its place."""
    try:
        return RunConfig.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from error


def load(path: Path) -> RunConfig:
    """Read a configuration file. Raises ConfigError."""
    try:
        return parse(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error


def numbered(config: RunConfig) -> RunConfig:
    """The same as the first run after those in its directory, and not before the number it has.

    Raises ConfigError when there is no such number.
    """
    runs = [int(folder.name[1:]) for folder in config.output.directory.glob("r[0-9][0-9][0-9][0-9]")]
    run = max([config.run, *(run + 1 for run in runs)])
    if run > MAX_RUN:
        raise ConfigError(f"{config.output.directory} holds run {MAX_RUN}, the last number; choose another")
    return config.model_copy(update={"run": run})


def _explain(error: ValidationError) -> str:
    lines = []
    problems = error.errors(include_url=False)
    for problem in problems:
        if problem["loc"] == ("stream",) and len(problems) > 1:
            continue  # pydantic counts a stream with a mistake as none at all
        place = ".".join(str(part) for part in problem["loc"]) or "file"
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            lines.append(f"{place}: unknown key; remove it or correct its spelling")
        elif problem["type"] in ("missing", "value_error"):  # the input is the whole table: no help
            lines.append(f"{place}: {text}")
        else:
            lines.append(f"{place}: {text}, got {str(problem['input'])[:80]}")
    return f"{len(lines)} problem(s):\n  " + "\n  ".join(lines)
