"""Ways to run the networks of a stream on a CPU, and the choice among them by measurement.

Owns how an engine is checked and timed, and the rule of choice. The engines are in `engines.plain` and
`engines.openvino`, what keeps a NaN from the latter in `engines.guard`, the batches in `runner`. Why these
engines and this rule: docs/decisions/cpu-inference.md.
"""

import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from models.bundle import BFLOAT16, FLOAT32, Bundle, Tolerance, verify_golden
from models.manifest import BundleError
from streamer.engines.guard import Guarded, always_masked
from streamer.engines.plain import MODES, Engine, Events, Run, TorchEngine, engine_clock

log = logging.getLogger(__name__)

# The largest batch that is prepared: behind it no shipped bundle gains more than a tenth, and activations
# leave the cache.
LARGEST_EVENTS: Final = 64
# The full batch of a measurement: rates have levelled off there, and ten of them take a quarter of a second.
FULL_EVENTS: Final = 16
# Best of so many: what disturbs a measurement only makes it longer. The second bounds a slow network's time.
TRIALS: Final = 10
TRIAL_S: Final = 0.25
# bfloat16 must pay clearly before its rounding is taken.
MIN_GAIN: Final = 1.1
# A measurement repeats within about this share; what is as close is as good.
NEAR: Final = 0.95
# What an event may hold at its worst, as a share of what its type can: dark, saturated, far below zero. In
# floats a million is more than any detector counts.
EDGES: Final = (0.0, 1.0, -1.0)
EDGE_FLOAT: Final = 1e6


OPENVINO: Final = ("OpenVINO, float32", "OpenVINO, bfloat16")


def engines(networks: nn.Module, bundles: Sequence[Bundle]) -> list[Engine]:
    """All that can be tried here, the plain one first."""
    plain = TorchEngine(networks, exact=True)
    return [plain, TorchEngine(networks, exact=False), *_openvino(networks, bundles, plain)]


def _openvino(networks: nn.Module, bundles: Sequence[Bundle], plain: Engine) -> list[Engine]:
    try:
        if importlib.util.find_spec("openvino") is not None:
            return list(_found_openvino(networks, bundles, plain))
    except Exception as error:  # a broken installation costs itself only
        log.warning("OpenVINO is not used: %s", _short(error))
        return []
    log.info("OpenVINO is not installed: `pip install xfel-streamer[cpu]` if this CPU is to run networks")
    return []


def _found_openvino(networks: nn.Module, bundles: Sequence[Bundle], plain: Engine) -> Iterator[Engine]:
    from streamer.engines.openvino import OpenVinoEngine, OpenVinoSource, has_bfloat16

    manifest = bundles[0].manifest
    source = OpenVinoSource(networks, tuple(manifest.input_shape))
    may_hold_nan = np.dtype(manifest.input_dtype).kind == "f"
    for name, exact in zip(OPENVINO, (True, False), strict=True):
        if exact or has_bfloat16():  # without, it would compute in float32 and say nothing
            engine = OpenVinoEngine(source, name, exact, torch.get_num_threads())
            yield Guarded(engine, plain, always_masked(bundles)) if may_hold_nan else engine


@dataclass(frozen=True)
class Trial:
    """What an engine did: events per second one by one and in full batches."""

    name: str
    exact: bool
    single_hz: float
    full_hz: float


def choose(trials: Sequence[Trial]) -> Trial:
    """The highest rate in full batches; of those as near as a measurement repeats, the fastest one by one.

    One that computes in bfloat16 must be MIN_GAIN times as fast as the best in float32.
    """
    floor_hz = max(trial.full_hz for trial in trials if trial.exact) * MIN_GAIN
    admitted = [trial for trial in trials if trial.exact or trial.full_hz >= floor_hz]
    best_hz = max(trial.full_hz for trial in admitted)
    return max((t for t in admitted if t.full_hz >= NEAR * best_hz), key=lambda trial: trial.single_hz)


def fastest(networks: nn.Module, bundles: Sequence[Bundle], max_events: int) -> Engine:
    """The chosen engine, prepared. Raises BundleError if not even the plain one gives the golden answers."""
    full = min(max_events, FULL_EVENTS)
    plain, *others = engines(networks, bundles)
    check(plain, plain, bundles)
    trials = {plain: _trial(plain, bundles[0], full)}
    for engine in others:
        if trial := _try(engine, plain, bundles, full):
            trials[engine] = trial
    rates = "; ".join(
        f"{t.name} {t.single_hz:.0f}/s alone, {t.full_hz:.0f}/s by {full}" for t in trials.values()
    )
    chosen = _first_ready(trials, plain, bundles, max_events)
    log.info("CPU with %d threads: %s; chosen: %s", torch.get_num_threads(), rates, chosen.name)
    return chosen


def _first_ready(
    trials: dict[Engine, Trial], plain: Engine, bundles: Sequence[Bundle], max_events: int
) -> Engine:
    """The best engine that is right in every size that it will run; the plain one is."""
    while True:
        best = choose(list(trials.values()))
        engine = next(engine for engine, trial in trials.items() if trial is best)
        if engine is plain or _is_right(engine, plain, bundles, batch_sizes(max_events)):
            return engine
        del trials[engine]


def named(name: str, networks: nn.Module, bundles: Sequence[Bundle], max_events: int) -> Engine:
    """The engine of this name, prepared and checked. Raises ValueError if it is not to be had here."""
    found = {engine.name: engine for engine in engines(networks, bundles)}
    if name not in found:
        raise ValueError(f"engine: expected one of {sorted(found)}, got {name!r}")
    found[name].prepare(batch_sizes(max_events))
    check(found[name], found[MODES[0]], bundles)
    return found[name]


def batch_sizes(max_events: int) -> list[int]:
    """Sizes to prepare: alone, then in steps of four, as each costs part of a second, up to a full batch."""
    largest = min(max_events, LARGEST_EVENTS)
    return [size for size in (1, 4, FULL_EVENTS) if size < largest] + [largest]


def _try(engine: Engine, plain: Engine, bundles: Sequence[Bundle], full: int) -> Trial | None:
    """None, with the reason in the log, if it cannot run these networks or answers wrongly."""
    if _is_right(engine, plain, bundles, [1]) and _is_right(engine, plain, bundles, [1, full]):
        return _trial(engine, bundles[0], full)
    return None


def _is_right(engine: Engine, plain: Engine, bundles: Sequence[Bundle], sizes: Sequence[int]) -> bool:
    """Whether it can be prepared for these sizes, and is right in each; if not, the log says why."""
    try:
        engine.prepare(sizes)
        check(engine, plain, bundles)
    except Exception as error:  # whatever an engine raises, it costs only that engine
        log.warning("%s is not used: %s", engine.name, _short(error))
        return False
    return True


def _short(error: Exception) -> str:
    return (str(error).strip() or repr(error)).replace("\n", " ")[:400]


def _trial(engine: Engine, bundle: Bundle, full: int) -> Trial:
    return Trial(engine.name, engine.exact, _rate_hz(engine, bundle, 1), _rate_hz(engine, bundle, full))


def _rate_hz(engine: Engine, bundle: Bundle, n: int) -> float:
    """Events per second in batches of n."""
    raw = bundle.golden_input.numpy()
    events = np.resize(raw, (n, *raw.shape[1:]))
    return n / _best_s(lambda: engine.run(events))


def _best_s(run: Callable[[], Any]) -> float:
    """Best time of a call, s; the first one warms up and is left out."""
    clock = engine_clock()
    run()
    best_s, begin_s = float("inf"), clock()
    for _ in range(TRIALS):
        start_s = clock()
        run()
        best_s = min(best_s, clock() - start_s)
        if clock() - begin_s > TRIAL_S:
            break
    return best_s


# --- right or wrong -------------------------------------------------------------------------------------


def check(engine: Engine, plain: Engine, bundles: Sequence[Bundle]) -> None:
    """Raises BundleError unless every bundle gives its golden answers, and no answer is finite where the
    plain engine's is not: that an event cannot be classified must not be lost on the way.
    """
    for run in engine.forms():
        _check_golden(engine, run, bundles)
    _check_edges(engine, plain, bundles[0])


def _check_golden(engine: Engine, run: Run, bundles: Sequence[Bundle]) -> None:
    tolerance: Tolerance = FLOAT32 if engine.exact else BFLOAT16
    start = 0
    for bundle in bundles:
        columns = slice(start, start + bundle.manifest.packed_width)

        def part(raw: Tensor, columns: slice = columns) -> Tensor:
            return torch.from_numpy(run(raw.numpy())[:, columns])

        verify_golden(bundle, part, tolerance, f"{bundle.manifest.name} in {engine.name}")
        start = columns.stop


def _check_edges(engine: Engine, plain: Engine, bundle: Bundle) -> None:
    edges = edge_events(bundle)
    lost = np.isfinite(engine.run(edges)) & ~np.isfinite(plain.run(edges))
    if lost.any():
        raise BundleError(
            f"{engine.name}: expected numbers that are not finite, as torch gives for extreme events of "
            f"{bundle.manifest.name}, got finite ones in columns {np.flatnonzero(lost.any(0)).tolist()}; "
            "this engine cannot run these networks"
        )


def edge_events(bundle: Bundle) -> Events:
    """The extreme events, float32 [B, *event]; NaN and infinity among them where the input can hold them."""
    dtype, shape = np.dtype(bundle.manifest.input_dtype), tuple(bundle.manifest.input_shape)
    most = EDGE_FLOAT if dtype.kind == "f" else float(np.iinfo(dtype).max)
    values = [share * most for share in EDGES if share >= 0 or dtype.kind != "u"]
    edges = [np.full(shape, value, np.float32) for value in values]
    for value in (np.nan, np.inf) if dtype.kind == "f" else ():
        event = bundle.golden_input[0].numpy().astype(np.float32)
        event.flat[event.size // 2] = value
        edges.append(event)
    return np.stack(edges)
