"""What is measured: the rows, what one contender gives for one of them, and how that becomes a line.

Knows no contender and starts no process.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Self, get_args

import numpy as np

from benchmarks.table import Line, Measured, measured, quantiles_ms, ratio, show

Network = Literal["cnn", "null"]
Events = Literal["frames", "spectra"]


@dataclass(frozen=True)
class Row:
    """Requests of one shape, at one rhythm."""

    name: str
    network: Network
    events: Events
    per_request: int
    # Requests that are under way at once; 0: an open loop at `rate_hz`.
    in_flight: int = 0
    rate_hz: float = 0.0

    @property
    def open(self) -> bool:
        return self.in_flight == 0

    @property
    def key(self) -> str:
        """What a file or a message calls it."""
        rhythm = f"{self.rate_hz:g}hz" if self.open else "full"
        return f"{self.network}-{self.events}-{self.per_request}-{rhythm}"


def _rows() -> Iterator[Row]:
    """Those of one network and one length of a train together: ours is started anew for another."""
    for network in get_args(Network):
        yield Row(f"{network}, one frame a request", network, "frames", 1, in_flight=64)
        yield Row(f"{network}, latency at 120 Hz", network, "frames", 1, rate_hz=120.0)
        yield Row(f"{network}, latency at 1 kHz", network, "frames", 1, rate_hz=1000.0)
        yield Row(f"{network}, trains of 32 frames", network, "frames", 32, in_flight=4)
    yield Row("null, 256 spectra a request", "null", "spectra", 256, in_flight=4)


# What a table says of a failure.
TEXT_CHARS: Final = 400
ROWS: Final = tuple(_rows())


@dataclass(frozen=True)
class Outcome:
    """What one contender did in one turn of one row."""

    events: int
    seconds: float
    cpu_us: float
    """Processor time of all its processes per event, us; the client's is not in it."""
    wrong: int
    missing: int
    latencies_s: Sequence[float] = ()
    remark: str = ""
    """What was different in this turn."""

    @classmethod
    def of(cls, answer: Mapping[str, float], cpu_s: float, latencies_s: Sequence[float] = ()) -> Self:
        """From a client's counts; `total` is what the processor time is for, warm-up included."""
        return cls(
            events=int(answer["events"]),
            seconds=answer["seconds"],
            cpu_us=1e6 * cpu_s / max(1.0, answer["total"]),
            wrong=int(answer["wrong"]),
            missing=int(answer["missing"]),
            latencies_s=latencies_s,
        )


@dataclass
class Series:
    """The turns of one contender in one row, or the reason why there are none."""

    row: Row
    contender: str
    outcomes: list[Outcome] = field(default_factory=list)
    failure: str = ""

    def fail(self, error: Exception) -> None:
        text = " ".join(f"{type(error).__name__}: {error}".split()).replace("|", "/")
        self.failure = (
            text if len(text) <= TEXT_CHARS else f"{text[: TEXT_CHARS // 2]} ... {text[-TEXT_CHARS // 2 :]}"
        )

    def line(self, floor: "Series | None") -> Line:
        """`floor` is the bare model of the same turns, if there is one."""
        if not self.outcomes:
            return Line(
                self.row.name, self.contender, "-", Measured(0.0, 0.0, 0.0, 0), f"NONE: {self.failure}"
            )
        line = self._latency() if self.row.open else self._rate(floor)
        lost = [
            f"{n} {what}" for n, what in ((self._sum("wrong"), "WRONG"), (self._sum("missing"), "MISSING"))
        ]
        bad = [text for text in lost if not text.startswith("0 ")]
        remarks = sorted({outcome.remark for outcome in self.outcomes if outcome.remark})
        failed = [f"a turn failed: {self.failure}"] if self.failure else []
        note = "; ".join([line.note, *(bad or ["every answer right"]), *remarks, *failed])
        values = dict(line.values) | {"wrong": self._sum("wrong"), "missing": self._sum("missing")}
        return Line(line.row, line.contender, line.unit, line.measured, note, values)

    def _rate(self, floor: "Series | None") -> Line:
        rates = [outcome.events / outcome.seconds for outcome in self.outcomes]
        values = {"cpu_us": measured([outcome.cpu_us for outcome in self.outcomes]).median}
        note = f"CPU {show(values['cpu_us'])} us/event"
        if floor is not None and len(floor.outcomes) == len(rates) and min(rates) > 0:
            alone = [outcome.events / outcome.seconds for outcome in floor.outcomes]
            values["of_model_alone"] = ratio(rates, alone)
            note = f"{values['of_model_alone']:.2f} x model alone, {note}"
        return Line(self.row.name, self.contender, "events/s", measured(rates), note, values)

    def _latency(self) -> Line:
        every = [s for outcome in self.outcomes for s in outcome.latencies_s]
        values = quantiles_ms(every) if every else {}
        medians = measured([float(np.median(o.latencies_s or [np.nan])) * 1e3 for o in self.outcomes])
        note = ", ".join(f"{name.replace('_', '.')} {show(value)}" for name, value in values.items())
        note += f" of {len(every)}, CPU {show(measured([o.cpu_us for o in self.outcomes]).median)} us/event"
        return Line(self.row.name, self.contender, "ms (p50)", medians, note, values | {"n": len(every)})

    def _sum(self, name: str) -> int:
        return sum(int(getattr(outcome, name)) for outcome in self.outcomes)
