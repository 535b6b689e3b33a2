"""python -m benchmarks.peers: ours and its peers in turns, one table, one file.

--only PEER      one contender beside the model alone; may be given several times
--quick          one short turn: proves that they run, measures nothing
--repeats N      turns of all contenders (3)
--seconds S      measuring time of one contender in one row (2)
--output FOLDER  where the file goes (benchmarks/results; --quick writes none unless this is given)

The first run installs the peers under .peers, which needs a package index.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.helper import ROOT, Helper
from benchmarks.peers.contender import Contender, Measure, Setting
from benchmarks.peers.environments import versions_of
from benchmarks.peers.pvapy import PVAPY
from benchmarks.peers.rows import ROWS, Outcome, Row, Series
from benchmarks.peers.served import BARE, PEERS, http_contender
from benchmarks.peers.streamed import KARABO, OURS, mode_of_pipeline
from benchmarks.table import Line, header, print_lines, write

CONTENDERS: Final[dict[str, Contender]] = {
    "ours": OURS,
    "bare": BARE,
    "karabo": KARABO,
    "pvapy": PVAPY,
    **{peer.module: http_contender(peer) for peer in PEERS},
}
QUICK_S: Final = 0.3
WARM_S: Final = 0.3
ALONE: Final = "model alone, batches of 32"


@dataclass
class Run:
    """All series of a run, by row and contender."""

    setting: Setting
    series: dict[tuple[Row, str], Series] = field(default_factory=dict)

    def turn(self, contender: Contender) -> None:
        """Every row of one contender once. What goes wrong there is a line of the table, not the end."""
        rows = [row for row in ROWS if contender.runs(row)]
        start_s = time.monotonic()
        try:
            with contender.start(self.setting) as measure:
                while rows:
                    self.of(rows[0], contender).outcomes.append(measure(rows[0]))
                    rows.pop(0)
        except Exception as error:
            for row in rows:
                self.of(row, contender).fail(error)
        print(f"{contender.name}: {time.monotonic() - start_s:.0f} s", file=sys.stderr, flush=True)

    def of(self, row: Row, contender: Contender) -> Series:
        return self.series.setdefault((row, contender.name), Series(row, contender.name))

    def lines(self) -> Iterator[Line]:
        """Row by row; the turns of the model alone are the floor of its row."""
        for row in ROWS:
            found = [series for (of, _), series in self.series.items() if of == row]
            for series in found:
                yield series.line(self.series.get((row, ALONE)))


def _alone(helper: Helper) -> Contender:
    """The floor: its process lives as long as the run, because it made the inputs."""

    @contextmanager
    def start(setting: Setting) -> Iterator[Measure]:
        def measure(_: Row) -> Outcome:
            done = helper.ask({"seconds": setting.seconds})
            counts = {"total": done["events"], "wrong": 0, "missing": 0}
            return Outcome.of(done | counts, done["cpu_s"])

        yield measure

    return Contender(ALONE, "", start, lambda row: row.network == "cnn" and not row.open)


def _installed(names: Sequence[str]) -> Iterator[tuple[Contender, str]]:
    """Each contender, with the reason why it cannot be had here or ''."""
    for name in names:
        try:
            CONTENDERS[name].install()
        except Exception as error:
            yield CONTENDERS[name], f"not installed: {error}"
        else:
            yield CONTENDERS[name], ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="Ours beside its peers.")
    parser.add_argument(
        "--only", action="append", choices=CONTENDERS, metavar="PEER", help=", ".join(CONTENDERS)
    )
    parser.add_argument("--quick", action="store_true", help="one short turn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--output", type=Path, default=None)
    return parser.parse_args()


def _run(names: Sequence[str], folder: Path, seconds: float, repeats: int) -> Run:
    """All turns: A, B, C, A, B, C ..."""
    setting = Setting(folder, mode_of_pipeline(), seconds, WARM_S)
    run, contenders = Run(setting), []
    for contender, problem in _installed(names):
        contenders += [] if problem else [contender]
        for row in filter(contender.runs, ROWS if problem else ()):
            run.of(row, contender).failure = problem
    with Helper("benchmarks.peers.alone", {"folder": str(folder), "mode": setting.mode}) as helper:
        for _ in range(repeats):
            for contender in (_alone(helper), *contenders):
                run.turn(contender)
    return run


def main() -> int:
    arguments = _arguments()
    repeats, seconds = (1, QUICK_S) if arguments.quick else (arguments.repeats, arguments.seconds)
    names = arguments.only or list(CONTENDERS)
    about = header()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        run = _run(names, Path(folder), seconds, repeats)
    about |= {"mode": run.setting.mode, "peers": versions_of(), "turns": repeats, "seconds": seconds}
    hardware = about["hardware"]
    load = f"load {hardware['load_before']} before"
    print(
        f"{about['date']}, commit {about['commit']}, {hardware['cpu']}, {hardware['cores']} cores, "
        f"{hardware['memory_gib']} GiB, {load}; {repeats} turns of {seconds:g} s; "
        f"droplet_cnn in {run.setting.mode}, one thread; {', '.join(about['peers'])}"
    )
    lines = list(run.lines())
    print_lines(lines)
    print("\n" + "\n".join(f"- {one.name}: {one.note}" for one in map(CONTENDERS.__getitem__, names)))
    output = arguments.output or (None if arguments.quick else ROOT / "benchmarks" / "results")
    if output is not None:
        print(f"\nwritten to {write(output, '-peers', about, lines)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
