"""The control socket of a running pipeline: what it does, and what a person changes in it.

Owns the protocol: one msgpack map asked, one answered, over an ipc socket in a folder that only its user can
open. Requests: {"command": "status"}; {"command": "swap", "stream": NAME, "bundle": NAME OR FOLDER};
{"command": "steer", "stream": NAME, "changes": [as in `steering`]}; {"command": "journal"}. Who changes
something says who it is in "by". Answers: {"ok": true, ...} or {"ok": false, "error": TEXT}.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Self

import msgpack  # type: ignore[import-untyped]  # ships no types
import zmq

from streamer import sockets
from streamer.errors import ConfigError, StreamerError

log = logging.getLogger(__name__)

# A bundle must be read, checked and warmed up within this time.
SWAP_S = 120.0
# Rules are compiled between two batches.
STEER_S = 10.0
# Who asks waits longer than the run: one change waits for another.
PATIENCE_S = SWAP_S + STEER_S + 5
SLICE_MS = 100
# While a change is under way: a person waits for its answer.
BUSY_SLICE_MS = 20
# More wait for one another than anybody types.
MAX_CHANGES = 16

Answer = dict[str, Any]


class ControlServer:
    """Answers in a thread of its own.

    `commands` maps a command to the function that takes the request and gives the answer. Those named in
    `changes` may take long: they are done one after the other in another thread, and the others answered
    meanwhile.
    """

    def __init__(
        self,
        endpoint: str,
        commands: Mapping[str, Callable[[Answer], Answer]],
        changes: Collection[str] = (),
    ) -> None:
        self._commands, self._changes = commands, frozenset(changes)
        self._stopped = threading.Event()
        self._lock = _lock(endpoint)
        self._context = zmq.Context()
        try:
            self._socket = sockets.reply_socket(self._context, endpoint, zmq.ROUTER)
        except ConfigError:
            self._context.term()
            self._lock.close()
            raise
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="changes")
        self._under_way: dict[Future[Answer], list[bytes]] = {}
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            if self._socket.poll(BUSY_SLICE_MS if self._under_way else SLICE_MS):
                self._take(self._socket.recv_multipart())
            for done in [future for future in self._under_way if future.done()]:
                self._send(self._under_way.pop(done), done.result())

    def _take(self, parts: list[bytes]) -> None:
        """Answer one request, or begin with it. What is not from a REQ socket has nobody to answer to."""
        if len(parts) < 3 or parts[1]:
            return
        to, request = parts[:2], sockets.parse_request(parts[2:])
        if str(request.get("command")) not in self._changes:
            self._send(to, self._answer(request))
        elif len(self._under_way) >= MAX_CHANGES:
            self._send(to, {"ok": False, "error": f"{MAX_CHANGES} changes are under way; wait for them"})
        else:
            self._under_way[self._worker.submit(self._answer, request)] = to

    def _send(self, to: list[bytes], answer: Answer) -> None:
        self._socket.send_multipart([*to, msgpack.packb(answer)])

    def _answer(self, request: Answer) -> Answer:
        command = request.get("command")
        if not isinstance(command, str) or command not in self._commands:
            return {
                "ok": False,
                "error": f"unknown command {str(command)[:40]!r}; known: {list(self._commands)}",
            }
        try:
            return {"ok": True} | self._commands[command](request)
        except (StreamerError, TimeoutError) as error:
            return {"ok": False, "error": str(error)}
        except Exception as error:  # one strange request must not cost the run its control
            log.exception("control: %s failed", command)
            return {"ok": False, "error": f"{command} failed: {error!r}; the log of the run says where"}

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=SWAP_S + 1)
        self._worker.shutdown(cancel_futures=True)
        self._socket.close()
        self._context.term()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lock(endpoint: str) -> IO[bytes]:
    """Hold the address: ZeroMQ lets an ipc address be taken from its owner. Raises ConfigError if one has it.

    The kernel drops the lock with the process, however it ends.
    """
    path = _private_folder(endpoint) / (Path(endpoint).name + ".lock")
    file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ConfigError(
            f"another run has the control socket {endpoint}; stop it, or set another `control` here"
        ) from error
    return file


def check_free(endpoint: str) -> None:
    """Raises ConfigError if another run has the address: better known before a long preparation."""
    _lock(endpoint).close()


def _private_folder(endpoint: str) -> Path:
    """Make the folder of an ipc address, for its user only. Raises ConfigError if it is another's."""
    if not endpoint.startswith("ipc://"):
        raise ConfigError(f"control: expected an ipc:// address, got {endpoint}: it has no authentication")
    folder = Path(endpoint.removeprefix("ipc://")).parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"control: cannot make the folder {folder}: {error.strerror}") from error
    if any(path.stat().st_uid not in (0, os.getuid()) for path in (folder, folder.parent)):
        raise ConfigError(f"control: {folder} belongs to another user; set `control` in the configuration")
    return folder


def token_file(endpoint: str) -> Path:
    """Where the token of the live page lies while a run holds `endpoint`."""
    return Path(endpoint.removeprefix("ipc://") + ".token")


def keep_token(endpoint: str, token: str) -> Path:
    """Write the token of the live page where only this user can read it."""
    path = token_file(endpoint)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token + "\n")
    return path


def forward(address: str, request: Answer, limit_s: float, alive: Callable[[], bool]) -> Answer:
    """Ask a stream's inference for another version and wait while it is `alive`. Raises TimeoutError."""
    with zmq.Context() as context:
        return sockets.ask(context, address, request, limit_s, alive)


def request(endpoint: str, command: Answer, timeout_s: float = 5.0) -> Answer:
    """Ask a running pipeline. Raises ConfigError if none answers or it refuses."""
    with zmq.Context() as context:
        try:
            answer = sockets.ask(context, endpoint, command, timeout_s)
        except TimeoutError as error:
            raise ConfigError(
                f"no running pipeline answers: {error}. Is one running, as this user?"
            ) from error
    if not answer.get("ok"):
        raise ConfigError(str(answer.get("error", "refused without a reason")))
    return answer
