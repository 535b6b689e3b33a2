"""Each peer's environment: .peers/NAME, with what it needs and we do not.

A virtual environment of its own, with one .pth line that names our site-packages: torch, numpy and pyzmq are
shared, so that every contender runs the same, and a peer's packages never reach ours. A second start finds
it as it is. Owns no process of a peer.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

from benchmarks.helper import ROOT

FOLDER: Final = ROOT / ".peers"
REQUIREMENTS: Final = Path(__file__).parent / "requirements"
# Ray is 400 MB; a slow line needs minutes.
INSTALL_S: Final = 600.0
# PyTriton's stub is linked with the system's libpython3.11 and fails under another build of Python: its
# environment is made from the interpreter that Debian ships.
SYSTEM_PYTHON: Final = Path("/usr/bin/python3")
WITH_SYSTEM_PYTHON: Final = ("triton",)


class NotInstalledError(Exception):
    """A peer cannot be had on this machine; the text says why."""


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, made now if it is not there. Raises NotInstalledError."""
    folder, pins = FOLDER / name, REQUIREMENTS / f"{name}.txt"
    python, mark = folder / "bin" / "python", folder / ".installed"
    # Both decide what is in it: the pins, and which of our packages are shared.
    wanted = hashlib.sha256(pins.read_bytes() + sys.version.encode() + _shared().encode()).hexdigest()
    if not (mark.is_file() and mark.read_text() == wanted):
        shutil.rmtree(folder, ignore_errors=True)
        _make(folder, _base(name))
        _install(python, pins, folder / "constraints.txt")
        mark.write_text(wanted)
    return python


def versions_of() -> list[str]:
    """The pins of all peers that are installed."""
    found = [REQUIREMENTS / f"{mark.parent.name}.txt" for mark in sorted(FOLDER.glob("*/.installed"))]
    return [line for pins in found if pins.is_file() for line in pins.read_text().split() if line]


def _shared() -> str:
    return sysconfig.get_path("purelib")


def _base(name: str) -> str:
    """NotInstalledError if the only interpreter that a peer runs on is of another version than ours."""
    if name not in WITH_SYSTEM_PYTHON:
        return str(Path(sys.executable).resolve())
    ask = "import sys; print(*sys.version_info[:2])"
    ours = f"{sys.version_info[0]} {sys.version_info[1]}"
    try:
        found = _run([str(SYSTEM_PYTHON), "-c", ask]).strip()
    except OSError as error:
        raise NotInstalledError(f"{name} needs {SYSTEM_PYTHON}: {error.strerror}") from error
    if found != ours:
        raise NotInstalledError(f"{name} needs {SYSTEM_PYTHON} of the version {ours}, got {found}")
    return str(SYSTEM_PYTHON)


def _make(folder: Path, base: str) -> None:
    """The environment, by our own pip: a Debian without python3-venv has no ensurepip."""
    _run([base, "-m", "venv", "--without-pip", str(folder)])
    (own,) = folder.glob("lib/python3*/site-packages")
    (own / "shared.pth").write_text(_shared() + "\n")


def _install(python: Path, pins: Path, constraints: Path) -> None:
    constraints.write_text(without(pins.read_text(), (ROOT / "constraints.txt").read_text()))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "-c", str(constraints), "-r", str(pins)]
    _run(command)


def without(pins: str, constraints: str) -> str:
    """Our constraints less those of packages that a peer pins itself (PyTriton: numpy below 2)."""
    own = {_package(line) for line in pins.splitlines()}
    return "".join(f"{line}\n" for line in constraints.splitlines() if _package(line) not in own)


def _package(line: str) -> str:
    """Name of a pin: `ray[serve]==2.60.0` -> ray; a comment or an empty line gives itself."""
    return re.split(r"[=<>\[; ]", line, maxsplit=1)[0].lower() or line


def _run(command: list[str]) -> str:
    what = " ".join([Path(command[0]).name, *command[1:3]])
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_S, check=True, cwd=ROOT
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout).strip().splitlines()[-1:]
        raise NotInstalledError(f"{what}: {' '.join(last)}") from error
    except subprocess.TimeoutExpired as error:
        raise NotInstalledError(f"{what}: not within {INSTALL_S:g} s") from error
    return done.stdout
