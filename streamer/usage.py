"""What the machine says of our processes and of the output's disk, for the metrics.

Owns the reading of /proc and of the file system; counts nothing itself. A process that has ended leaves its
last numbers, so that a dead stage is no gap in a curve. Formats: proc(5).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from streamer.store.disk import free_bytes

TICKS_A_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """One process at one moment."""

    cpu_s: float = 0.0
    """Processor time since its start, user and system."""
    resident_bytes: int = 0
    """Memory in use, with what it has touched of the shared ring."""
    private_bytes: int = 0
    """The part of it that is its own: what grows if something leaks."""


@dataclass
class UsageReader:
    """Reads processes by the name of their stage, and remembers the last numbers of each."""

    last: dict[str, Usage] = field(default_factory=dict)

    def read(self, pids: Mapping[str, int]) -> dict[str, Usage]:
        """{stage: usage}; a pid of 0, or of a process that has ended, gives the last numbers there were."""
        for stage, pid in pids.items():
            now = usage(pid) if pid else None
            self.last[stage] = now or self.last.get(stage, Usage())
        return {stage: self.last[stage] for stage in pids}


def usage(pid: int) -> Usage | None:
    """What process `pid` uses; None if it is gone, or ended and not yet waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return None
    # The name in parentheses may hold spaces and parentheses; utime and stime are fields 14 and 15.
    fields = stat.rpartition(")")[2].split()
    sizes = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if "VmRSS" not in sizes:  # a zombie has no memory any more
        return None
    cpu_s = (int(fields[11]) + int(fields[12])) / TICKS_A_S
    return Usage(cpu_s, _bytes(sizes["VmRSS"]), _bytes(sizes.get("RssAnon", "0 kB")))


def _bytes(text: str) -> int:
    """`  1234 kB` in bytes."""
    return int(text.split()[0]) * 1024


def disk_free_bytes(folder: Path) -> int | None:
    """Free bytes where `folder` is or will be made; None if nobody can say."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return free_bytes(folder)
    except OSError:
        return None
