"""The demonstration: a simulated beamline, the whole pipeline with the shipped bundles, and what comes out.

Owns the configuration of the demo and the child processes that play the facility. Nothing in the pipeline
knows that it is a demo: the events come over the real wire format from other processes.
"""

import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from streamer.config import RunConfig, parse

# Rates that two cores hold beside a browser: 160 frames and 100 spectra a second.
TEMPLATE = """
[output]
directory = "{directory}"
segment_bytes = 16777216
reserve_bytes = 268435456

[metrics]
port = {metrics_port}

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
when = "p.Streak > 0.5 and not p.Empty > 0.5"
[[stream.route]]
name = "newton_rings"
when = "p.NewtonRings > 0.5"
[[stream.route]]
name = "sample"
one_in = 100

[[stream]]
name = "diffraction"
bundles = ["diffraction_ednn"]
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

# The middle of the phase transition: the 220 line has lost part of its height, not all.
TRANSITION = "target.height_220 > 0.2 and target.height_220 < 0.8"

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


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def prepare(directory: Path) -> Demo:
    """The demo with free ports, storing below `directory`."""
    ports = {name: f"tcp://127.0.0.1:{free_port()}" for name in ENDPOINTS}
    text = TEMPLATE.format(directory=directory, metrics_port=0, transition=TRANSITION, **ports)
    config = parse(text, "demo")
    runs = [int(folder.name[1:]) for folder in directory.glob("r[0-9][0-9][0-9][0-9]")]
    config = config.model_copy(update={"run": max(runs, default=0) + 1})
    simulator = [sys.executable, "-m", "streamer.simulator", "--endpoint"]
    return Demo(
        config,
        [
            [*simulator, ports["droplets"], "--kind", "droplets", "--pulses", "16", "--evenness", "0.3"],
            [*simulator, ports["diffraction"], "--kind", "diffraction", "--pulses", "10"],
        ],
    )


class Simulators:
    """The facility's processes; leaving ends them."""

    def __init__(self, commands: Sequence[Sequence[str]], output: IO[bytes]) -> None:
        self._commands, self._output = commands, output
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Simulators":
        for command in self._commands:
            process = subprocess.Popen(list(command), stdout=self._output, stderr=self._output)
            self._processes.append(process)
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
