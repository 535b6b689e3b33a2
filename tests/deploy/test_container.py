"""The container file: what it copies exists, what it starts is a command, its ports are the defaults."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main

from streamer.cli import app
from streamer.config import DashboardConfig, MetricsConfig, parse
from streamer.pipeline import STAGES
from streamer.supervisor import START_S

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy/Containerfile"
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group of click


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) in order; continued lines joined, comments left out."""
    text = "".join(line for line in FILE.read_text().splitlines(True) if not line.startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(None, 1)[1].strip()) for line in joined if line.strip()]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def last_stage() -> list[tuple[str, str]]:
    steps = instructions()
    start = max(index for index, (name, _) in enumerate(steps) if name == "FROM")
    return steps[start:]


def sources() -> list[str]:
    """What is copied from the clone."""
    copied = [shlex.split(rest) for rest in of("COPY")]
    return [source for words in copied if not words[0].startswith("--from") for source in words[:-1]]


def test_every_instruction_is_one() -> None:
    known = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL"}
    assert {name for name, _ in instructions()} <= known | {"HEALTHCHECK", "ENTRYPOINT", "CMD"}


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    allowed = [line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line[:1] == "!"]
    assert sources()
    for source in sources():
        assert (ROOT / source).exists(), source
        assert source.removeprefix("./").rstrip("/") in allowed, f"{source} is left out by .containerignore"


def test_podman_and_docker_ignore_the_same() -> None:
    assert (ROOT / ".containerignore").read_text() == (ROOT / ".dockerignore").read_text()


def test_everything_that_the_package_is_built_from_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    assert packages | {"pyproject.toml", "constraints.txt", project["project"]["readme"]} <= set(sources())


def test_the_extras_it_installs_exist_and_every_install_is_pinned() -> None:
    extras = re.findall(r"EXTRAS=([a-z,]+)", FILE.read_text())
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras
    assert {name for words in extras for name in words.split(",")} <= set(known)
    installs = [rest for rest in of("RUN") if "pip install" in rest]
    assert installs
    assert all("--constraint constraints.txt" in rest for rest in installs)


def test_the_base_has_a_tag_and_a_python_that_serves() -> None:
    [base] = [rest.partition("=")[2] for rest in of("ARG") if rest.startswith("BASE=")]
    version = re.fullmatch(r"docker\.io/library/python:(\d+)\.(\d+)-slim-\w+", base)
    assert version, base
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f">={version[1]}.{version[2]}" == project["requires-python"]
    assert set(of("FROM")) == {"${BASE} AS build", "${BASE}"}


def test_the_entry_point_the_command_and_the_health_check_are_commands_of_ours() -> None:
    [entry], [command], [health] = of("ENTRYPOINT"), of("CMD"), of("HEALTHCHECK")
    words = [*json.loads(entry), *json.loads(command)]
    assert words[0] in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    asked = json.loads(health.partition("CMD")[2])
    assert asked[0] == words[0]
    for name, *arguments in (words[1:], asked[1:]):
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("--")} <= options, name


def test_a_run_that_does_not_answer_is_seen_soon_and_one_that_starts_is_not_ill() -> None:
    [health] = of("HEALTHCHECK")
    said = {name: int(value) for name, value in re.findall(r"--([a-z-]+)=(\d+)s?", health)}
    assert said["interval"] * said["retries"] <= 30
    assert said["timeout"] <= said["interval"]
    assert said["start-period"] > len(STAGES) * START_S


def test_the_ports_are_the_defaults_of_the_configuration() -> None:
    source = 'endpoint="tcp://h:1"\nsource="s"\nkey="k"\naxes="bin"\nshape=[4]\ndtype="uint8"\n'
    text = "".join(f'[[stream]]\nname = "{name}"\n[stream.source]\n{source}' for name in "ab")
    published = [s.publish for s in parse(text, "defaults").stream]
    ports = {
        int(end.rpartition(":")[2]) for publish in published for end in (publish.results, publish.verdicts)
    }
    [exposed] = of("EXPOSE")
    assert set(map(int, exposed.split())) == ports | {MetricsConfig().port, DashboardConfig().port}


def test_nothing_is_left_that_reports_to_somebody() -> None:
    """OpenVINO's telemetry looks a host up when it is imported; OpenVINO runs without it."""
    code = "import sys; sys.modules['openvino_telemetry'] = None; import openvino"
    removed = [rest for rest in of("RUN") if "pip uninstall" in rest]
    assert any("openvino-telemetry" in rest for rest in removed)
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    assert subprocess.run([sys.executable, "-c", code], timeout=50).returncode == 0


def test_it_runs_as_nobody_special_and_drains_when_stopped() -> None:
    names = [name for name, _ in last_stage()]
    assert of("USER") == ["10001:10001"]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name == "RUN")
    assert of("STOPSIGNAL") == ["SIGTERM"]
    assert not [rest for name, rest in last_stage() if name == "RUN" and ("apt" in rest or "pip" in rest)]


@pytest.mark.skipif(sys.platform != "linux", reason="memfd_create is Linux's")
def test_shared_memory_needs_no_dev_shm() -> None:
    """Why no --shm-size is asked for: rings are memfds, which no mounted file system bounds."""
    import os

    from streamer import memory

    fd = memory.create("streamer-test", 1 << 20)
    try:
        assert os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:")
    finally:
        os.close(fd)
