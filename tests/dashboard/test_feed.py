"""The feed on a real stream: stages in this thread, its own thread, real sockets and memory."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
from core_support import POINTS, Line, config_text, drain, line, make_bundle, message, take, until

from streamer.control import ControlServer
from streamer.dashboard import feed as feed_module
from streamer.dashboard.feed import Feed
from streamer.errors import ConfigError

FIRST_TRAINS = count(1)
ROUTES = """
[[stream.route]]
name = "high"
when = "target.x > 0"
[[stream.route]]
name = "some"
one_in = 2
"""


def write_settings(folder: Path, stream: Line) -> None:
    """The folder as the run leaves it for the page, which gets a descriptor of its own."""
    spec = stream.spec.model_copy(update={"fd": os.dup(stream.spec.fd)})
    (folder / "s.json").write_text(spec.model_dump_json())
    settings = {"token": "t", "control": f"ipc://{folder}/control", "address": "127.0.0.1", "port": 0}
    (folder / "dashboard.json").write_text(json.dumps(settings | {"streams": ["s"]}))


@contextmanager
def fed(folder: Path, routes: str = ROUTES) -> Iterator[tuple[Line, Feed]]:
    bundle = make_bundle(folder / "tiny")
    with line(folder, config_text([bundle], routes)) as stream:
        write_settings(folder, stream)
        stages = stream.ingest(), stream.inference(), stream.sink()
        with Feed(folder) as feed:
            until(lambda: _subscribed(stages, feed))
            yield stream, feed


def _subscribed(stages: Any, feed: Feed) -> bool:
    """Send trains until one arrives: a subscriber misses what was sent before it was there."""
    take(stages[0], message(next(FIRST_TRAINS), 1))
    drain(*stages)
    threading.Event().wait(0.02)
    return feed.streams["s"].link().last_block_age_s is not None


def test_every_event_that_is_published_is_counted_and_sampled(tmp_path: Path) -> None:
    with fed(tmp_path) as (stream, feed):
        state = feed.streams["s"]
        for train in range(10_000, 10_020):
            take(stream.stages[0], message(train, 7))
            drain(*stream.stages)
        until(lambda: np.count_nonzero(state.sample.table()["train_id"] >= 10_000) == 140)
        total, newest = state.sample.since(0)
        newest = {name: column[-140:] for name, column in newest.items()}
        assert state.sample.share == 1.0
        assert newest["train_id"].tolist() == np.repeat(np.arange(10_000, 10_020), 7).tolist()
        assert newest["latent"].shape == (140, 2)
        assert state.link().bad_messages == 0
        until(lambda: state.history.seconds().received.sum() == total)
        seconds = state.history.seconds()
        kept = sum(counts.sum() for counts in seconds.kept.values())
        assert kept + seconds.vetoed.sum() == total


def test_pictures_are_the_frames_of_their_events(tmp_path: Path) -> None:
    with fed(tmp_path) as (stream, feed):
        gallery = feed.streams["s"].gallery
        frames = np.arange(5 * POINTS, dtype=np.float32).reshape(5, POINTS)
        take(stream.stages[0], message(50_000, 5, frames))
        drain(*stream.stages)
        until(lambda: any(train == 50_000 for train, _ in gallery.ids()))
        shots = [gallery.of(train, pulse) for train, pulse in gallery.ids() if train == 50_000]
        for shot in shots:
            assert shot is not None
            assert np.array_equal(shot.picture, frames[shot.pulse_id])
            assert shot.full is shot.picture
            assert shot.verdict in ("keep:high", "keep:some", "veto")
            assert set(shot.columns) == {"latent", "target"}


def _writable() -> int:
    """How many descriptors and mappings of the streams' memory can be written through in this process."""
    found = 0
    for fd in Path("/proc/self/fd").iterdir():
        try:
            if "/memfd:test" in os.readlink(fd):
                flags = Path(f"/proc/self/fdinfo/{fd.name}").read_text().split("flags:")[1].split()[0]
                found += int(flags, 8) & os.O_ACCMODE != os.O_RDONLY
        except FileNotFoundError:  # the one that lists them
            continue
    maps = Path("/proc/self/maps").read_text().splitlines()
    return found + sum("/memfd:test" in entry and "w" in entry.split()[1] for entry in maps)


def test_the_page_cannot_write_into_the_stream(tmp_path: Path) -> None:
    with line(tmp_path, config_text([make_bundle(tmp_path / "tiny")], ROUTES)) as stream:
        before = _writable()
        write_settings(tmp_path, stream)
        assert _writable() == before + 1
        with Feed(tmp_path) as feed:
            until(lambda: _writable() == before)
            assert feed.streams["s"].link().pictures == ""


def test_without_memory_and_control_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "ANSWER_S", 0.2)
    bundle = make_bundle(tmp_path / "tiny")
    with line(tmp_path, config_text([bundle], ROUTES)) as stream:
        write_settings(tmp_path, stream)
        spec = json.loads((tmp_path / "s.json").read_text())
        os.close(spec["fd"])
        (tmp_path / "s.json").write_text(json.dumps(spec | {"fd": 999}))
        stages = stream.ingest(), stream.inference(), stream.sink()
        with Feed(tmp_path) as feed:
            state = feed.streams["s"]
            until(lambda: _subscribed(stages, feed))
            assert "descriptor 999" in state.link().pictures
            until(lambda: state.status().error, 10)
            assert state.status().age_s is None
            assert "no answer" in state.status().error
            with pytest.raises(TimeoutError, match="no running pipeline answers"):
                feed._request({"command": "status"}, 0.1)


def test_what_the_run_answers_is_in_the_state(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    report = {
        "run": 7,
        "streams": {"s": {"received": 3}},
        "steering": {"s": {"version": 1, "clusters": {}, "routes": [], "store": True}},
        "stages": {"s": {"ingest": {"up": True}}},
    }

    def steer(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request)
        if "cluster" in request["change"]:
            raise ConfigError("no such cluster")
        return {"steering": {"version": 2}}

    commands = {
        "status": lambda _: {"report": report},
        "steer": steer,
        "journal": lambda _: {"entries": [{"who": "dashboard"}]},
    }
    with fed(tmp_path) as (_, feed), ControlServer(f"ipc://{tmp_path}/control", commands):
        state = feed.streams["s"]
        until(lambda: state.status().age_s is not None)
        status = state.status()
        assert status.report["received"] == 3
        assert status.steering["version"] == 1
        assert status.stages["ingest"]["up"]
        assert dict(status.run) == {"run": 7}
        assert feed.steer("s", {"store": False}) == {"version": 2}
        assert asked == [{"command": "steer", "stream": "s", "change": {"store": False}, "by": "dashboard"}]
        with pytest.raises(ConfigError, match="no such cluster"):
            feed.steer("s", {"cluster": "x", "number": 1})
        assert feed.journal() == [{"who": "dashboard"}]
    assert "token" not in repr(feed.settings)


def test_a_bad_message_costs_itself(tmp_path: Path) -> None:
    """Another publisher on the address of the results: nothing of it is believed that does not fit."""
    bundle = make_bundle(tmp_path / "tiny")
    with line(tmp_path, config_text([bundle], ROUTES)) as stream:
        write_settings(tmp_path, stream)
        with Feed(tmp_path) as feed, zmq.Context() as context, context.socket(zmq.PUB) as hostile:
            hostile.set(zmq.LINGER, 0)
            hostile.bind(stream.spec.settings.publish.results)
            state = feed.streams["s"]

            def counted() -> bool:
                hostile.send_multipart([b"results.s", b"\xff" * 100])
                hostile.send_multipart([b"results.s", *strange()])
                threading.Event().wait(0.02)
                return state.link().bad_messages > 4

            until(counted)
            assert state.sample.since(0)[0] == 0
            assert state.link().last_block_age_s is None


def strange() -> list[bytes]:
    """Results that can be decoded, but are of another stream's columns."""
    ids = np.zeros(1, np.uint64)
    columns = [{"name": name, "dtype": "<u8", "shape": [1]} for name in ("train_id", "pulse_id")]
    header = {"version": 1, "run": 1, "stream": "s", "train_id": 0, "n": 1, "publisher": "x", "sequence": 0}
    header |= {"received_at": 0.0, "bundles": [], "rules_sha256": "", "routes": ["<b>"], "columns": columns}
    return [msgpack.packb(header), ids.tobytes(), ids.tobytes()]


def test_a_folder_that_is_not_of_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dashboard\.json cannot be read"):
        Feed(tmp_path)


def test_a_mistake_in_the_folder_does_not_show_the_token(tmp_path: Path) -> None:
    (tmp_path / "dashboard.json").write_text('{"token": "secret", "control": "ipc:///x", "more": 1}')
    with pytest.raises(ConfigError, match="streams: Field required") as caught:
        Feed(tmp_path)
    assert "secret" not in str(caught.value)
