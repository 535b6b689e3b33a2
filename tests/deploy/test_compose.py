"""The compose file, the Kubernetes example and the Slurm script: paths, ports, images, names, commands."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from streamer import config
from streamer.cli import app
from streamer.pipeline import STAGES
from streamer.supervisor import START_S

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = "xfel-streamer:latest"
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group of click
STREAMS = config.load(DEPLOY / "config/compose.toml")


def mounts() -> list[tuple[str, str, str]]:
    """(service, what, where to) of every volume."""
    return [
        (name, *entry.split(":")[:2])
        for name, service in SERVICES.items()
        for entry in service.get("volumes", ())
    ]


def test_every_volume_is_a_path_or_declared() -> None:
    assert mounts()
    for service, what, _ in mounts():
        assert what.startswith("./") or what in COMPOSE["volumes"], f"{service}: {what}"


def test_every_file_that_is_mounted_from_here_is_read_only() -> None:
    for service in SERVICES.values():
        assert all(entry.endswith(":ro") for entry in service.get("volumes", ()) if entry.startswith("."))


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_reached_from_another_machine(name: str) -> None:
    assert "network_mode" not in SERVICES[name]
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port), port


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_ours_or_pinned_and_nothing_can_be_changed_inside(name: str) -> None:
    image = SERVICES[name]["image"]
    assert image == OURS or re.search(r":v?\d+\.\d+\.\d+$", image), image
    assert SERVICES[name]["read_only"] is True
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert "privileged" not in SERVICES[name]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"simulator"}))
def test_everything_that_serves_is_asked_whether_it_does(name: str) -> None:
    built = "build" in SERVICES[name]  # its health check stands in the container file
    assert built or SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_who_may_change_grafana_needs_a_password_that_has_no_default() -> None:
    variables = SERVICES["grafana"]["environment"]
    assert re.fullmatch(r"\$\{GRAFANA_ADMIN_PASSWORD:\?[^}]+\}", variables["GF_SECURITY_ADMIN_PASSWORD"])
    assert variables["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_the_context_is_the_clone_and_the_file_is_there() -> None:
    build = SERVICES["streamer"]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()


def test_commands_of_ours_are_commands() -> None:
    ours = {name: service for name, service in SERVICES.items() if service["image"] == OURS}
    assert set(ours) == {"simulator", "streamer"}
    assert all(service.get("command", ["run"])[0] in COMMANDS for service in ours.values())


def test_the_configuration_serves_the_ports_that_are_passed_on() -> None:
    passed = {int(port.split(":")[2]) for port in SERVICES["streamer"]["ports"]}
    endpoints = [end for stream in STREAMS.stream for end in config.bound(stream)]
    served = {int(end.rpartition(":")[2]) for end in endpoints}
    assert passed == served | {STREAMS.metrics.port, STREAMS.dashboard.port}
    assert {f"127.0.0.1:{STREAMS.dashboard.port}", f"localhost:{STREAMS.dashboard.port}"} <= set(
        STREAMS.dashboard.origins
    )


def test_the_configuration_writes_to_a_volume_and_reads_from_the_simulator() -> None:
    assert str(STREAMS.output.directory) in {where for name, _, where in mounts() if name == "streamer"}
    endpoint = SERVICES["simulator"]["command"][2]
    assert STREAMS.stream[0].source.endpoint == endpoint.replace("0.0.0.0", "simulator")


def test_there_is_more_memory_than_rings() -> None:
    limit = SERVICES["streamer"]["mem_limit"]
    assert limit.endswith("g")
    assert int(limit[:-1]) << 30 > 2 * sum(stream.ring_bytes for stream in STREAMS.stream)


def test_the_kubernetes_example_agrees() -> None:
    example = yaml.safe_load((DEPLOY / "kubernetes/streamer.yaml").read_text())
    pod = example["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert example["spec"]["replicas"] == 1
    assert pod["securityContext"]["runAsUser"] == 10001
    assert container["args"][0] in COMMANDS
    assert container["image"] == OURS
    live, start = container["livenessProbe"], container["startupProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] <= 30, (
        "it answers at once, also while a swap loads"
    )
    assert live["timeoutSeconds"] <= live["periodSeconds"]
    assert start["periodSeconds"] * start["failureThreshold"] > len(STAGES) * START_S
    declared = {volume["name"] for volume in pod["volumes"]}
    declared |= {claim["metadata"]["name"] for claim in example["spec"]["volumeClaimTemplates"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == declared
    assert str(pod["terminationGracePeriodSeconds"]) + "s" == SERVICES["streamer"]["stop_grace_period"]


def test_the_slurm_script_becomes_the_run(folder: Path) -> None:
    """Its shell, with a program in the streamer's place that says how it was called."""
    script = DEPLOY / "slurm/streamer.sbatch"
    assert script.stat().st_mode & stat.S_IXUSR
    fake = folder / "program"
    fake.write_text('#!/bin/sh\necho "$$ $XDG_RUNTIME_DIR $*"\n')
    fake.chmod(0o700)
    environment = os.environ | {"STREAMER": str(fake), "TMPDIR": str(folder)}
    done = subprocess.Popen(
        ["bash", script, "my config.toml"], env=environment, stdout=subprocess.PIPE, text=True
    )
    output, _ = done.communicate(timeout=20)
    pid, runtime, *words = output.splitlines()[-1].split(" ")
    assert int(pid) == done.pid, "Slurm's signal goes to this process"
    assert Path(runtime).stat().st_mode & 0o077 == 0
    assert words == ["run", "--next-run", "my", "config.toml"]
