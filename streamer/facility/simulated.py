"""The trains of the simulated detector: options, a bank of simulated events, and train number k of it.

Owns the content of the trains and the truth about it; knows no socket. The physics is in `models.simulation`.
Names of sources and keys are made like those of European XFEL: `<detector>/DET/<module>CH0:xtdf` with
`image.data`, an X-ray gas monitor with one pulse energy per pulse, a motor with one position per train.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np

from streamer.errors import ConfigError
from streamer.facility.misbehave import SimTrain, Sources, parse_schedule
from streamer.facility.serve import ServerOptions
from streamer.facility.stamp import stamp
from streamer.facility.truth import OFFERED, RECORD, Array, checksums
from streamer.wire.types import TRAIN_ID_END, Version

Kind = Literal["droplets", "diffraction", "noise"]

# No training recipe draws from this seed: a model has not seen these events.
HELD_OUT_SEED: Final = 990_001
XGM_SOURCE: Final = "SIM_XGM/XGM/DOOCS:output"
XGM_KEY: Final = "data.intensityTD"
MOTOR_SOURCE: Final = "SIM_MOTOR/MOTOR/SAMPLE_X"
MOTOR_KEY: Final = "actualPosition.value"
# Pulse energies of a self-amplified source are gamma distributed; 1 mJ on average and 25 % spread, in uJ.
XGM_MEAN_UJ: Final = 1000.0
XGM_SHAPE: Final = 16.0
# The motor moves this far in each train, mm.
MOTOR_STEP_MM: Final = 0.001
# Exposures beside the sample: enough to see them vetoed.
NO_SAMPLE_SHARE: Final = 0.1
# Noise banks hold fewer events when they would take more memory than this.
NOISE_BANK_BYTES: Final = 256 * 1024**2
# Headers and slow sources of a train, for the byte budget.
OVERHEAD_BYTES: Final = 4096


@dataclass(frozen=True)
class SimulatorOptions:
    """What is sent, how often, and what goes wrong."""

    # droplets: uint16 frames of 128 x 128; diffraction: float32 spectra of 4023 points; noise: any shape.
    kind: Kind = "droplets"
    server: ServerOptions = field(default_factory=ServerOptions)
    # Version of the Karabo Bridge protocol.
    version: Version = "2.2"
    # Trains per second; 0: as fast as the peer takes them.
    rate_hz: float = 10.0
    # Pulses in a train; 1 is a machine of single shots.
    pulses: int = 16
    # Trains to send; None: until stopped.
    trains: int | None = None
    first_train_id: int = 10_000
    # Detector modules, each a source of its own with its own frames.
    modules: int = 1
    # Shape and dtype of one event of one module; noise only.
    shape: tuple[int, ...] = (128, 128)
    dtype: str = "uint16"
    # Different events that are simulated before the start, and sent in turn.
    bank_events: int = 512
    seed: int = HELD_OUT_SEED
    # droplets only. 0: labels as frequent as measured (73 % plainly round); 1: all combinations equally.
    evenness: float = 0.0
    # Schedule of faults, see `streamer.facility.misbehave`.
    misbehave: str = ""
    # Where the truth is written; None: nowhere.
    log: Path | None = None
    # Send nothing before the first peer is there.
    wait_for_peer: bool = True

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise ConfigError("simulator: " + "; ".join(problems))


def _problems(options: SimulatorOptions) -> Iterator[str]:
    for name in ("pulses", "modules", "bank_events"):
        if getattr(options, name) < 1:
            yield f"{name} must be at least 1, got {getattr(options, name)}"
    for name, allowed in (("kind", get_args(Kind)), ("version", get_args(Version))):
        if getattr(options, name) not in allowed:
            yield f"{name}: expected one of {', '.join(allowed)}, got {getattr(options, name)!r}"
    if not 0 <= options.first_train_id < TRAIN_ID_END - 2**32:
        yield f"first_train_id must be 0 or more and leave room to count, got {options.first_train_id}"
    if not (math.isfinite(options.rate_hz) and options.rate_hz >= 0):
        yield f"rate_hz must be 0 (as fast as possible) or more, got {options.rate_hz}"
    if options.trains is not None and options.trains < 0:
        yield f"trains must be 0 or more, got {options.trains}"
    if not 0 <= options.evenness <= 1:
        yield f"evenness must be 0 to 1, got {options.evenness}"
    if not options.shape or min(options.shape) < 1:
        yield f"shape must have positive axes, got {options.shape}"
    if options.dtype not in NOISE_DTYPES:
        yield f"dtype: expected one of {', '.join(NOISE_DTYPES)}, got {options.dtype!r}"
    kinds = {fault.kind for fault in parse_schedule(options.misbehave).faults}
    if "nan" in kinds and not _is_float(options):
        yield "misbehaviour nan needs float data: kind diffraction, or noise with a float dtype"
    if "module" in kinds and options.modules == 1:
        yield "misbehaviour module needs more than one module"
    if "content" in kinds and options.version == "1.0":
        yield "misbehaviour content needs version 2.x: 1.0 has no content types"


NOISE_DTYPES: Final = ("uint8", "uint16", "uint32", "int16", "int32", "float32", "float64")


def _is_float(options: SimulatorOptions) -> bool:
    return options.kind == "diffraction" or (options.kind == "noise" and options.dtype.startswith("float"))


@dataclass(frozen=True)
class Bank:
    """Events that are sent in turn. The first rows come again at the end, so that a train is one slice."""

    # [row, ...] of one module; module m shows row + m * shift.
    frames: Array
    # truth.RECORD [row], without ids and marks.
    records: Array
    # Pulse energy, uJ, f4 [row].
    energy_uj: Array
    # Different rows, and the distance of two modules in rows.
    rows: int
    shift: int


def make_bank(options: SimulatorOptions) -> Bank:
    """Simulate the events and their truth."""
    events, label = _MAKERS[options.kind](options)
    rows, shift = len(events), len(events) // options.modules
    crc = checksums(_modules_of(events, shift, options.modules))
    records = np.zeros(rows, RECORD)
    records["label"], records["crc"], records["row"] = label, crc, np.arange(rows)
    records["sent"] = OFFERED
    spread = np.random.default_rng(options.seed).gamma(XGM_SHAPE, XGM_MEAN_UJ / XGM_SHAPE, rows)
    wrapped = np.arange(rows + options.pulses) % rows
    return Bank(events[wrapped], records[wrapped], spread.astype(np.float32)[wrapped], rows, shift)


def _modules_of(events: Array, shift: int, modules: int) -> Iterator[Array]:
    """Each event as all its modules show it, [module, ...]."""
    for row in range(len(events)):
        yield events[(row + shift * np.arange(modules)) % len(events)]


def _droplets(options: SimulatorOptions) -> tuple[Array, Array]:
    from models.simulation import nanodroplets  # physics takes long to import and only this kind needs it

    droplets = nanodroplets.simulate(options.bank_events, options.seed, evenness=options.evenness)
    bits = np.uint32(1) << np.arange(droplets.labels.shape[1], dtype=np.uint32)
    return droplets.images, (droplets.labels * bits).sum(axis=1, dtype=np.uint32)


def _diffraction(options: SimulatorOptions) -> tuple[Array, Array]:
    from models.simulation import diffractograms  # as above

    curves = diffractograms.simulate(options.bank_events, options.seed, NO_SAMPLE_SHARE)
    return curves.intensity, np.uint32(1) << curves.phase.astype(np.uint32)


def _noise(options: SimulatorOptions) -> tuple[Array, Array]:
    dtype = np.dtype(options.dtype)
    event_bytes = int(np.prod(options.shape)) * dtype.itemsize
    rows = max(1, min(options.bank_events, NOISE_BANK_BYTES // event_bytes))
    generator = np.random.default_rng(options.seed)
    if dtype.kind == "f":
        events = generator.standard_normal((rows, *options.shape), np.float32).astype(dtype)
    else:
        # Full range of the lower 15 bits: counts, and no negative ones.
        top = min(np.iinfo(dtype).max, 2**15 - 1)
        events = generator.integers(0, top, (rows, *options.shape), dtype, endpoint=True)
    return events, np.zeros(rows, np.uint32)


_MAKERS: Final[dict[str, Callable[[SimulatorOptions], tuple[Array, Array]]]] = {
    "droplets": _droplets,
    "diffraction": _diffraction,
    "noise": _noise,
}
# Name of the detector, name of its only module, key group and key of the frames.
_NAMES: Final = {
    "droplets": ("SIM_DET_DROPLETS", "CAM:output", "image", "data"),
    "diffraction": ("SIM_DET_DIFF", "LAMBDA:output", "data", "intensity"),
    "noise": ("SIM_DET_NOISE", "CAM:output", "image", "data"),
}


def detector_sources(kind: Kind, modules: int = 1) -> tuple[str, ...]:
    """The names of the sources that carry frames, in the order of modules."""
    detector, only, _, _ = _NAMES[kind]
    if modules == 1:
        return (f"{detector}/DET/{only}",)
    return tuple(f"{detector}/DET/{module}CH0:xtdf" for module in range(modules))


def frames_key(kind: Kind) -> str:
    """The key of the frames in each of them."""
    return f"{_NAMES[kind][2]}.{_NAMES[kind][3]}"


class Trains:
    """Makes train number `index` from the bank; costs no work per pulse."""

    def __init__(self, options: SimulatorOptions, bank: Bank) -> None:
        self._bank, self._pulses, self._first_train_id = bank, options.pulses, options.first_train_id
        self._detectors = detector_sources(options.kind, options.modules)
        self._group, self._key = _NAMES[options.kind][2], frames_key(options.kind)
        self._pulse_id = np.arange(options.pulses, dtype=np.uint64)
        self._names = (*self._detectors, XGM_SOURCE, MOTOR_SOURCE)
        self.train_bytes = bank.frames[0].nbytes * options.pulses * options.modules + OVERHEAD_BYTES

    def train(self, index: int) -> SimTrain:
        train_id, row = self._first_train_id + index, index * self._pulses % self._bank.rows
        rows = self._bank.records[row : row + self._pulses].copy()
        rows["train_id"], rows["pulse_id"] = train_id, self._pulse_id
        now_ns = time.time_ns()
        metadata = {name: stamp(name, train_id, now_ns) for name in self._names}
        sources = self._sources(index, train_id, row, now_ns)
        return SimTrain(train_id, sources, metadata, self._detectors, self._key, rows)

    def _sources(self, index: int, train_id: int, row: int, now_ns: int) -> Sources:
        bank, pulses = self._bank, self._pulses
        ids = {
            f"{self._group}.pulseId": self._pulse_id,
            f"{self._group}.trainId": np.full(pulses, train_id, np.uint64),
        }
        sources: Sources = {
            XGM_SOURCE: {XGM_KEY: bank.energy_uj[row : row + pulses]},
            MOTOR_SOURCE: {MOTOR_KEY: index * MOTOR_STEP_MM, "actualPosition.timestamp": now_ns / 1e9},
        }
        for module, name in enumerate(self._detectors):
            start = (row + module * bank.shift) % bank.rows
            sources[name] = {self._key: bank.frames[start : start + pulses], **ids}
        return sources
