"""Grad-CAM++ of one frame, on request: asked of a process of its own.

Owns that process: started when somebody asks, ended when nobody does for IDLE_S or when an answer takes too
long; one question at a time for all pages. The network runs in explain_worker.py, at the lowest priority and
on one thread: the stream must not notice. Imports no torch.
"""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, Final

import numpy.typing as npt

from models.manifest import BundleError, read_manifest
from streamer.dashboard.frames import read_frame, write_frame
from streamer.plan import StageSpec
from streamer.versions import current_version

ANSWER_S: Final = 90.0  # at the lowest priority importing torch may take a minute; then a frame some 100 ms
IDLE_S: Final = 60.0  # its 400 MB are given back after this

Answer = dict[str, Any]


class Explainer:
    """The process, and who may ask it."""

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._timer: threading.Timer | None = None

    def explain(self, spec: StageSpec, raw: npt.NDArray[Any], wanted: str) -> Answer:
        """`map`: where the network looked for a class, float32 0..1 of the shape of `raw`; or why not.

        Waits for at most ANSWER_S; refuses while another page waits.
        """
        if not self._busy.acquire(blocking=False):
            return {"ok": False, "text": "The network is asked by another page; try again in a moment."}
        try:
            return self._explain(spec, raw, wanted)
        finally:
            self._busy.release()

    def _explain(self, spec: StageSpec, raw: npt.NDArray[Any], wanted: str) -> Answer:
        bundle = _bundle_with(spec, wanted)
        if bundle is None:
            return {"ok": False, "text": "No bundle of this stream has this class."}
        question = {"bundle": str(bundle), "class": wanted}
        began_s = time.monotonic()
        told, heat = self._ask(question, raw)
        if heat is None:
            return {"ok": False, "text": str(told.get("error", "The network gave no answer in time."))[:500]}
        words = f"Where {told['bundle']} looked for {wanted}, {time.monotonic() - began_s:.1f} s"
        return {"ok": True, "text": words, "map": heat}

    def _ask(self, question: dict[str, Any], raw: npt.NDArray[Any]) -> tuple[dict[str, Any], Any]:
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise OSError("the process has no pipes")
        limit = threading.Timer(ANSWER_S, process.kill)
        limit.start()
        try:
            write_frame(process.stdin, question, raw)
            return read_frame(process.stdout)
        except (OSError, EOFError, ValueError):
            self.close()
            return {}, None
        finally:
            limit.cancel()
            self._end_later()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._timer is not None:
            self._timer.cancel()
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "streamer.dashboard.explain_worker"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._process

    def _end_later(self) -> None:
        self._timer = threading.Timer(IDLE_S, self._end_idle)
        self._timer.daemon = True
        self._timer.start()

    def _end_idle(self) -> None:
        if self._busy.acquire(blocking=False):  # somebody who asks now starts the clock anew
            try:
                self.close()
            finally:
                self._busy.release()

    def close(self) -> None:
        """End the process, if there is one."""
        if self._timer is not None:
            self._timer.cancel()
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            _close(pipe)


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except OSError:  # what was not written is lost with the process
        pass


def _bundle_with(spec: StageSpec, wanted: str) -> Path | None:
    """The folder of the running bundle that has the class."""
    for ref in current_version(spec)[1].bundles:
        try:
            manifest = read_manifest(Path(ref.path))
        except (BundleError, OSError):
            continue
        if any(wanted in column.labels for column in manifest.columns if column.name == "p"):
            return Path(ref.path)
    return None
