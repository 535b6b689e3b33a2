"""The demonstration: a simulated beamline, the whole pipeline with the shipped bundles, and what comes out.

Owns the configuration of the demo and the child processes that play the facility. Nothing in the pipeline
knows that it is a demo: the events come over the real wire format from other processes.
"""

import os
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streamer.config import RunConfig, numbered, parse
from streamer.errors import ConfigError
from streamer.sockets import free_port
from streamer.supervisor import Child

# Rates that two cores hold beside a browser: 160 frames and 100 spectra a second.
TEMPLATE = """
[output]
directory = "{directory}"
segment_bytes = 16777216
reserve_bytes = 268435456

[metrics]
port = {metrics_port}

[dashboard]
port = {page_port}

[[stream]]
name = "droplets"
bundles = ["droplet_cnn", "droplet_vae"]
attach = ["pulse_energy_uj = SIM_XGM/XGM/DOOCS:output data.intensityTD"]
ring_bytes = 67108864
[stream.source]
endpoint = "{droplets}"
source = "SIM_DET_DROPLETS/DET/CAM:output"
key = "image.data"
pulse_key = "image.pulseId"
axes = "pulse slow fast"
shape = [128, 128]
dtype = "uint16"
[stream.publish]
results = "{droplets_results}"
verdicts = "{droplets_verdicts}"
[[stream.route]]
name = "streaks"
when = "p.Streak >= calibrated.Streak"
[[stream.route]]
name = "newton_rings"
when = "p.NewtonRings > 0.5"
[[stream.route]]
name = "novel"
when = "log_likelihood < -3.3"
[[stream.route]]
name = "sample"
one_in = 100

[[stream]]
name = "diffraction"
bundles = ["diffraction_ednn", "spectra_cnn"]
ring_bytes = 67108864
[stream.source]
endpoint = "{diffraction}"
source = "SIM_DET_DIFF/DET/LAMBDA:output"
key = "data.intensity"
pulse_key = "data.pulseId"
axes = "pulse bin"
shape = [4023]
dtype = "float32"
[stream.publish]
results = "{diffraction_results}"
verdicts = "{diffraction_verdicts}"
[[stream.route]]
name = "transition"
when = "{transition}"
[[stream.route]]
name = "sample"
one_in = 100
"""

# The simulation of the events takes some seconds; on a busy machine some ten.
READY_S = 120.0
SERVING = b"serving "

# The middle of the phase transition: there is a sample, and its 220 line has lost part of its height.
TRANSITION = "p.no_sample < 0.5 and target.height_220 > 0.2 and target.height_220 < 0.8"

# 256 different images take some 2 s to simulate; rare shapes are shown more often than they were measured.
DROPLETS = ("--kind", "droplets", "--pulses", "16", "--bank", "256", "--evenness", "0.3")
DIFFRACTION = ("--kind", "diffraction", "--pulses", "10")

ENDPOINTS = (
    "droplets",
    "diffraction",
    "droplets_results",
    "droplets_verdicts",
    "diffraction_results",
    "diffraction_verdicts",
)


@dataclass(frozen=True)
class Demo:
    """A demo's configuration and the argument lists of its simulators."""

    config: RunConfig
    simulators: Sequence[Sequence[str]]

    @property
    def results(self) -> list[str]:
        return [stream.publish.results for stream in self.config.stream if stream.publish.results]


def prepare(directory: Path, control: str = "") -> Demo:
    """The demo with free ports, storing below `directory`; `control`: its socket, if not the usual one."""
    ports = {name: f"tcp://127.0.0.1:{free_port()}" for name in ENDPOINTS}
    own = {"directory": directory, "metrics_port": 0, "page_port": free_port(), "transition": TRANSITION}
    text = TEMPLATE.format(**own, **ports)
    config = numbered(parse((f'control = "{control}"\n' if control else "") + text, "demo"))
    simulator = [sys.executable, "-m", "streamer.facility.simulator", "--endpoint"]
    return Demo(
        config,
        [
            [*simulator, ports["droplets"], *DROPLETS],
            [*simulator, ports["diffraction"], *DIFFRACTION],
        ],
    )


def show(url: str, page: Child, open_browser: bool) -> None:
    """Open the live page in the user's browser, if there is a screen, when it is ready."""
    if not open_browser or not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return

    def wait_and_open() -> None:
        end_s = time.monotonic() + READY_S
        while not page.up and time.monotonic() < end_s:
            time.sleep(0.1)  # a wait for another process, bounded above
        webbrowser.open(url)

    threading.Thread(target=wait_and_open, daemon=True).start()


class Simulators:
    """The facility's processes, each with its log in `folder`; leaving ends them."""

    def __init__(self, commands: Sequence[Sequence[str]], folder: Path) -> None:
        self._commands = commands
        self._logs = [folder / f"simulator{number}.log" for number in range(len(commands))]
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Simulators":
        for command, path in zip(self._commands, self._logs, strict=True):
            with path.open("wb") as lines:
                self._processes.append(subprocess.Popen(list(command), stdout=lines, stderr=lines))
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def wait_ready(self) -> None:
        """Until each has simulated its events and serves them. Raises ConfigError when one ends before."""
        end_s = time.monotonic() + READY_S
        for process, path in zip(self._processes, self._logs, strict=True):
            while SERVING not in path.read_bytes():
                if process.poll() is not None or time.monotonic() > end_s:
                    raise ConfigError(
                        f"the simulator does not serve: {path.read_text(errors='replace')[-500:]}"
                    )
                time.sleep(0.05)  # a wait for another process, bounded above
