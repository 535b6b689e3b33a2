"""python -m benchmarks: every row once, one table, one file.

--quick          the ends of every row once, short: proves that they run, measures nothing
--only ROW       floors, ingest, events, null or latency; may be given several times
--repeats N      turns of all contenders (5)
--seconds S      measuring time of one contender in one turn (2)
--output FOLDER  where the file goes (benchmarks/results; --quick writes none unless this is given)
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks import events, floors, ingest, latency
from benchmarks.config import Options
from benchmarks.helper import ROOT
from benchmarks.table import Line, header, print_lines, write

ROWS: Final[dict[str, Callable[[Options], Iterator[Line]]]] = {
    "floors": floors.rows,
    "ingest": ingest.rows,
    "events": events.rows,
    "null": events.null_rows,
    "latency": latency.rows,
}
QUICK: Final = Options(repeats=1, seconds=0.2, warm_s=0.0, every_load=False)
WARM_S: Final = 0.3


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure this machine.")
    parser.add_argument("--quick", action="store_true", help="one short repeat of every row")
    parser.add_argument("--only", action="append", choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--output", type=Path, default=None)
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    options = QUICK if arguments.quick else Options(arguments.repeats, arguments.seconds, WARM_S)
    about = header() | {"options": asdict(options)}
    lines: list[Line] = []
    for name in arguments.only or ROWS:
        start_s = time.monotonic()
        lines += ROWS[name](options)
        print(f"{name}: {time.monotonic() - start_s:.0f} s", file=sys.stderr)
    hardware = about["hardware"]
    print(
        f"{about['date']}, commit {about['commit']}, {hardware['cpu']}, {hardware['cores']} cores, "
        f"{hardware['memory_gib']} GiB, GPU {hardware['gpu']}, load {hardware['load_before']} before; "
        f"{options.repeats} turns of {options.seconds:g} s"
    )
    print_lines(lines)
    output = arguments.output or (None if arguments.quick else ROOT / "benchmarks" / "results")
    if output is not None:
        print(f"\nwritten to {write(output, '', about, lines)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
