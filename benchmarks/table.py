"""Numbers to lines: medians with their spread, the table on the terminal, the file with everything.

Owns the shape of both; knows nothing of what was measured.
"""

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.helper import ROOT
from streamer.pipeline import versions

QUANTILES: Final = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999}


@dataclass(frozen=True)
class Measured:
    """The median of repeated measurements, with the smallest and the largest."""

    median: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Line:
    """One contender in one row of the table. `values` go to the file, `note` to the terminal."""

    row: str
    contender: str
    unit: str
    measured: Measured
    note: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


def measured(values: Sequence[float]) -> Measured:
    return Measured(statistics.median(values), min(values), max(values), len(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of runs that were neighbours in time."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def quantiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and p99.9 in milliseconds."""
    return {name: float(np.quantile(seconds, q)) * 1e3 for name, q in QUANTILES.items()}


def show(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"


def print_lines(lines: Sequence[Line]) -> None:
    """The table, as Markdown."""
    print(
        "\n| what | contender | median | min .. max | n | unit | beside it |\n|---|---|---|---|---|---|---|"
    )
    for line in lines:
        m = line.measured
        spread = f"{show(m.low)} .. {show(m.high)}"
        cells = (line.row, line.contender, f"**{show(m.median)}**", spread, str(m.n), line.unit, line.note)
        print(f"| {' | '.join(cells)} |")


# --- where it ran -----------------------------------------------------------------------------------


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "CPU implementer")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def hardware() -> dict[str, Any]:
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "gpu": _gpu(),
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _gpu() -> str | None:
    """As the driver names it; None without one."""
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def commit() -> str:
    """The commit that was measured, with `+` when files differ from it; `unknown` outside a repository."""
    try:
        git = ["git", "-C", str(ROOT)]
        name = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return name.stdout.decode().strip() + ("+" if changed.stdout.strip() else "")


def header() -> dict[str, Any]:
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
    }


def write(folder: Path, name: str, about: Mapping[str, Any], lines: Sequence[Line]) -> Path:
    """`folder`/`<date>-<cpu><name>.json`; the last run of a day stays."""
    cpu = re.sub(r"[^a-z0-9]+", "-", about["hardware"]["cpu"].lower()).strip("-")
    path = folder / f"{about['date'][:10]}-{cpu}{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, "lines": [asdict(line) for line in lines]}, indent=1) + "\n")
    return path
